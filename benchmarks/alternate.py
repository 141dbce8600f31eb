"""Contestants in processes of their own that work in turn: while one works, the others sleep.

On a shared machine the speed drifts from minute to minute; work that alternates meets the same
drift, so ratios hold where single figures do not.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


class Contestant:
    """A worker process; see ``Gate`` for its side.

    Args:
        name: shown in tables.
        arguments: the command line of this script's worker.
        threads: OpenMP threads.
        site: folder of packages that come first on its path, or None.
    """

    def __init__(
        self, name: str, arguments: Sequence[str], threads: int, site: Path | None = None
    ) -> None:
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "TRL_EXPERIMENTAL_SILENCE": "1",
            "TQDM_DISABLE": "1",
        }
        if site is not None:
            environment["PYTHONPATH"] = str(site.resolve())
        self.name, self.rounds = name, []
        self._process = subprocess.Popen(
            [sys.executable, sys.argv[0], *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def turn(self) -> dict[str, Any]:
        """Let it do one round; returns what it reports."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise SystemExit(f"{self.name} has failed; its output is above") from None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} has failed; its output is above")
        return json.loads(line)

    def close(self) -> None:
        """End the process: between rounds at once, else by force after a while."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Gate:
    """A worker's side: it stops between rounds, where ``passed`` is called once a step.

    The clock runs from the release of a round to the end of its last step, so what a trainer does
    between steps (fetching data, logging) counts. Reported are ``seconds`` of wall time and
    ``cpu_seconds``, which other users of the machine disturb less.

    Args:
        steps: steps in a round.
        describe: figures of the round that ends, reported with its seconds.
    """

    def __init__(self, steps: int, describe: Callable[[], dict[str, Any]]) -> None:
        self._steps, self._describe = steps, describe
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what libraries print must not reach the parent
        self._done, self._started, self._cpu = 0, None, 0.0

    def passed(self) -> None:
        """Called where a step begins: ends the round before it, and waits for the next."""
        now, cpu = time.perf_counter(), time.process_time()
        if self._started is not None:
            self._done += 1
            if self._done < self._steps:
                return
            report = {"seconds": now - self._started, "cpu_seconds": cpu - self._cpu}
            report |= self._describe()
            self._out.write(json.dumps(report) + "\n")
            self._out.flush()
        if sys.stdin.readline() != "go\n":
            sys.exit(0)  # through the trainer, so that temporary folders go
        self._done, self._started, self._cpu = 0, time.perf_counter(), time.process_time()


def alternate(contestants: Sequence[Contestant], rounds: int, warm_up: int = 1) -> None:
    """Rounds in turn, the first ones not counted; each round begins with another contestant."""
    try:
        for number in range(-warm_up, rounds):
            shift = number % len(contestants)
            for one in [*contestants[shift:], *contestants[:shift]]:
                report = one.turn()
                one.rounds.append(report | {"counted": number >= 0})
                text = f"round {number + 1 if number >= 0 else 'warm-up'}: {one.name}"
                seconds = f"{report['seconds']:8.2f} s, {report['cpu_seconds']:8.2f} s of CPU"
                print(f"{text:48} {seconds}", file=sys.stderr, flush=True)
    finally:
        for one in contestants:
            one.close()


def counted(contestant: Contestant, key: str) -> list[Any]:
    """A figure of each counted round."""
    return [report[key] for report in contestant.rounds if report["counted"]]


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Median and range."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def processor() -> str:
    """Model of the processor and number of cores in use."""
    name = "unknown processor"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [n for n in cpuinfo.read_text().splitlines() if n.startswith("model name")]
        name = names[0].partition(":")[2].strip() if names else name
    return f"{name}, {len(os.sched_getaffinity(0))} cores"
