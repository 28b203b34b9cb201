#!/usr/bin/env python3
"""Times oximla and its peers in turn on one GPU: `python3 bench/compare.py [CASE ...]`.

Each program runs in a process of its own that answers lines on its standard input (`oximla bench --interactive`). In
every round each program times a case once, and the next round begins with another program, so that clocks and heat are
the same for all. A ratio is the time of a peer by ours: more than 1 means that ours is faster.
"""

import argparse
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import threading
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))

import cases  # noqa: E402

REGIMES = ["sustained", "burst"]
OURS = "oximla"
PEERS = {"FlashMLA": "flashmla.py", "FlashAttention-3": "flash_attention_3.py"}
# Beside this folder in a bundle, in a clone's target folder.
PROGRAMS = [HERE.parent / "oximla", HERE.parent / "target" / "release" / "oximla"]
ANSWER_LIMIT = 120  # seconds, of which the start of PyTorch may take many


class WorkerError(Exception):
    """A program that is not there, or stopped."""


class Worker:
    """A program that times a case when it is told to."""

    def __init__(self, name, command):
        self.name = name
        try:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        except OSError as error:
            raise WorkerError(str(error)) from error
        self.device = self.driver = None

    def wait_until_ready(self):
        """Waits for the first line, so that programs can start side by side."""
        ready = self._read()
        if "error" in ready:
            raise WorkerError(ready["error"])
        self.device, self.driver = ready["device"], ready["driver"]

    def microseconds(self, case, regime):
        """The time of one round; an error's text where the program cannot do it."""
        try:
            self.process.stdin.write(f"{case} {regime}\n")
            self.process.stdin.flush()
        except OSError as error:
            raise WorkerError(f"it has ended: {error}") from error
        answer = self._read()
        return answer.get("us", answer.get("error"))

    def close(self):
        """Ends the program, which may have ended by itself."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def _read(self):
        limit = threading.Timer(ANSWER_LIMIT, self.process.kill)
        limit.start()
        line = self.process.stdout.readline()
        limit.cancel()
        try:
            return json.loads(line)
        except json.JSONDecodeError as error:
            reason = f"it answered {line!r}" if line else f"it ended or took more than {ANSWER_LIMIT} s to answer"
            raise WorkerError(reason) from error


def main():
    parser = argparse.ArgumentParser(description="Times oximla and its peers in turn on the standard cases that they share.")
    parser.add_argument("cases", metavar="CASE", nargs="*", help="parts of names; all standard cases without any")
    parser.add_argument("--oximla", type=Path, help="the program; without it, the bundle's or the clone's")
    parser.add_argument("--libraries", type=Path, default=HERE / "peers" / "lib", help="the peers' operators")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--regime", choices=REGIMES, action="append", help="both without it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write records, one JSON object a line")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}; needed is at least 1")
    try:
        wanted = cases.select(options.cases)
    except ValueError as error:
        parser.error(str(error))
    standard = cases.read(cases.STANDARD)
    workers = start(commands(options.oximla or find_oximla(), options.libraries))
    if not workers:
        sys.exit("error: none of the programs can be run")
    print(f"on {workers[0].device}, {options.rounds} rounds, microseconds; ratio: peer by oximla (least to most)")
    regimes = options.regime or REGIMES
    records, results = [], {}
    print(header([worker.name for worker in workers]))
    try:
        for case in wanted.values():
            times = measure(case["name"], regimes, options.rounds, workers)
            for regime in regimes:
                rounds = times[regime]
                # Others are chosen for what one program is bad at, and would tilt the means.
                if case["name"] in standard:
                    results.setdefault((case["op"], regime), []).append(rounds)
                print(row(case["name"], regime, rounds, [worker.name for worker in workers]), flush=True)
                records += [
                    cases.record(worker.name, case, regime, rounds[worker.name], worker.device, worker.driver)
                    for worker in workers
                    if worker.name in rounds
                ]
    finally:
        for worker in workers:
            worker.close()
        if options.json:
            options.json.write_text("".join(json.dumps(record) + "\n" for record in records))
    for (op, regime), of_cases in results.items():
        print(summary(f"{op}, {regime}", of_cases))


def find_oximla():
    """Our program: of this bundle or clone, or on the path."""
    found = next((program for program in PROGRAMS if program.exists()), None)
    return found or shutil.which(OURS) or PROGRAMS[-1]


def commands(oximla, libraries):
    """What starts each program."""
    peers = {
        name: [sys.executable, str(HERE / "peers" / script), "--interactive", "--libraries", str(libraries)]
        for name, script in PEERS.items()
    }
    return {OURS: [str(oximla), "bench", "--interactive", "--json"], **peers}


def start(programs):
    """The programs that can be run; says why of those that cannot."""
    started = []
    for name, command in programs.items():
        try:
            started.append(Worker(name, command))
        except WorkerError as error:
            print(f"left out: {name}: {error}", file=sys.stderr)
    ready = []
    for worker in started:
        try:
            worker.wait_until_ready()
            ready.append(worker)
        except WorkerError as error:
            worker.close()
            print(f"left out: {worker.name}: {error}", file=sys.stderr)
    return ready


def measure(case, regimes, rounds, workers):
    """Times by regime and program, a list of one a round. Programs that fail in a round are left out of the case."""
    times = {regime: {worker.name: [] for worker in workers} for regime in regimes}
    able = list(workers)
    for number in range(rounds):
        first = number % len(workers)
        for regime in regimes:
            for worker in workers[first:] + workers[:first]:
                if worker not in able:
                    continue
                try:
                    answer = worker.microseconds(case, regime)
                except WorkerError as error:
                    answer = str(error)
                if isinstance(answer, str):
                    print(f"left out of {case}: {worker.name}: {answer}", file=sys.stderr)
                    able.remove(worker)
                else:
                    times[regime][worker.name].append(answer)
    names = [worker.name for worker in able]
    return {regime: {name: of_regime[name] for name in names} for regime, of_regime in times.items()}


def ratio(peer, ours):
    """Median time of a peer by our median, and the least and the most of single rounds."""
    of_rounds = [theirs / mine for theirs, mine in zip(peer, ours)]
    return statistics.median(peer) / statistics.median(ours), min(of_rounds), max(of_rounds)


def better_peer(rounds):
    """The peer with the lowest median, None without peers."""
    peers = {name: times for name, times in rounds.items() if name != OURS}
    return min(peers, key=lambda name: statistics.median(peers[name]), default=None)


def header(names):
    columns = "".join(f"{name:>18}" for name in names)
    peers = [name for name in names if name != OURS] if OURS in names else []
    ratios = "".join(f"{'ratio ' + name:>28}" for name in peers) + (f"{'ratio better':>14}" if peers else "")
    return f"{'case':<40}{'regime':<10}{columns}{ratios}"


def row(case, regime, rounds, names):
    """A line of the table."""
    line = f"{case:<40}{regime:<10}"
    for name in names:
        line += f"{statistics.median(rounds[name]):>18.1f}" if name in rounds else f"{'-':>18}"
    if OURS not in rounds:
        return line
    for name in names:
        if name == OURS:
            continue
        cell = "{:.3f} ({:.3f} to {:.3f})".format(*ratio(rounds[name], rounds[OURS])) if name in rounds else "-"
        line += f"{cell:>28}"
    better = better_peer(rounds)
    return line + (f"{ratio(rounds[better], rounds[OURS])[0]:>14.3f}" if better else "")


def summary(what, of_cases):
    """Geometric means of the ratios of an operation and regime, over the cases that both programs could do."""
    comparable = [rounds for rounds in of_cases if OURS in rounds]
    parts = []
    for peer in PEERS:
        ratios = [ratio(rounds[peer], rounds[OURS])[0] for rounds in comparable if peer in rounds]
        if ratios:
            parts.append(f"{peer} {statistics.geometric_mean(ratios):.3f} ({len(ratios)} cases)")
    best = [ratio(rounds[better_peer(rounds)], rounds[OURS])[0] for rounds in comparable if better_peer(rounds)]
    if best:
        parts.append(f"better peer {statistics.geometric_mean(best):.3f} ({len(best)} cases)")
    return f"geometric mean of ratios, {what}: " + (", ".join(parts) or "nothing to compare")


if __name__ == "__main__":
    main()
