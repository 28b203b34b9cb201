"""The cases of ../cases.json and ../further_cases.json: what a call has to compute and to move."""

import json
import statistics
from pathlib import Path

HEAD_DIM_V = 512
BYTES = 2  # of a bf16 element
LENGTH_STEP = 7919  # between lengths of varied requests

HEAD_DIM = 576  # elements of a query and of a key in dense decode
# Bytes of a cached token in sparse decode, by the elements of its key: V3.2's format and MODEL1's.
V32_HEAD_DIM, MODEL1_HEAD_DIM = 576, 512
TOKEN_BYTES = {V32_HEAD_DIM: 656, MODEL1_HEAD_DIM: 584}

# What the peers' programs time.
OPS = ["dense_decode", "sparse_decode", "sparse_prefill"]

FOLDER = Path(__file__).resolve().parent.parent
STANDARD = FOLDER / "cases.json"
FURTHER = FOLDER / "further_cases.json"


def known():
    """All cases by name, standard ones first."""
    return read(STANDARD) | read(FURTHER)


def select(parts=()):
    """The cases whose names contain one of `parts`, all standard ones without any, by name."""
    if not parts:
        return read(STANDARD)
    cases = known()
    for part in parts:
        if not any(part in name for name in cases):
            raise ValueError(f"CASE is {part}; needed is a part of the name of a case of {' or '.join(OPS)}")
    return {name: case for name, case in cases.items() if any(part in name for part in parts)}


def read(file):
    """The cases of a file that the peers' programs time, by name."""
    return {case["name"]: case for case in json.loads(file.read_text()) if case["op"] in OPS}


def head_dim(case):
    """Elements of a query and of a key."""
    return case.get("d", HEAD_DIM)


def lengths(case):
    """Keys of each request of dense decode."""
    keys, batch = case["s_k"], case["b"]
    if not case.get("varlen"):
        return [keys] * batch
    return [max(1, keys // 2 + request * LENGTH_STEP % keys) for request in range(batch)]


def keys(case):
    """Keys that the query tokens see or select: of dense decode each counts for every query token of its request."""
    if case["op"] == "dense_decode":
        return case["s_q"] * sum(lengths(case))
    return case.get("b", 1) * case["s_q"] * (case["topk"] + case.get("extra_topk", 0))


def flop(case):
    """Floating-point operations of a call, masked ones included."""
    return 2 * case["h_q"] * keys(case) * (head_dim(case) + HEAD_DIM_V)


def moved_bytes(case):
    """Bytes that a call has to move: keys, queries and outputs once each; a selected key once for each query token."""
    if case["op"] == "dense_decode":
        of_keys = sum(lengths(case)) * HEAD_DIM * BYTES
    elif case["op"] == "sparse_decode":
        of_keys = keys(case) * TOKEN_BYTES[case["d"]]
    else:
        of_keys = keys(case) * case["d"] * BYTES
    rows = case.get("b", 1) * case["s_q"] * case["h_q"]
    return of_keys + rows * (head_dim(case) + HEAD_DIM_V) * BYTES


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
