"""Whether a run has rows to train on and rows held out to measure on, and why not.

Rows with one root prompt are held out together, so a set with few prompts may hold out all of them
or none.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.data.labels import IGNORED
from rlhf.data.mixture import Mixture
from rlhf.data.split import LEFT_TO_OTHERS
from rlhf.errors import DataError
from rlhf.provenance.manifest import read_manifest

logger = logging.getLogger(__name__)

# The standard deviation of 10 numbers is off by a quarter of itself, that of 2 by two thirds.
FEW = 10
DESIRABLE = "desirable"  # column of the feedback view


def require_training(run: str, manifests: Sequence[Path], rows: Mixture) -> None:
    """Refuse a run that has nothing to train on, or replies of one label alone.

    Args:
        run: section and name, such as ``sft.chat``.
        manifests: of the run's tokenized sets.
        rows: the run's training rows, without those that it leaves out.

    Raises:
        DataError: says whether rows were held out, left to other stages, or left out as copies.
    """
    if len(rows):
        _require_both_labels(run, rows)
        return
    known = [read_manifest(path) for path in manifests]
    names = ", ".join(path.parent.name for path in manifests)
    train = sum(one["counts"]["train"]["rows"] for one in known)
    held_out = sum(one["counts"]["validation"]["source_rows"] for one in known)
    elsewhere = sum(one["facts"].get(LEFT_TO_OTHERS, 0) for one in known)
    if train:
        why = f"all {train} rows are copies of others or of held-out rows"
        hint = f"`{run}.duplicates` says what counts as a copy; `rlhf data duplicates` shows copies"
    elif elsewhere:
        why = f"`stage_split` left {elsewhere} rows to other stages, and {held_out} are held out"
        hint = "raise this stage's part in `stage_split`, or give the dataset more prompts"
    else:
        why = f"all {held_out} rows are held out"
        hint = (
            "lower `validation_fraction`, set another `split_salt`, or give the dataset more"
            " prompts: rows with one prompt are held out together"
        )
    raise DataError(
        f"There are no rows to train on: {why}.",
        where=f"{run}.data: {names}",
        expected="at least one row",
        hint=hint,
    )


def _require_both_labels(run: str, rows: Mixture) -> None:
    """Refuse feedback that is all good or all bad: nothing can be told apart by it."""
    share = rows.true_share(DESIRABLE)
    if share is None or 0 < share < 1:
        return
    known, other = ("desirable", "undesirable")[:: 1 if share else -1]
    raise DataError(
        f"All {len(rows)} replies to train on are {known}.",
        where=f"{run}.data: {', '.join(rows.sizes)}",
        expected="replies of both labels",
        hint=f"add a dataset that has {other} replies; of ranked replies, "
        "`datasets.<name>.options.feedback: best` makes both",
    )


def require_scores(run: str, key: str, rows: Mixture) -> None:
    """Refuse a loss that looks at the replies' own scores where a set has none.

    Args:
        run: section and name, such as ``reward.helpful``.
        key: of the run, that needs the scores.
        rows: the run's rows of the ``preference`` view.

    Raises:
        DataError: names the sets.
    """
    without = rows.without_column("scores")
    if without:
        raise DataError(
            f"The replies of these datasets have no scores, which `{key}` needs: "
            f"{', '.join(without)}.",
            where=f"{run}.data",
            expected="datasets of the format `scored`, or of `comparison`, `ranked` or `preference`"
            " with columns of scores",
            hint="name the columns in `datasets.<name>.options` (docs/data.md), or choose another"
            f" loss in `{run}.loss`",
        )


@dataclass(frozen=True)
class Demonstrations:
    """Held-out demonstrations that a reward model is calibrated on.

    Attributes:
        rows: rows of the ``conversation`` view.
        different: how many differ.
        prompts: how many of their first prompts differ.
    """

    rows: list[dict[str, Any]]
    different: int
    prompts: int

    @property
    def warning(self) -> str | None:
        """What is to be said of so few."""
        if min(self.different, self.prompts) >= FEW:
            return None
        return (
            f"calibrated on {self.different} different held-out demonstrations of {self.prompts}"
            f" prompts: with fewer than {FEW} the rewards' unit is rough"
        )


def demonstrations(run: str, rows: Mixture, most: int) -> Demonstrations:
    """Choose demonstrations by hash over all of a run's held-out ones.

    Args:
        run: section and name, such as ``reward.helpful``.
        rows: its held-out demonstrations.
        most: how many are used at most.

    Raises:
        DataError: there are fewer than two that differ, or few and all answer one prompt: the
            standard deviation of their scores means nothing.
    """
    chosen = rows.by_hash(most)
    found = Demonstrations(
        chosen,
        len({tuple(row["input_ids"]) for row in chosen}),
        len({_prompt(row) for row in chosen}),
    )
    # Many different ones may well follow one fixed instruction.
    if found.different >= 2 and (found.prompts >= 2 or found.different >= FEW):
        return found
    if not chosen:
        what = "There are no held-out demonstrations to calibrate the reward model on."
    elif len(chosen) == 1:
        what = "One held-out demonstration is too few to calibrate the reward model on."
    elif found.different == 1:
        what = f"The {len(chosen)} held-out demonstrations to calibrate on are all alike."
    else:
        what = f"The {len(chosen)} held-out demonstrations to calibrate on answer one prompt."
    raise _too_few(what, run, rows, "two different prompts held out, better ten")


def require_prompts(run: str, rows: Mixture) -> None:
    """Refuse an evaluation that has no held-out prompts.

    Raises:
        DataError: there are none.
    """
    if not len(rows):
        what = "There are no held-out prompts to evaluate on."
        raise _too_few(what, run, rows, "at least one prompt held out")
    if len(rows) == 1:
        logger.warning("%s: one held-out prompt alone: its intervals mean nothing", run)


def _prompt(row: Mapping[str, Any]) -> tuple[int, ...]:
    """All before the first trained token: the root prompt, as the template writes it."""
    first = next((i for i, label in enumerate(row["labels"]) if label != IGNORED), None)
    return tuple(row["input_ids"][:first])


def _too_few(what: str, run: str, rows: Mixture, expected: str) -> DataError:
    return DataError(
        what,
        where=f"{run}.data: {', '.join(rows.sizes)}",
        expected=expected,
        hint="raise `validation_fraction` of a dataset, set another `split_salt`, or give it more"
        " prompts: rows with one prompt are held out together, and with few prompts it is chance"
        " which are",
    )
