"""What the peers' programs share: an extension's operators, timing, and the command line.

Measurements are those of `oximla bench`, with the same numbers of calls and the same pauses, so that either side can
be checked against the other: cli/src/bench/timing.rs and cuda/graphs.rs.
"""

import argparse
import ctypes
import functools
import json
import lzma
import statistics
import sys
import tempfile
import time
from pathlib import Path

import cases
import inputs

REGIMES = ["sustained", "burst"]
GRAPH_CALLS = 10  # in the graph of the sustained regime
WARM_UP = 0.1  # seconds
SUSTAINED = 0.25  # seconds
SUSTAINED_SAMPLES = (3, 500)
BURST_CALLS = 10
BURST_GAP = 0.01  # seconds
# Written before each call of the burst regime: pushes the inputs out of the L2 cache, as other layers of a model do, and
# takes longer than the host's part of the launch.
FLUSHED_BYTES = 128 << 20

LIBRARIES = Path(__file__).resolve().parent / "lib"


class Missing(Exception):
    """Something that the program needs is not there."""


class Timer:
    """Times a call by CUDA graphs between events."""

    def __init__(self, torch, call):
        self.torch = torch
        # Holds the tensors, which graphs know by address only.
        self.call = call
        self.flushed = torch.empty(FLUSHED_BYTES, device="cuda", dtype=torch.uint8)
        # What a program does only once happens before the graphs are captured.
        for _ in range(2):
            call()
        torch.cuda.synchronize()
        self.one = self._capture(1)
        self.ten = self._capture(GRAPH_CALLS)

    def microseconds(self, regime):
        """Median time of a call."""
        return {"sustained": self._sustained, "burst": self._burst}[regime]()

    def _capture(self, calls):
        graph = self.torch.cuda.CUDAGraph()
        with self.torch.cuda.graph(graph):
            for _ in range(calls):
                self.call()
        return graph

    def _mark(self):
        event = self.torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _replay(self, graph):
        """Seconds that a graph takes on its own."""
        begin = self._mark()
        graph.replay()
        end = self._mark()
        end.synchronize()
        return begin.elapsed_time(end) * 1e-3

    def _sustained(self):
        estimate = self._replay(self.ten)
        least, most = SUSTAINED_SAMPLES
        for _ in range(min(most, int(WARM_UP / estimate))):
            self.ten.replay()
        marks = [self._mark()]
        for _ in range(min(most, max(least, int(SUSTAINED / estimate)))):
            self.ten.replay()
            marks.append(self._mark())
        marks[-1].synchronize()
        milliseconds = [begin.elapsed_time(end) for begin, end in zip(marks, marks[1:])]
        return statistics.median(milliseconds) * 1e3 / GRAPH_CALLS

    def _burst(self):
        seconds = []
        for _ in range(BURST_CALLS):
            time.sleep(BURST_GAP)
            self.flushed.zero_()
            seconds.append(self._replay(self.one))
        return statistics.median(seconds) * 1e6


class Worker:
    """Times one case after another; a case's tensors stay until another is asked for.

    `prepare` has a function `(torch, case, inputs)` for each operation, which returns a function that makes one call.
    """

    def __init__(self, program, torch, prepare):
        self.program, self.torch, self.prepare = program, torch, prepare
        self.device = torch.cuda.get_device_name(0)
        self.driver = driver_version()
        self.name = self.timer = None

    def time(self, case, regime):
        """The record of one round."""
        return cases.record(self.program, case, regime, [self._time(case, regime)], self.device, self.driver)

    def rounds(self, case, regime, count):
        """The record of several rounds."""
        rounds = [self._time(case, regime) for _ in range(count)]
        return cases.record(self.program, case, regime, rounds, self.device, self.driver)

    def _time(self, case, regime):
        if self.name != case["name"]:
            if case["op"] not in self.prepare:
                raise ValueError(f"{self.program} has no {case['op']}")
            self.name = self.timer = None
            self.torch.cuda.empty_cache()
            prepare, draw = self.prepare[case["op"]], inputs.OF_OPS[case["op"]]
            self.timer = Timer(self.torch, prepare(self.torch, case, draw(self.torch, case)))
            self.name = case["name"]
        return self.timer.microseconds(regime)


def main(program, library, namespace, prepare):
    """Runs a peer's program.

    `library` is the file that defines the operators `torch.ops.<namespace>`, and `prepare` has a function
    `(ops, torch, case, inputs)` for each operation, which returns a function that makes one call.
    """
    parser = argparse.ArgumentParser(description=f"Times {program} on the standard cases of {' and '.join(prepare)}.")
    parser.add_argument("cases", metavar="CASE", nargs="*", help="parts of names; all standard cases without any")
    parser.add_argument("--libraries", type=Path, default=LIBRARIES, help=f"folder with {library}[.xz]")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each case and regime")
    parser.add_argument("--interactive", action="store_true", help="time what is asked for on standard input")
    options = parser.parse_args()
    try:
        wanted = cases.select(options.cases)
        torch = load(options.libraries, library)
        ops = getattr(torch.ops, namespace)
        bound = {op: functools.partial(of_op, ops) for op, of_op in prepare.items()}
        worker = Worker(program, torch, bound)
    except (Missing, ValueError) as error:
        if options.interactive:
            emit({"program": program, "error": str(error)})
            sys.exit(1)
        sys.exit(f"error: {error}")
    if options.interactive:
        serve(worker, cases.known())
        return
    for case in wanted.values():
        if case["op"] not in prepare:
            continue
        for regime in REGIMES:
            emit(worker.rounds(case, regime, max(1, options.rounds)))


def load(folder, library):
    """PyTorch, with the operators of an extension that may be compressed."""
    try:
        import torch
    except ImportError as error:
        raise Missing(f"PyTorch is not installed ({error}); needed is version 2.11") from error
    if not torch.cuda.is_available():
        raise Missing("PyTorch finds no GPU")
    plain, compressed = folder / library, folder / f"{library}.xz"
    try:
        if plain.exists():
            torch.ops.load_library(str(plain))
        elif compressed.exists():
            with tempfile.TemporaryDirectory() as unpacked:
                file = Path(unpacked) / library
                file.write_bytes(lzma.decompress(compressed.read_bytes()))
                torch.ops.load_library(str(file))
        else:
            raise Missing(f"{folder} has neither {library} nor {library}.xz; bench/peers/fetch.py gets them")
    except OSError as error:
        raise Missing(f"{library} cannot be loaded with PyTorch {torch.__version__}: {error}") from error
    return torch


def driver_version():
    """The CUDA version of the driver, as `oximla` tells it."""
    version = ctypes.c_int()
    ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def serve(worker, known):
    """Answers lines of a case and a regime, as `oximla bench --interactive` does."""
    emit({"ready": True, "program": worker.program, "device": worker.device, "driver": worker.driver})
    for line in sys.stdin:
        name, _, regime = line.strip().partition(" ")
        try:
            if name not in known or regime not in REGIMES:
                raise ValueError(f"the request is {line!r}; needed is a case's name and a regime")
            emit(worker.time(known[name], regime))
        except (RuntimeError, ValueError) as error:
            worker.name = worker.timer = None
            emit({"name": name, "error": str(error)})


def emit(value):
    """Prints a JSON object on a line of its own."""
    print(json.dumps(value), flush=True)
