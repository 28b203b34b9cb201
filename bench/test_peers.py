"""Tests of the peers' scripts with stand-ins for PyTorch and the peers."""

import contextlib
import io
import json
import lzma
import sys
import tempfile
import types
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

import cases  # noqa: E402
import flash_attention_3  # noqa: E402
import flashmla  # noqa: E402
import worker  # noqa: E402

SMALL = {"name": "small", "op": "dense_decode", "b": 2, "h_q": 4, "s_q": 2, "s_k": 300, "page": 64}

# Arguments of FlashAttention-3's operators, none of which has a default.
SCHEDULE_ARGUMENTS = """batch_size max_seqlen_q max_seqlen_k num_heads num_heads_k headdim headdim_v qkv_dtype seqused_k
    cu_seqlens_q cu_seqlens_k cu_seqlens_k_new seqused_q leftpad_k page_size max_seqlen_k_new is_causal window_size_left
    window_size_right has_softcap num_splits pack_gqa sm_margin"""
FORWARD_ARGUMENTS = """q k v k_new v_new q_v out cu_seqlens_q cu_seqlens_k cu_seqlens_k_new seqused_q seqused_k
    max_seqlen_q max_seqlen_k page_table kv_batch_idx leftpad_k rotary_cos rotary_sin seqlens_rotary q_descale k_descale
    v_descale softmax_scale is_causal window_size_left window_size_right softcap is_rotary_interleaved
    scheduler_metadata num_splits pack_gqa sm_margin s_aux cp_world_size cp_rank cp_tot_seqused_k"""


class Tensor:
    """A shape, and slices of its last dimension."""

    def __init__(self, *shape):
        self.shape = shape

    def __getitem__(self, index):
        return Tensor(*self.shape[:-1], len(range(self.shape[-1])[index[1]]))

    def view(self, *shape):
        return Tensor(*shape)

    def mul_(self, factor):
        return self

    zero_ = int = lambda self: self


class Gpu:
    """Enough of PyTorch, with a clock that advances by 3 ms a call where graphs are replayed."""

    bfloat16, int32, uint8 = "bfloat16", "int32", "uint8"

    def __init__(self):
        gpu, self.now, self.captured = self, 0.0, None

        class Graph:
            calls = 0

            def replay(self):
                gpu.now += 3.0 * self.calls

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.time = gpu.now

            def synchronize(self):
                pass

            def elapsed_time(self, end):
                return end.time - self.time

        @contextlib.contextmanager
        def capture(graph):
            gpu.captured = graph
            yield
            gpu.captured = None

        nothing = lambda *_: None  # noqa: E731
        self.cuda = types.SimpleNamespace(
            CUDAGraph=Graph, Event=Event, graph=capture, synchronize=nothing, empty_cache=nothing
        )
        self.cuda.get_device_name = lambda index: "a GPU"
        self.manual_seed = nothing

    def call(self, *arguments, **named):
        if self.captured:
            self.captured.calls += 1

    def randn(self, *shape, device, dtype):
        return Tensor(*shape)

    def empty(self, count, device, dtype):
        return Tensor(count)

    def randperm(self, count, device):
        return Tensor(count)

    def tensor(self, values, device, dtype):
        return Tensor(len(values))

    def arange(self, start, end, step, device, dtype):
        return Tensor(len(range(start, end, step)))


def run_worker(gpu):
    with mock.patch.object(worker, "driver_version", lambda: "13.0"):
        return worker.Worker("peer", gpu, lambda torch, case, inputs: gpu.call)


class Timing(unittest.TestCase):
    def test_a_call_takes_what_the_clock_says(self):
        with mock.patch.object(worker.time, "sleep") as sleep:
            peer = run_worker(Gpu())
            for regime in worker.REGIMES:
                record = peer.time(SMALL, regime)
                self.assertAlmostEqual(record["us"], 3000.0)
                self.assertEqual((record["program"], record["regime"], record["driver"]), ("peer", regime, "13.0"))
        self.assertEqual(sleep.call_count, worker.BURST_CALLS)

    def test_lines_are_answered_and_mistakes_named(self):
        out = io.StringIO()
        requests = io.StringIO("small burst\nsmall fast\nother burst\n")
        with (
            contextlib.redirect_stdout(out),
            mock.patch.object(sys, "stdin", requests),
            mock.patch.object(worker.time, "sleep"),
        ):
            worker.serve(run_worker(Gpu()), {"small": SMALL})
        ready, record, fast, other = [json.loads(line) for line in out.getvalue().splitlines()]
        self.assertEqual((ready["ready"], ready["device"]), (True, "a GPU"))
        self.assertAlmostEqual(record["us"], 3000.0)
        for answer in [fast, other]:
            self.assertIn("needed is a case's name and a regime", answer["error"])

    def test_page_tables_cover_the_longest_request(self):
        inputs = worker.Inputs(Gpu(), SMALL)
        # 300 keys, up to a multiple of 256, on pages of 64.
        self.assertEqual(inputs.block_table.shape, (2, 8))
        self.assertEqual(inputs.kv_cache.shape, (16, 64, 1, 576))
        self.assertEqual((inputs.q.shape, inputs.longest), ((2, 2, 4, 576), 300))


class Libraries(unittest.TestCase):
    def load(self, files, folder):
        """What is loaded from a folder with these files; PyTorch is a stand-in."""
        loaded = []
        torch = types.ModuleType("torch")
        torch.cuda = types.SimpleNamespace(is_available=lambda: True)
        torch.ops = types.SimpleNamespace(load_library=lambda path: loaded.append(Path(path).read_bytes()))
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        with mock.patch.dict(sys.modules, torch=torch):
            worker.load(Path(folder), "a.so")
        return loaded

    def test_libraries_may_be_compressed(self):
        with tempfile.TemporaryDirectory() as folder:
            self.assertEqual(self.load({"a.so.xz": lzma.compress(b"code")}, folder), [b"code"])
            self.assertEqual(self.load({"a.so": b"plain"}, folder), [b"plain"])

    def test_what_is_missing_is_named(self):
        with tempfile.TemporaryDirectory() as folder, self.assertRaisesRegex(worker.Missing, "fetch.py"):
            self.load({}, folder)
        with mock.patch.dict(sys.modules, torch=None), self.assertRaisesRegex(worker.Missing, "PyTorch"):
            worker.load(Path(), "a.so")


class Calls(unittest.TestCase):
    def test_flashmla_makes_its_schedule_once(self):
        given = []

        def dense_decode_fwd(*arguments):
            given.append(arguments[7:9])
            return "out", "lse", f"schedule {len(given)}", f"splits {len(given)}"

        ops = types.SimpleNamespace(dense_decode_fwd=dense_decode_fwd)
        call = flashmla.prepare(ops, Gpu(), SMALL, worker.Inputs(Gpu(), SMALL))
        for _ in range(3):
            call()
        self.assertEqual(given, [(None, None)] + [("schedule 1", "splits 1")] * 2)

    def test_flash_attention_gets_every_argument_and_parts_of_heads(self):
        given = {}
        ops = types.SimpleNamespace(
            get_scheduler_metadata=lambda **named: given.update(schedule=named),
            fwd=lambda **named: given.update(forward=named),
        )
        flash_attention_3.prepare(ops, Gpu(), SMALL, worker.Inputs(Gpu(), SMALL))()
        self.assertEqual(set(given["schedule"]), set(SCHEDULE_ARGUMENTS.split()))
        self.assertEqual(set(given["forward"]), set(FORWARD_ARGUMENTS.split()))
        shapes = [given["forward"][name].shape for name in ["q", "q_v", "k", "v", "cu_seqlens_q"]]
        self.assertEqual(shapes, [(4, 4, 64), (4, 4, 512), (16, 64, 1, 64), (16, 64, 1, 512), (3,)])


class Records(unittest.TestCase):
    def test_names_select_dense_cases_alone(self):
        found = list(cases.dense_cases(["b1-h128", "b4"]))
        self.assertEqual(found, ["dense-b4-h128-q1-k8192", "dense-b1-h128-q1-k65536"])
        with self.assertRaisesRegex(ValueError, "CASE is sparse"):
            cases.dense_cases(["sparse"])

    def test_numbers_have_five_digits(self):
        self.assertEqual([cases.significant(value) for value in [123.456789, 0.000123456]], [123.46, 0.00012346])


if __name__ == "__main__":
    unittest.main()
