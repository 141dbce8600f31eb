"""A stage that halts at a chosen point until the test lets it go on, as on a node cut off for long.

``python -m lost_attempt POINT FOLDER --name x --config {} --output … --state …``: it makes
``FOLDER/waiting`` at the point and goes on once ``FOLDER/go`` is there.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from rlhf.config.training import OptimizerConfig
from rlhf.provenance import manifest
from rlhf.stages import training
from rlhf.stages.stage import Stage, main
from rlhf.training import checkpoints, distributed
from rlhf.training.engine.replicated import Replicated
from rlhf.training.run import TrainingRun

STEPS = 3

point, folder = sys.argv.pop(1), Path(sys.argv.pop(1))


def halt(here: str) -> None:
    if here == point and distributed.rank() == 0:
        (folder / "waiting").touch()
        while not (folder / "go").exists():
            time.sleep(0.02)


def halting(here: str, function):
    """The function, with a halt when it is nearly done."""

    def wrapped(*arguments, **keys):
        result = function(*arguments, **keys)
        halt(here)
        return result

    return wrapped


def save_model(
    _root: object, _weights: object, _tokenizer: object, target: Path, base: None
) -> None:
    (target / "model.safetensors").write_text("weights")


def run(stage: Stage) -> None:
    distributed.start()
    state = {"weights": torch.ones(3)}
    halt("start")
    run = TrainingRun(stage.run_options(1), STEPS, lambda: state, state.update)
    for step in range(run.start, STEPS):
        if step + 1 == 2:
            halt("step")
            checkpoints.write_tensors = halting("save", checkpoints.write_tensors)
        run.record({"step": step + 1}, step + 1)
        run.finish_step(step + 1, 1)
    halt("publish model")
    training.save_model = halting("model", save_model)
    root = torch.nn.Linear(2, 1)
    engine = Replicated(root, {"": 1e-3}, OptimizerConfig())
    training.publish_model(engine, root, None, stage.outputs["model"], None)
    halt("publish journal")
    run.publish(metrics=stage.outputs["metrics"])
    manifest.digest_file = halting("manifest", manifest.digest_file)
    if distributed.rank() == 0:
        stage.finish()
    distributed.finish()


if __name__ == "__main__":
    main(run)
