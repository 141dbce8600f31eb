"""Engines beside one process: how far losses and gradients are apart, and how long each starts.

python benchmarks/engines.py equality    # two ranks of every kind against one process
python benchmarks/engines.py start       # from the process's start to the end of its first step
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
PATH = {"PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"}
FIRST_STEP = """
import sys, time
from support.programs.sharded_ranks import SETTINGS, case, update
from rlhf.runtime.options import EngineOptions
from rlhf.training import distributed
from rlhf.training.engine.open import open_engine

root, loss, rates = case("sft llama")
engine = open_engine(root, rates, SETTINGS, EngineOptions(sys.argv[1]))
update(engine, loss, 0)
print(time.time() - float(sys.argv[2]), time.process_time())
"""


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("equality", "start"))
    parser.add_argument("--runs", type=int, default=2, help="starts of each kind")
    options = parser.parse_args()
    if options.what == "equality":
        _equality()
    else:
        _start(options.runs)


def _equality() -> None:
    import torch
    from safetensors.torch import load_file
    from support.programs import sharded_ranks
    from support.tiny_models import run_ranks

    torch.set_num_threads(1)
    os.environ[sharded_ranks.EVERY_CASE] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_ranks(Path(sharded_ranks.__file__), folder)
        together = torch.load(folder / "rank-0.pt")
        alone = sharded_ranks.work(folder, folder / "alone")

        def moments(path: Path) -> dict[str, torch.Tensor]:
            """The first moments after one update: a tenth of its gradient."""
            files = (load_file(file) for file in path.glob("engine-*.safetensors"))
            every = {key: tensor for file in files for key, tensor in file.items()}
            return {key: tensor for key, tensor in every.items() if key.startswith("exp_avg/")}

        cells: dict[str, dict[str, str]] = defaultdict(dict)
        for case, kind in sharded_ranks.runs():
            figures = together[f"{case} {kind}"]["figures"]
            pairs = zip(figures, alone[f"{case} replicated"]["figures"], strict=True)
            loss = max(abs(mine[0] - plain[0]) / abs(plain[0]) for mine, plain in pairs)
            mine = moments(folder / "state" / f"{case} {kind}")
            plain = moments(folder / "alone" / f"{case} replicated")
            largest = max(float(tensor.abs().max()) for tensor in plain.values())
            apart = max(float((mine[key] - tensor).abs().max()) for key, tensor in plain.items())
            cells[case][kind] = f"{loss:.0e}, {apart / largest:.0e}"
    kinds = sharded_ranks.KINDS
    print(f"| trainer and model | {' | '.join(kinds)} |")
    print(f"| --- |{' --- |' * len(kinds)}")
    for case, row in cells.items():
        print(f"| {case} | {' | '.join(row.get(kind, '') for kind in kinds)} |")


def _start(runs: int) -> None:
    from support.programs.sharded_ranks import KINDS

    seconds: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for _ in range(runs):
        for kind in KINDS:
            command = [sys.executable, "-c", FIRST_STEP, kind, str(time.time())]
            done = subprocess.run(
                command, env=os.environ | PATH, capture_output=True, text=True, check=True
            )
            wall, processor = map(float, done.stdout.split()[-2:])
            seconds[kind].append((processor, wall))
    print("| engine | CPU seconds | seconds |")
    print("| --- | --- | --- |")
    for kind, found in seconds.items():
        cells = (", ".join(f"{each:.1f}" for each in column) for column in zip(*found, strict=True))
        print(f"| {kind} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
