"""The loop that offline objectives share.

One global batch is a random draw, of like lengths if the configuration says so; inside it, rows of
like lengths share a forward pass. Every micro-batch's loss is divided by the weight of the whole
global batch, so accumulation is exact: 1 × 8 and 8 × 1 rows give the same gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Protocol

import torch

from rlhf.config.offline import OfflineConfig
from rlhf.data.mixture import Mixture
from rlhf.errors import NumericsError
from rlhf.models import devices
from rlhf.runtime.options import RunOptions
from rlhf.training import distributed, finite
from rlhf.training.determinism import (
    random_state,
    restore_random_state,
    seed_everything,
    seed_pass,
)
from rlhf.training.ema import averaged
from rlhf.training.engine.protocol import Engine, Forward
from rlhf.training.optim import learning_rate_factor
from rlhf.training.rounds import Round, plan_rounds
from rlhf.training.run import TrainingRun
from rlhf.training.selection import Selection
from rlhf.training.sums import Measures, Sums

ROWS_AT_A_TIME = 4096  # that `map_rows` holds in memory


class Objective(Protocol):
    """What is learned from rows."""

    def shape(self, row: dict[str, Any]) -> tuple[int, int]:
        """Rows that it takes in a padded batch, and the tokens of each."""

    def weight(self, row: dict[str, Any]) -> float:
        """What a row counts in the mean loss."""

    def __call__(
        self, scorer: Forward, rows: list[dict[str, Any]]
    ) -> tuple[torch.Tensor, Measures]:
        """The *sum* of the loss over rows, and sums of other measures."""


class Prepared(Protocol):
    """What is computed once, by the weights that training starts from; part of every state."""

    def compute(self) -> None:
        """Called on all ranks before the first validation and update."""

    def state(self) -> dict[str, Any]:
        """What to save: tensors and plain values."""

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what was saved; nothing is computed then."""


def train(
    engine: Engine,
    objective: Objective,
    data: Mixture,
    config: OfflineConfig,
    options: RunOptions,
    micro_batch_tokens: int,
    validate: Callable[[], dict[str, float]],
    prepared: Prepared | None = None,
    enrich: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] = lambda rows: rows,
    after_update: Callable[[int], None] = lambda _step: None,
) -> TrainingRun:
    """Train for the configured number of epochs; resume from a saved state if there is one.

    In the end the engine has the weights to publish: the last or the best ones, averaged if the run
    keeps an average.

    Args:
        engine: holds the model and its optimizer.
        objective: the loss.
        data: training rows.
        config: of the run.
        options: saving, naming.
        micro_batch_tokens: padded tokens in one forward and backward pass.
        validate: measures on held-out rows.
        prepared: what the objective needs of the weights that training starts from.
        enrich: adds to the rows of a global batch what their loss needs of all of them, by the
            weights of the moment; all ranks call it.
        after_update: called with the number of updates, after each.

    Raises:
        NumericsError: a loss, a norm or a weight is not finite; what was saved before is.
    """
    seed_everything(config.seed)
    settings, batch = config.optimizer, config.global_batch_size
    per_epoch = math.ceil(data.rows_per_epoch / batch)
    steps = per_epoch * config.epochs
    advice = finite.advice({"optimizer.learning_rate": settings.learning_rate}, config.precision)

    def rate_of(step: int) -> tuple[float, float]:
        """Factor and learning rate of the update that makes ``step`` updates of the run."""
        factor = learning_rate_factor(step - 1, steps, settings.schedule, settings.warmup)
        return factor, settings.learning_rate * factor

    def check(step: int) -> None:
        """The weights; the next step's loss would show them, but there may be none."""
        finite.check_weights(engine.parts(), finite.place(options.name, step, rate_of(step)[1]),
                             advice)  # fmt: skip

    selection = Selection(config.selection, options.name)

    def record_validation(step: int, rate: float | None = None) -> dict[str, float]:
        with averaged(engine):
            measures = validate()
        finite.check(measures, finite.place(options.name, step, rate), advice)
        run.record({"step": step} | measures, step)
        return measures

    def snapshot() -> dict[str, Any]:
        return (
            random_state()
            | ({"prepared": prepared.state()} if prepared else {})
            | ({"selection": selection.state()} if config.selection.looks else {})
        )

    def restore(state: dict[str, Any]) -> None:
        restore_random_state(state)
        if prepared:
            prepared.restore(state["prepared"])
        if config.selection.looks:
            selection.restore(state["selection"])

    if config.ema:
        engine.keep_average(config.ema.decay)
    run = TrainingRun(options, steps, snapshot, restore, check, engine)
    validation_steps = {
        round(steps * (i + 1) / config.evaluations) for i in range(config.evaluations)
    }
    if run.start == 0:
        start = finite.place(options.name, 0)
        finite.check_weights(engine.weights(), start, finite.START_ADVICE)
        if prepared:
            prepared.compute()
        selection.check(record_validation(0))

    batches = global_batches(data, config, run.start)
    upcoming = next(batches, [])
    for step in range(run.start, steps):
        if selection.stopped:
            break
        with run.performance.phase("forward_backward"):
            rows = enrich(upcoming)
        weight = sum(objective.weight(row) for row in rows)
        tokens = sum(math.prod(objective.shape(row)) for row in rows)
        if not weight:
            raise NumericsError(
                "No token of this step's rows is trained on, so there is no mean loss.",
                where=finite.place(options.name, step + 1),
                hint=f"raise `global_batch_size` (it is {batch}), or drop rows without a reply",
            )
        sums, losses = Sums(), []
        rounds = _rounds(objective.shape, rows, micro_batch_tokens)
        with run.performance.phase("forward_backward"):
            for number, each in enumerate(rounds):
                if config.draws_in_passes:
                    seed_pass(config.seed, step, number, distributed.rank())
                loss, measured = objective(engine, [rows[i] for i in each.rows])
                engine.backward(each.weight * loss / weight, last=each is rounds[-1])
                sums.add({"loss": loss, **measured}, each.counts)
                losses.append(loss.detach())
        with run.performance.phase("data"):
            upcoming = next(batches, [])  # while a GPU still computes
        with run.performance.phase("forward_backward"):
            record = sums.over_ranks().means(weight)
        factor, rate = rate_of(step + 1)
        where = finite.place(options.name, step + 1, rate)
        if not all(map(math.isfinite, record.values())):
            suspects = [
                finite.row_name(rows[i])
                for each, loss in zip(rounds, losses, strict=True)
                if each.counts and not math.isfinite(loss)
                for i in each.rows
            ]
            finite.check(record, where, advice, distributed.gather(suspects))
        with run.performance.phase("optimizer"):
            norm = engine.step(factor)
            after_update(step + 1)
        updated = finite.check_norm(norm, engine.loss_scale, where, advice)
        record |= {
            "step": step + 1,
            "epoch": (step + 1) / per_epoch,
            "learning_rate": rate,
            **({"grad_norm": norm} if updated else {}),
            "tokens": tokens,
            **(engine.loss_scale.figures() if engine.loss_scale else {}),
        }
        run.record(record, step + 1)
        best = False
        if step + 1 in validation_steps:
            check(step + 1)
            with run.performance.phase("validate"):
                best = selection.note(step + 1, record_validation(step + 1, rate))
        note = f"loss {record['loss']:.4f}"
        run.finish_step(step + 1, tokens, note, keep=best, last=selection.stopped)
    run.close()
    run.take_kept()
    engine.swap_average()
    return run


def global_batches(
    data: Mixture, config: OfflineConfig, start: int = 0
) -> Iterator[list[dict[str, Any]]]:
    """The rows of every step's global batch, from step ``start`` on."""
    batch = config.global_batch_size
    per_epoch = math.ceil(data.rows_per_epoch / batch)
    for step in range(start, per_epoch * config.epochs):
        epoch, position = divmod(step, per_epoch)
        if position == 0 or step == start:
            order = data.order(config.seed, epoch, batch, config.length_grouping)
        yield [data[int(i)] for i in order[position * batch : (position + 1) * batch]]


@torch.no_grad()
def mean_over(
    scorer: Forward,
    objective: Objective,
    rows: Iterable[dict[str, Any]],
    micro_batch_tokens: int,
) -> dict[str, float]:
    """Weighted means of the loss and the other measures over rows; the ranks share the work.

    Where the rows are of several datasets, the means over each are there too, by ``NAME/DATASET``.
    Without rows there is nothing to say: the result is empty.
    """
    every = list(rows)
    weight = sum(objective.weight(row) for row in every)
    by_dataset: dict[str, list[dict[str, Any]]] = {}
    for row in every:
        by_dataset.setdefault(row.get("dataset", ""), []).append(row)
    together, apart = Sums(), dict[str, float]()
    for dataset, own in by_dataset.items():
        sums = Sums()
        for each in _rounds(objective.shape, own, micro_batch_tokens):
            loss, measured = objective(scorer, [own[i] for i in each.rows])
            sums.add({"loss": loss, **measured}, each.counts)
        sums = sums.over_ranks()
        together.add(sums.means(1))
        share = sum(objective.weight(row) for row in own)
        if len(by_dataset) > 1 and share:
            apart |= {f"{name}/{dataset}": mean for name, mean in sums.means(share).items()}
    return together.means(weight) | apart if weight else {}


@torch.no_grad()
def map_rows(
    compute: Callable[[list[dict[str, Any]]], Iterable[torch.Tensor]],
    shape: Callable[[dict[str, Any]], tuple[int, int]],
    rows: Iterable[dict[str, Any]],
    micro_batch_tokens: int,
) -> list[torch.Tensor]:
    """A tensor for each row, in their order; the ranks share the work, all know all.

    Args:
        compute: from rows that share a forward pass to a small tensor [k] for each.
        shape: see ``Objective``.
        rows: any number: few of them are held at a time.
        micro_batch_tokens: padded tokens in one forward pass.
    """
    found: list[torch.Tensor] = []
    rest = iter(rows)
    while some := list(islice(rest, ROWS_AT_A_TIME)):
        rows_known: list[int] = []
        values_known: list[torch.Tensor] = []
        for each in _rounds(shape, some, micro_batch_tokens):
            values = compute([some[i] for i in each.rows])
            if each.counts:
                rows_known += each.rows
                values_known += values
        lists = (value.tolist() for value in devices.fetched(values_known))
        by_row = dict(distributed.gather(list(zip(rows_known, lists, strict=True))))
        found += [torch.tensor(by_row[i]) for i in range(len(some))]
    return found


def _rounds(
    shape: Callable[[dict[str, Any]], tuple[int, int]],
    rows: list[dict[str, Any]],
    micro_batch_tokens: int,
) -> list[Round]:
    """This rank's rounds over rows that all ranks know."""
    shapes = [shape(row) for row in rows]
    plan = plan_rounds(shapes, micro_batch_tokens, distributed.world_size())
    return plan[distributed.rank()]
