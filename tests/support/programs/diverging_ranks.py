"""One rank of an SFT run that diverges where only the first rank's row is at fault."""

from __future__ import annotations

from pathlib import Path

import torch

from rlhf.algorithms.sft import SftObjective
from rlhf.data.mixture import Mixture
from rlhf.errors import NumericsError
from rlhf.runtime.options import RunOptions
from rlhf.training import distributed
from support.programs.supervised_ranks import config, train_root
from support.tiny_models import rank_main, save_rows, token_scorer, token_sequences

POISON = 299  # a token that one row alone has


def save_set(folder: Path) -> None:
    sequences = token_sequences([6, 7, 8, 9], seed=1, vocabulary=POISON)
    sequences[2][3] = POISON
    rows = [
        {"id": f"row-{i}", "input_ids": ids.tolist(), "labels": ids.tolist()}
        for i, ids in enumerate(sequences)
    ]
    save_rows(folder / "set", train=rows)


class Poisoned(SftObjective):
    """The loss of one row is not a number."""

    def __call__(self, scorer, rows):
        loss, sums = super().__call__(scorer, rows)
        bad = any(POISON in row["input_ids"] for row in rows)
        return loss * (float("nan") if bad else 1.0), sums


def work(folder: Path, state: Path) -> dict:
    model = token_scorer(0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    data = Mixture({"d": folder / "set"}, {}, "train")
    try:
        train_root(
            model, Poisoned(), data, config(precision="bfloat16"),
            RunOptions("train_sft.x", state, {}, 1), 64, dict,
        )  # fmt: skip
    except NumericsError as error:
        same = all(torch.equal(p, before[name]) for name, p in model.named_parameters())
        return {"error": str(error), "untouched": same, "rank": distributed.rank()}
    return {"error": None}


if __name__ == "__main__":
    rank_main(work)
