"""What a container adds to a stage: the same stage starts bare and in an image, by turns.

    python benchmarks/containers.py --image images/train-….sif

The stage only prints its help, but loads all that it would work with: what is measured is the
launcher, the start of the container, and the imports from the image instead of the disk.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from alternate import processor, spread, table

STAGE = ["rlhf.stages.train_ppo", "--help"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--image", type=Path, required=True, help="image of the stages")
    parser.add_argument("--rounds", type=int, default=5, help="after one round to warm up")
    options = parser.parse_args()

    contestants = {"bare": [], "in the image": ["--image", str(options.image)]}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(-1, options.rounds):
        for name, arguments in contestants.items():
            taken = start(arguments)
            if number >= 0:
                seconds[name].append(taken)
            print(f"round {number + 1 or 'warm-up'}: {name}: {taken:.2f} s", file=sys.stderr)

    print(f"{processor()}\n")
    rows = [[name, spread(values, 2)] for name, values in seconds.items()]
    print(table(["stage", "seconds: median (range)"], rows))
    bare, contained = (statistics.median(values) for values in seconds.values())
    print(f"\nThe container adds {contained - bare:.2f} s (at most 3 s are allowed).")


def start(arguments: list[str]) -> float:
    """Seconds that the stage takes from the launcher's start to its end."""
    began = time.perf_counter()
    subprocess.run(
        ["rlhf", "launch", *arguments, "--", *STAGE], check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
