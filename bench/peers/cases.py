"""The standard cases of ../cases.json: lengths, and what a call has to compute and to move."""

import json
import statistics
from pathlib import Path

HEAD_DIM = 576
HEAD_DIM_V = 512
BYTES = 2  # of an element
LENGTH_STEP = 7919  # between lengths of varied requests

STANDARD = Path(__file__).resolve().parent.parent / "cases.json"


def dense_cases(parts=(), path=STANDARD):
    """The dense decode cases whose names contain one of `parts`, all of them without any, by name."""
    cases = [case for case in json.loads(Path(path).read_text()) if case["op"] == "dense_decode"]
    for part in parts:
        if not any(part in case["name"] for case in cases):
            raise ValueError(f"CASE is {part}; needed is a part of the name of a dense decode case")
    wanted = [case for case in cases if not parts or any(part in case["name"] for part in parts)]
    return {case["name"]: case for case in wanted}


def lengths(case):
    """Keys of each request."""
    keys, batch = case["s_k"], case["b"]
    if not case.get("varlen"):
        return [keys] * batch
    return [max(1, keys // 2 + request * LENGTH_STEP % keys) for request in range(batch)]


def flop(case):
    """Floating-point operations of a call, masked ones included."""
    return 2 * case["s_q"] * case["h_q"] * sum(lengths(case)) * (HEAD_DIM + HEAD_DIM_V)


def moved_bytes(case):
    """Bytes that a call has to move: keys, queries and outputs once each."""
    rows = case["b"] * case["s_q"] * case["h_q"]
    return (sum(lengths(case)) * HEAD_DIM + rows * (HEAD_DIM + HEAD_DIM_V)) * BYTES


def record(program, case, regime, rounds, device, driver):
    """A record as `oximla bench --json` prints them, of the microseconds that each round took."""
    us = statistics.median(rounds)
    return {
        "name": case["name"],
        "program": program,
        "op": case["op"],
        "regime": regime,
        "us": significant(us),
        "tflops": significant(flop(case) / us * 1e-6),
        "gbps": significant(moved_bytes(case) / us * 1e-3),
        "spread": [significant(min(rounds)), significant(max(rounds))],
        "rounds": len(rounds),
        "device": device,
        "driver": driver,
    }


def significant(value):
    """The value to five digits: more than measurements have."""
    return float(f"{value:.5g}")
