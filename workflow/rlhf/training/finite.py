"""A number that is infinite, or not a number, ends a run with its name.

It is looked for where numbers are few: sums over all ranks before the optimizer's step, a rollout's
figures, the weights before they are saved or published. All ranks find the same and end together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from rlhf.errors import NumericsError
from rlhf.training import distributed
from rlhf.training.engine.scale import LossScale

ROWS_NAMED = 5
START_ADVICE = "`rlhf verify` says whether the model that the run starts from holds them already"


def place(run: str, step: int, rate: float | None = None, unit: str = "step") -> str:
    """Where a run stands, for ``where``: its name, the step and the learning rate."""
    known = f"{run}, {unit} {step}" if step else f"{run}, before the first {unit}"
    return known if rate is None else f"{known}, learning rate {rate:g}"


def advice(rates: Mapping[str, float], precision: str) -> str:
    """What to try when a training run has diverged.

    Args:
        rates: key of the configuration → the peak learning rate that it is.
        precision: type of the matrix products.
    """
    keys = " and ".join(f"`{key}` (it is {rate:g})" for key, rate in rates.items())
    steps = [f"lower {keys}"]
    if precision != "float32":
        steps.append("set `precision: float32`")
    return ", ".join([*steps, "or look at the rows of this step"])


def check(
    values: Mapping[str, Any], where: object, hint: str | None = None, rows: Iterable[str] = ()
) -> None:
    """Refuse values that are infinite or not a number; what is no float passes.

    Args:
        values: what each is called → the value, the same on every rank.
        where: the run and how far it is, see ``place``.
        hint: what to try.
        rows: names of rows that it may come from.

    Raises:
        NumericsError: names each value that is not finite.
    """
    wrong = {k: v for k, v in values.items() if isinstance(v, float) and not math.isfinite(v)}
    if wrong:
        raise _error([f"{name} is {value}" for name, value in wrong.items()], where, hint, rows)


def check_norm(
    norm: float, loss_scale: LossScale | None, where: object, hint: str | None = None
) -> bool:
    """Refuse gradients that are infinite or not a number, unless a smaller loss scale may help.

    Args:
        norm: what the engine's step gave.
        loss_scale: the engine's.
        where: as in ``check``.
        hint: what to try.

    Returns:
        Whether there was an update.

    Raises:
        NumericsError: they are not finite without a loss scale, or at the smallest one.
    """
    if loss_scale is None or not loss_scale.overflowed:
        check({"grad_norm": norm}, where, hint)
        return True
    if loss_scale.exhausted:
        raise NumericsError(
            f"The gradients overflow float16 although the loss is not scaled any more: "
            f"{loss_scale.skipped} updates were left out.",
            where=where,
            expected="finite gradients at a loss scale of 1 at least",
            hint=hint,
        )
    return False


def check_rows(
    parts: Mapping[str, Iterable[torch.Tensor]],
    rows: Sequence[Mapping[str, Any]],
    where: object,
    hint: str | None = None,
) -> None:
    """Refuse what was computed for rows, if a value is infinite or not a number on any rank.

    Args:
        parts: what each is called → a tensor for each of this rank's rows.
        rows: this rank's rows, with ``dataset`` and ``id``.
        where: as in ``check``.
        hint: what to try.

    Raises:
        NumericsError: names the parts, and rows that have them.
    """
    wrong = {name: [i for i, one in enumerate(part) if not _finite(one)]
             for name, part in parts.items()}  # fmt: skip
    counts = distributed.total([len(places) for places in wrong.values()])
    if any(counts):
        own = [row_name(rows[i]) for i in sorted({i for some in wrong.values() for i in some})]
        names = [
            f"{name}: {int(count)} of the rows hold NaN or infinity"
            for name, count in zip(wrong, counts, strict=True)
            if count
        ]
        raise _error(names, where, hint, distributed.gather(own))


def check_weights(
    named: Iterable[tuple[str, torch.Tensor]], where: object, hint: str | None = None
) -> None:
    """Refuse weights that are infinite or not a number.

    Args:
        named: name → weights, the same on every rank.
        where: as in ``check``.
        hint: what to try.

    Raises:
        NumericsError: names the tensors.
    """
    wrong = [name for name, weights in named if not _finite(weights)]
    if distributed.anyone(bool(wrong)):
        raise _error([f"{len(wrong)} of the weights hold NaN or infinity: {_some(wrong)}"],
                     where, hint)  # fmt: skip


def row_name(row: Mapping[str, Any]) -> str:
    """A row as messages name it."""
    return f"{row.get('dataset', '')} {row.get('id', '?')}".strip()


def _finite(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _error(
    wrong: Sequence[str], where: object, hint: str | None, rows: Iterable[str] = ()
) -> NumericsError:
    suspects = list(rows)
    if suspects:
        where = f"{where}; rows {_some(suspects)}"
    return NumericsError(f"{'; '.join(wrong)}.", where=where, expected="finite numbers", hint=hint)


def _some(names: Sequence[str]) -> str:
    rest = len(names) - ROWS_NAMED
    return ", ".join(names[:ROWS_NAMED]) + (f" and {rest} more" if rest > 0 else "")
