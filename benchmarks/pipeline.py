"""The whole pipeline in a fresh clone: seconds per rule, in all, the peak of memory, and re-runs.

    python benchmarks/pipeline.py --config config/config.yaml
    python benchmarks/pipeline.py --config tests/config/tiny.yaml

What is committed runs, with the packages of this interpreter's environment and the clone's own
`rlhf`. Downloads count.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from alternate import processor, table

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--config", type=Path, required=True, help="configuration, relative to the repository"
    )
    parser.add_argument("--targets", nargs="*", default=[], help="only these targets")
    parser.add_argument("--profile", default="local", help="Snakemake profile")
    parser.add_argument("--scratch", type=Path, help="folder for the clone (default: the system's)")
    options = parser.parse_args()
    config = options.config.resolve().relative_to(REPOSITORY)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        clone = Path(scratch) / "clone"
        _git("clone", "--quiet", "--no-hardlinks", str(REPOSITORY), str(clone))
        if not (clone / config).exists():
            raise SystemExit(f"{config} is not committed, so the clone lacks it")
        command = [sys.executable, "-m", "snakemake", "--profile", options.profile]
        command += ["--configfile", str(config), "--", *options.targets]
        dry = [*command[: command.index("--")], "--dry-run", *command[command.index("--") :]]
        environment = os.environ | {"PYTHONPATH": str(clone / "workflow")}

        runs = [
            ("dry run, nothing made yet", _run(dry, clone, environment)),
            ("whole run", _run(command, clone, environment)),
            ("dry run, all made", _run(dry, clone, environment)),
            ("second run, nothing to do", _run(command, clone, environment)),
        ]
        _report(clone, config, runs)


class Run:
    """What one command took.

    Attributes:
        seconds: wall time.
        peak: largest sum of resident memory over the process tree, in bytes.
    """

    def __init__(self, seconds: float, peak: int) -> None:
        self.seconds, self.peak = seconds, peak


def _run(command: Sequence[str], folder: Path, environment: dict[str, str]) -> Run:
    """Run a command and sample the memory of it and of all that it starts."""
    print(f"running: {' '.join(command[2:])}", file=sys.stderr, flush=True)
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    sampler = Sampler(process.pid)
    sampler.start()
    try:
        output, _ = process.communicate()
    except BaseException:
        process.terminate()  # Snakemake hands it on to its jobs
        process.wait()
        raise
    seconds = time.perf_counter() - started
    peak = sampler.stop()
    if process.returncode:
        raise SystemExit(f"{output}\nexit code {process.returncode}")
    return Run(seconds, peak)


class Sampler(threading.Thread):
    """Resident memory of a process and its descendants, summed, a few times a second.

    Pages that processes share count once for each, so this is an upper bound.
    """

    def __init__(self, pid: int, interval: float = 0.25) -> None:
        super().__init__(daemon=True)
        self._pid, self._interval = pid, interval
        self._over = threading.Event()
        self._peak = 0

    def run(self) -> None:
        while not self._over.wait(self._interval):
            self._peak = max(self._peak, sum(map(_resident, _tree(self._pid))))

    def stop(self) -> int:
        """End sampling; returns the peak in bytes."""
        self._over.set()
        self.join()
        return self._peak


def _tree(root: int) -> list[int]:
    """The process and its descendants (those that were handed on to init are lost)."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def _report(clone: Path, config: Path, runs: list[tuple[str, Run]]) -> None:
    print(f"\n{config}: {processor()}\n")
    rows = []
    for path in sorted(clone.glob("logs/**/*.benchmark.jsonl"), key=lambda p: p.stat().st_mtime):
        record = json.loads(path.read_text().splitlines()[-1])
        rule = path.relative_to(clone / "logs").as_posix().removesuffix(".benchmark.jsonl")
        figures = [_number(record, name) for name in ("s", "cpu_time", "max_rss")]
        rows.append([rule, *figures])
    print(table(["rule and artifact", "seconds", "CPU seconds", "peak MiB"], rows))
    print()
    rows = [[name, f"{run.seconds:.1f}", f"{run.peak / 2**20:.0f}"] for name, run in runs]
    print(table(["command", "seconds", "peak MiB, all processes"], rows))


def _number(record: dict[str, object], name: str) -> str:
    """A figure of Snakemake's, which has NA for jobs that end before its first sample."""
    value = record.get(name)
    return f"{value:.1f}" if isinstance(value, int | float) else "–"


def _git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], check=True)


if __name__ == "__main__":
    main()
