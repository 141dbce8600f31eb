"""One training run: where it stands, when it saves, when it stops, what it reports."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rlhf.errors import Fenced, RlhfError
from rlhf.models import devices
from rlhf.runtime import fence
from rlhf.runtime.deadline import Deadline, Saved, StopRequest
from rlhf.runtime.options import RunOptions
from rlhf.runtime.performance import Performance
from rlhf.runtime.progress import Progress
from rlhf.runtime.trackers import TensorBoard
from rlhf.training import distributed, finite
from rlhf.training.checkpoints import Checkpoints
from rlhf.training.engine.protocol import Engine
from rlhf.training.metrics import Journal

logger = logging.getLogger(__name__)

State = dict[str, Any]


class TrainingRun:
    """Drives the steps of one training run, on every rank.

    Args:
        options: how the run is carried out.
        steps: steps in the whole run.
        snapshot: this rank's values to save, beside what the engine saves.
        restore: puts this rank's saved values back.
        check: called on every rank, with the step, before its state is saved; what it raises stops
            the saving.
        engine: its weights and moments are saved and put back with the values.

    Attributes:
        kept_step: step whose weights are to be published, and whose state is kept; None: the last.

    Raises:
        Fenced: another attempt owns the state.
    """

    def __init__(
        self,
        options: RunOptions,
        steps: int,
        snapshot: Callable[[], State],
        restore: Callable[[State], None],
        check: Callable[[int], None] = lambda _step: None,
        engine: Engine | None = None,
    ) -> None:
        self._options, self._steps, self._snapshot = options, steps, snapshot
        self._check, self._engine = check, engine
        self._first = distributed.rank() == 0
        check_owner()
        self._checkpoints = Checkpoints(options.state, options.identity)
        if self._first and self._checkpoints.start_afresh():
            logger.info("%s is forced: it is computed again, from step 0", options.name)
        distributed.wait()
        self._stop = StopRequest().install()
        self.start = 0
        self.journals = {
            name: Journal(self._checkpoints.folder / f"{name}.jsonl")
            for name in ("metrics", "samples")
        }
        found = self._checkpoints.load(engine)
        if found:
            self.start, state = found
            restore(state["run"])
            if self.start == steps:
                logger.info(
                    "%s: all %d steps were done and saved before; only the result is written out",
                    options.name, steps,
                )  # fmt: skip
            else:
                logger.info("%s goes on after step %d of %d", options.name, self.start, steps)
        self._done = self.start
        positions = found[1]["journals"] if found else dict.fromkeys(self.journals, 0)
        if self._first:
            for name, journal in self.journals.items():
                journal.rewind(positions[name])
        self.kept_step: int | None = found[1].get("kept") if found else None
        self._tensorboard = TensorBoard(options.tensorboard if self._first else None, self.start)
        parts = engine.parts() if engine else ()
        count = float(sum(tensor.numel() for _, tensor in parts))
        if engine and engine.sharded:
            (count,) = distributed.total([count])
        self.performance = Performance(
            options.performance if self._first else None,
            devices.gpus(distributed.world_size(), int(count)),
        )
        self._progress = Progress(options.name, steps, self.start, quiet=not self._first)
        self._deadline = Deadline(options.save_margin)
        if self._first and self._deadline.ends is not None:
            logger.info("%s: %s", options.name, self._deadline)
        self._saved_at = self._stepped_at = time.monotonic()

    def record(self, record: dict[str, Any], step: int) -> None:
        """Write one line of metrics, from rank 0.

        Raises:
            NumericsError: a number in it is not finite; on every rank, if all gave the same.
            RlhfError: it could not be written.
        """
        where = finite.place(self._options.name, step, record.get("learning_rate"))
        finite.check(record, where)
        if self._first:
            with self._writing(f"The metrics of step {step}"):
                self.journals["metrics"].append(record)
            self._tensorboard.add(record, step)

    def sample(self, record: dict[str, Any]) -> None:
        """Keep one sampled text, from rank 0.

        Raises:
            RlhfError: it could not be written.
        """
        if self._first:
            with self._writing("A sample"):
                self.journals["samples"].append(record)

    def finish_step(
        self,
        step: int,
        tokens: int,
        note: str = "",
        trained: int | None = None,
        keep: bool = False,
        last: bool = False,
    ) -> None:
        """Account for a finished step; save if it is time; leave if somebody asks.

        Args:
            step: steps done so far.
            tokens: tokens that the step went over, on all ranks.
            note: a few figures for the terminal.
            trained: tokens of its forward and backward passes, on all ranks; None: ``tokens``.
            keep: these are the weights to publish, unless later ones are: they are saved now.
            last: training ends with this step, before its planned end.

        Raises:
            Saved: a signal or the end of the allocation asked for a stop; the state is saved.
            Fenced: another attempt has taken this run over; nothing is written.
            NumericsError: weights are not finite; the state before is untouched.
            RlhfError: the state could not be written; the one before it is untouched.
        """
        self._progress.advance(tokens, note)
        self._done = step
        options, now = self._options, time.monotonic()
        seconds = now - self._stepped_at
        self._deadline.stepped(seconds)
        waited = now - self._saved_at >= self._deadline.interval(options.save_seconds)
        counted = options.save_steps and step % options.save_steps == 0
        stop, near, due = self._agree(
            self._stop.requested(), self._deadline.near(), bool(waited or counted)
        )
        stop, last = stop or near, last or step == self._steps
        if keep:
            self.kept_step = step
        if stop or due or last or keep:
            with self.performance.phase("save"):
                self._save(step)
        figures = self.performance.figures(
            seconds, tokens, tokens if trained is None else trained, devices.peak_memory()
        )
        self._tensorboard.add(figures, step)
        self.performance.write({"step": step} | figures)
        if stop and not last:
            self.close()
            why = str(self._deadline) if near else "asked to stop"
            raise Saved(f"{why}: state saved after step {step} of {self._steps}")
        self._stepped_at = time.monotonic()

    def close(self) -> None:
        """End progress and TensorBoard."""
        self._progress.close()
        self._tensorboard.close()

    def take_kept(self) -> None:
        """Give the engine the weights that are kept; all ranks call this, at the end.

        Raises:
            IntegrityError: their state is damaged, or not there.
        """
        kept = self.kept_step
        if kept is not None and kept != self._done and self._engine is not None:
            self._checkpoints.load_weights(kept, self._engine)

    def last_metrics(self, *names: str) -> dict[str, float]:
        """The last recorded value of each measure, up to the step whose weights are kept."""
        last: dict[str, float] = {}
        for record in self.journals["metrics"].records():
            if self.kept_step is not None and record["step"] > self.kept_step:
                break
            last |= {name: record[name] for name in names if name in record}
        return last

    def publish(self, **paths: Path) -> None:
        """Copy journals to their places among the results, from rank 0.

        Raises:
            Fenced: another attempt has taken this run over; nothing is written.
        """
        check_owner()
        if self._first:
            for name, path in paths.items():
                self.journals[name].publish(path)

    def mark_published(self) -> None:
        """Note beside the states, from rank 0, that the artifact is there, manifest and all.

        Raises:
            Fenced: another attempt has taken this run over; nothing is written.
        """
        if self._first:
            fence.check()
            self._checkpoints.mark_published()

    def _save(self, step: int) -> None:
        began = time.monotonic()
        self._check(step)
        check_owner()
        with self._writing(f"The state after step {step}"):
            journals = self.journals.items() if self._first else ()
            positions = {name: journal.position() for name, journal in journals}
            state: State = {"run": self._snapshot(), "journals": positions}
            if self.kept_step is not None:
                state["kept"] = self.kept_step
            self._checkpoints.save(step, state, self._engine, self.kept_step)
        distributed.wait()
        self._saved_at = time.monotonic()
        self._note_save(self._saved_at - began)

    @contextlib.contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        """Explain why something could not be written beside the states."""
        try:
            yield
        except OSError as error:
            if self._first:
                fence.check()  # the next owner clears away what is half written
            raise RlhfError(
                f"{what} could not be saved: {error.strerror or error}.",
                where=self._checkpoints.folder,
                hint="make room and run the same command: it goes on from the last saved state",
            ) from error

    def _agree(self, *flags: bool) -> list[bool]:
        """Which flags are set on any rank; the same answer on all."""
        return [count > 0 for count in distributed.total([float(flag) for flag in flags])]

    def _note_save(self, seconds: float) -> None:
        """Learn from a save how early to stop; say so when that changes."""
        before = self._deadline.margin
        self._deadline.saved(seconds)
        if self._first and self._deadline.ends is not None and self._deadline.margin > before:
            logger.info("%s: %s", self._options.name, self._deadline)


def check_owner() -> None:
    """Whether this attempt may still write: rank 0 looks, and all ranks leave together.

    Raises:
        Fenced: another attempt has taken this run over.
    """
    fenced: Fenced | None = None
    if distributed.rank() == 0:
        try:
            fence.check()
        except Fenced as error:
            fenced = error
    if distributed.anyone(fenced is not None):
        raise fenced or Fenced("This attempt has been replaced, says rank 0.")
