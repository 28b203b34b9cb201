"""Tests without a GPU: `python3 -m unittest discover --start-directory bench`."""

import contextlib
import io
import json
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import compare

# A program that speaks the protocol: a time a line, "-" for a case that it cannot do, and then it ends.
STUB = """
import json, sys
times = sys.argv[1:]
print(json.dumps({"ready": True, "device": "a GPU", "driver": "1"}), flush=True)
for time, line in zip(times, sys.stdin):
    name, regime = line.split()
    answer = {"name": name, "error": "too large"} if time == "-" else {"name": name, "us": float(time)}
    print(json.dumps(answer), flush=True)
"""

CASE = "dense-b4-h128-q1-k8192"


def stub(*times):
    return [sys.executable, "-c", STUB, *map(str, times)]


def run(programs, *arguments):
    """Runs the comparison with stubs for programs; its output, errors and records."""
    out, errors = io.StringIO(), io.StringIO()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "records.jsonl"
        argv = ["compare.py", "--json", str(file), *arguments]
        with (
            mock.patch.object(compare, "commands", lambda *_: programs),
            mock.patch.object(sys, "argv", argv),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(errors),
        ):
            compare.main()
        records = [json.loads(line) for line in file.read_text().splitlines()]
    return out.getvalue(), errors.getvalue(), records


class Arithmetic(unittest.TestCase):
    def test_formulas_give_numbers_worked_out_by_hand(self):
        cases = compare.cases.known()
        self.assertEqual(len(cases), 14 + 13 + 6 + 1)
        case = cases["dense-b128-h128-q1-k4096"]
        # 2 * 128 heads * 128 * 4096 keys * 1088; (128 * 4096 * 576 + 128 * 128 * 1088) * 2 bytes.
        self.assertEqual(compare.cases.flop(case), 146_028_888_064)
        self.assertEqual(compare.cases.moved_bytes(case), 639_631_360)
        case = cases["dense-b1-h16-q1-k131072"]
        # 2 * 16 * 131072 * 1088; (131072 * 576 + 16 * 1088) * 2.
        self.assertEqual(compare.cases.flop(case), 4_563_402_752)
        self.assertEqual(compare.cases.moved_bytes(case), 151_029_760)
        case = cases["sparse-v32-b128-h128-q2-topk2048"]
        # 2 * 128 heads * 128 * 2 * 2048 tokens * 1088; 524288 * 656 + 128 * 2 * 128 * 1088 * 2 bytes.
        self.assertEqual(compare.cases.flop(case), 146_028_888_064)
        self.assertEqual(compare.cases.moved_bytes(case), 415_236_096)
        case = cases["sparse-m1-b2-h64-q2-topk128+512"]
        # 2 * 64 heads * 2 * 2 * 640 tokens * 1024; 2560 * 584 + 2 * 2 * 64 * 1024 * 2 bytes.
        self.assertEqual(compare.cases.flop(case), 335_544_320)
        self.assertEqual(compare.cases.moved_bytes(case), 2_019_328)
        case = cases["prefill-d512-h64-topk512-k8192"]
        # 2 * 64 heads * 4096 * 512 keys * 1024; (4096 * 512 * 512 + 4096 * 64 * 1024) * 2 bytes.
        self.assertEqual(compare.cases.flop(case), 274_877_906_944)
        self.assertEqual(compare.cases.moved_bytes(case), 2_684_354_560)
        varied = compare.cases.lengths(cases["dense-b128-h128-q2-k8192-varlen-causal"])
        self.assertEqual(varied[:4], [4096, 12_015, 11_742, 11_469])

    def test_a_ratio_has_the_spread_of_rounds(self):
        self.assertEqual(compare.ratio([2.0, 3.0, 8.0], [2.0, 1.0, 4.0]), (1.5, 1.0, 3.0))

    def test_the_better_peer_has_the_lower_median(self):
        rounds = {"oximla": [1.0], "FlashMLA": [3.0, 3.0, 3.0], "FlashAttention-3": [2.0, 2.0, 9.0]}
        self.assertEqual(compare.better_peer(rounds), "FlashAttention-3")
        self.assertIsNone(compare.better_peer({"oximla": [1.0]}))

    def test_means_are_geometric_and_over_what_was_compared(self):
        of_cases = [
            {"oximla": [1.0], "FlashMLA": [2.0], "FlashAttention-3": [4.0]},
            {"oximla": [1.0], "FlashMLA": [8.0]},
            {"FlashMLA": [100.0]},
        ]
        line = compare.summary("burst", of_cases)
        for part in ["FlashMLA 4.000 (2 cases)", "FlashAttention-3 4.000 (1 cases)", "better peer 4.000 (2 cases)"]:
            self.assertIn(part, line)


class Comparison(unittest.TestCase):
    def test_programs_take_turns_and_are_compared(self):
        # Rounds of both regimes: sustained, burst, sustained, burst.
        programs = {"oximla": stub(10, 20, 12, 20), "FlashMLA": stub(15, 10, 15, 30)}
        out, errors, records = run(programs, CASE, "--rounds", "2")
        self.assertEqual(errors, "")
        sustained = next(line for line in out.splitlines() if line.startswith(CASE))
        for part in ["sustained", " 11.0 ", " 15.0 ", "1.364 (1.250 to 1.500)"]:
            self.assertIn(part, sustained)
        self.assertIn("dense_decode, burst: FlashMLA 1.000 (1 cases)", out)
        self.assertEqual([record["program"] for record in records], ["oximla", "FlashMLA"] * 2)
        self.assertEqual([record["regime"] for record in records], ["sustained"] * 2 + ["burst"] * 2)
        first = records[0]
        self.assertEqual((first["us"], first["spread"], first["rounds"]), (11.0, [10.0, 12.0], 2))
        # 2 * 128 * 4 * 8192 * 1088 FLOP in 11 us.
        self.assertEqual((first["tflops"], first["device"]), (829.71, "a GPU"))

    def test_each_operation_has_means_of_its_standard_cases(self):
        names = [CASE, "sparse-m1-b2-h64-q2-topk128+512", "sparse-v32-b128-h16-q1-topk2048"]
        programs = {
            "oximla": stub(10, 10, 10),
            "FlashMLA": stub(20, 30, 90),
            "FlashAttention-3": stub(10, "-", "-"),
        }
        out, errors, records = run(programs, *names, "--rounds", "1", "--regime", "burst")
        self.assertIn("dense_decode, burst: FlashMLA 2.000 (1 cases), FlashAttention-3 1.000 (1 cases)", out)
        self.assertIn("sparse_decode, burst: FlashMLA 3.000 (1 cases), better peer 3.000 (1 cases)", out)
        self.assertEqual(errors.count("FlashAttention-3: too large"), 2)
        further = [record for record in records if record["name"] == names[2]]
        self.assertEqual([(record["program"], record["us"]) for record in further], [("oximla", 10), ("FlashMLA", 90)])

    def test_what_is_missing_or_fails_is_named_and_left_out(self):
        no_torch = 'print(\'{"error": "PyTorch is not installed"}\')'
        programs = {
            "oximla": stub(10, 10),
            "FlashMLA": [sys.executable, "-c", no_torch],
            "FlashAttention-3": stub("-"),
            "none": ["/nowhere/program"],
        }
        out, errors, records = run(programs, CASE, "--rounds", "1")
        self.assertIn("left out: FlashMLA: PyTorch is not installed", errors)
        self.assertIn("left out: none: ", errors)
        self.assertIn(f"left out of {CASE}: FlashAttention-3: too large", errors)
        self.assertEqual([record["program"] for record in records], ["oximla"] * 2)
        self.assertIn("nothing to compare", out)

    def test_a_program_that_stops_ends_its_part_alone(self):
        programs = {"oximla": stub(10, 10, 10, 10), "FlashMLA": stub(20)}
        _, errors, records = run(programs, CASE, "--rounds", "2", "--regime", "sustained")
        self.assertIn(f"left out of {CASE}: FlashMLA: it ", errors)
        self.assertEqual([(record["program"], record["rounds"]) for record in records], [("oximla", 2)])

    def test_without_programs_there_is_an_error(self):
        with self.assertRaisesRegex(SystemExit, "none of the programs"):
            run({"oximla": ["/nowhere/program"]}, CASE)


if __name__ == "__main__":
    unittest.main()
