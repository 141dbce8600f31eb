"""What it costs a training run to save its state, and what it loses when it is killed.

    python benchmarks/saving.py --config config/config.yaml --run chat

The run's SFT stage, with nothing frozen, works in a process of its own: once without saving, once
saving every few seconds. Then it is killed, by SIGKILL, at several moments between two saves and
in the middle of one, and each time run again. In a folder with the run's inputs in `results/`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alternate import processor, spread, table

STAGE = "rlhf.stages.train_sft"
NEVER = 1e9  # seconds
ALLOWED_SHARE = 0.05
KILLS = (0.3, 0.6, 0.9, None)  # of the time between two saves; None: in the middle of a save


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, help="the pipeline's configuration")
    parser.add_argument("--run", default="chat", help="name under `sft`")
    parser.add_argument("--batch", type=int, default=2, help="rows in one update")
    parser.add_argument("--freeze-layers", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20, help="updates that are timed")
    parser.add_argument("--every", type=float, default=15.0, help="seconds between two saves")
    options = parser.parse_args()

    from rlhf.config.runtime import RuntimeConfig

    default = RuntimeConfig().save_seconds
    with tempfile.TemporaryDirectory(dir=".") as scratch:
        without = Trial(options, Path(scratch) / "without", NEVER)
        with without.running() as seen:
            plain = list(timed_steps(seen, options.steps))
        trial = Trial(options, Path(scratch) / "saving", options.every)
        with trial.running() as seen:
            saving = list(timed_steps(seen, options.steps))
        losses = list(kill(trial, options.every))
        size = trial.state_bytes()

    print(f"{processor()}; {sys.argv[0]} {' '.join(sys.argv[1:])}\n")
    report_costs(plain, saving, size, default)
    print()
    report_losses(losses, options.every)


@dataclass(frozen=True)
class Event:
    """What a training process tells.

    Attributes:
        what: ``start`` of the loop, a ``step`` done, a ``save`` begun, its end (``saved``).
        step: steps done.
        at: seconds of the machine's monotonic clock.
    """

    what: str
    step: int
    at: float


class Trial:
    """A run of the stage that can be started, killed, and started again.

    Args:
        options: the command line.
        folder: its state and outputs.
        save_seconds: its interval.
    """

    def __init__(self, options: argparse.Namespace, folder: Path, save_seconds: float) -> None:
        config, inputs = stage_inputs(options)
        self._folder, self._threads = folder, config["threads"]
        self._command = [
            *(sys.executable, __file__, "--worker", "--name", options.run),
            *("--config", json.dumps(config["slice"]), *inputs),
            *("--output", "model", f"{folder}/model"),
            *("--output", "metrics", f"{folder}/metrics.jsonl"),
            *("--output", "manifest", f"{folder}/manifest.json", "--state", f"{folder}/state"),
            *("--save-seconds", str(save_seconds), "--log", f"{folder}/stage.log"),
            *("--micro-batch-tokens", str(config["micro_batch_tokens"])),
        ]

    @contextlib.contextmanager
    def running(self) -> Iterator[Iterator[Event]]:
        """The stage runs within, and is killed at the end; yields what it tells."""
        process = subprocess.Popen(
            self._command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": str(self._threads)},
        )
        assert process.stdout is not None
        try:
            yield (Event(**json.loads(line)) for line in process.stdout)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()

    def state_bytes(self) -> int:
        """Size of one saved state."""
        newest = max(self._folder.glob("state/*/step-*"))
        return sum(path.stat().st_size for path in newest.iterdir())


def stage_inputs(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """The stage's slice of the configuration and how it is carried out, and its inputs."""
    import yaml

    from rlhf.config.load import load_config
    from rlhf.pipeline.slices import config_slice

    values = yaml.safe_load(options.config.read_text())
    values["sft"][options.run] |= {
        "freeze_layers": options.freeze_layers,
        "global_batch_size": options.batch,
        "epochs": 100,  # it never gets to the end
    }
    config = load_config(values, str(options.config))
    run = config.sft[options.run]
    inputs = ["--input", "model", f"results/models/{run.model}/manifest.json"]
    for dataset in run.data:
        inputs += [
            "--input",
            "data",
            f"results/tokenized/conversation/{run.model}/{dataset}/manifest.json",
        ]
    carried = {
        "slice": config_slice(config, "train_sft", options.run),
        "threads": config.runtime.threads,
        "micro_batch_tokens": config.runtime.micro_batch_tokens,
    }
    return carried, inputs


def timed_steps(events: Iterator[Event], steps: int) -> Iterator[Event]:
    """The events from the end of the first step to that of the step that many later."""
    first = next(one for one in events if one.what == "step")
    yield first
    for event in events:
        yield event
        if event.what == "step" and event.step == first.step + steps:
            return
    raise SystemExit("the stage has ended too early; run it without this script to see why")


@dataclass(frozen=True)
class Loss:
    """What was lost with a killed process.

    Attributes:
        moment: when it was killed, as in ``KILLS``.
        reached: steps that it had done.
        resumed: steps that the next process went on after.
        seconds: from the end of its last save until it was killed.
    """

    moment: float | None
    reached: int
    resumed: int
    seconds: float


def kill(trial: Trial, interval: float) -> Iterator[Loss]:
    """Kill the trial at each moment after a save, and see where the next process goes on."""
    lost: tuple[float | None, int, float] | None = None
    for number in range(len(KILLS) + 1):
        with trial.running() as seen:
            start = next(one for one in seen if one.what == "start")
            if lost:
                moment, reached, seconds = lost
                yield Loss(moment, reached, start.step, seconds)
            if number < len(KILLS):
                lost = (KILLS[number], *wait_to_kill(seen, KILLS[number], interval))


def wait_to_kill(seen: Iterator[Event], moment: float | None, interval: float) -> tuple[int, float]:
    """Wait for a moment after the first save; steps done then, and seconds since the save."""
    saved: Event | None = None
    for event in seen:
        if saved is None:
            saved = event if event.what == "saved" else None
        elif moment is None and event.what == "save":
            time.sleep(0.5)
            return event.step, time.monotonic() - saved.at
        elif moment and event.what == "step" and event.at - saved.at >= moment * interval:
            return event.step, time.monotonic() - saved.at
    raise SystemExit("the stage has ended too early; run it without this script to see why")


def report_costs(plain: list[Event], saving: list[Event], size: int, default: float) -> None:
    """Print what saving costs.

    Args:
        plain: events of the run without saving.
        saving: events of the run that saves.
        size: bytes of a state.
        default: seconds between two saves, by the configuration's default.
    """
    took, totals = durations(saving), []
    rows = []
    for name, events in (("without saving", plain), ("saving", saving)):
        steps = events[-1].step - events[0].step
        seconds = events[-1].at - events[0].at
        saves = durations(events)
        figures = [steps, f"{seconds:.1f}", len(saves), f"{sum(saves):.1f}"]
        rows.append([name, *figures, f"{(seconds - sum(saves)) / steps:.2f}"])
        totals.append(seconds)
    header = ["run", "updates", "seconds", "saves", "seconds in them", "seconds per update else"]
    print(table(header, rows))
    save = statistics.median(took)
    share = save / (default + save)
    print(f"\nA state of {size / 1e9:.2f} GB takes {spread(took, 2)} s to save.")
    print(f"At the default, one in {default:.0f} s of training, that is {share:.1%} of the time;")
    print(f"at most {ALLOWED_SHARE:.0%} is allowed. By the two runs' difference a save takes")
    print(f"{(totals[1] - totals[0]) / len(took):.2f} s.")


def durations(events: list[Event]) -> list[float]:
    """Seconds of each save that has begun and ended."""
    begun = {one.step: one.at for one in events if one.what == "save"}
    return [one.at - begun[one.step] for one in events if one.what == "saved"]


def report_losses(losses: list[Loss], interval: float) -> None:
    """Print what was lost."""
    rows = []
    for loss in losses:
        when = "in the middle of a save" if loss.moment is None else f"{loss.moment:.0%}"
        lost = loss.reached - loss.resumed
        rows.append([when, loss.reached, loss.resumed, lost, f"{loss.seconds:.1f}"])
    print(table(["killed", "steps done", "goes on after", "steps lost", "seconds lost"], rows))
    print(f"\nOne state every {interval:.0f} s, at the end of the step in which they are over;")
    print("less often where saving would take over 5 % of the time.")


def work(arguments: list[str]) -> None:
    """The stage itself, in a process that tells what it does."""
    from rlhf.training.run import TrainingRun

    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(what: str, step: int) -> None:
        out.write(json.dumps({"what": what, "step": step, "at": time.monotonic()}) + "\n")
        out.flush()

    start, finish_step, save = TrainingRun.__init__, TrainingRun.finish_step, TrainingRun._save

    def telling_start(run: TrainingRun, *args: Any, **kwargs: Any) -> None:
        start(run, *args, **kwargs)
        tell("start", run.start)

    def telling_finish_step(run: TrainingRun, step: int, *args: Any, **kwargs: Any) -> None:
        tell("step", step)
        finish_step(run, step, *args, **kwargs)

    def telling_save(run: TrainingRun, step: int) -> None:
        tell("save", step)
        save(run, step)
        tell("saved", step)

    TrainingRun.__init__, TrainingRun.finish_step, TrainingRun._save = (
        telling_start,
        telling_finish_step,
        telling_save,
    )
    sys.argv[1:] = arguments
    runpy.run_module(STAGE, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2:])
    else:
        main()
