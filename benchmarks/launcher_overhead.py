"""What the launcher adds to a job: the same trivial stage starts alone and through it, by turns.

    python benchmarks/launcher_overhead.py
    sbatch --wrap "python benchmarks/launcher_overhead.py"   # as a step of a SLURM job

With two ranks, what is compared with the launcher is torchrun alone.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

from alternate import processor, spread, table

ALLOWED_SECONDS = 2.0
STAGE = "platform"  # of the standard library: says where it runs, and ends


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10, help="after one round to warm up")
    options = parser.parse_args()

    python = [sys.executable, "-m"]
    torchrun = [*python, "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    with tempfile.TemporaryDirectory() as scratch:
        launch = [*python, "rlhf.launch", f"--log={scratch}/stage.log", f"--state={scratch}/state"]
        pairs = {
            "one rank": ([*python, STAGE], [*launch, "--", STAGE]),
            "two ranks": (
                [*torchrun, "--nproc-per-node=2", "-m", STAGE],
                [*launch, "--processes=2", "--", STAGE],
            ),
        }
        seconds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in pairs}
        for number in range(-1, options.rounds):
            for name, commands in pairs.items():
                for command, taken in zip(commands, seconds[name], strict=True):
                    one = run(command)
                    if number >= 0:
                        taken.append(one)

    job = os.environ.get("SLURM_JOB_ID")
    print(f"{processor()}; {f'SLURM job {job}' if job else 'no SLURM'}\n")
    rows = []
    for name, (alone, launched) in seconds.items():
        added = statistics.median(launched) - statistics.median(alone)
        rows.append([name, spread(alone, 2), spread(launched, 2), f"{added:.2f}"])
    print(table(["", "alone: median (range)", "launched: median (range)", "added"], rows))
    print(f"\nAt most {ALLOWED_SECONDS:.0f} s are allowed.")


def run(command: list[str]) -> float:
    """Seconds from the start of a command to its end."""
    began = time.perf_counter()
    subprocess.run(
        command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
