"""One rank of PPO with branches, a warm-up and a pretraining loss, whole and in slices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlhf.algorithms.ptx import Ptx
from rlhf.config.ppo import PpoConfig, PtxConfig
from rlhf.data.mixture import Mixture
from rlhf.training import distributed
from support.tiny_models import rank_main, save_rows
from support.tiny_online import config, prompts_in, trainer

SHARED = {"epochs": 2, "updates": 3, "value__warmup": 1}
RESTRICTED = {"sampling__top_p": 0.9, "sampling__top_k": 20, "sampling__min_new_tokens": 2}
BRANCH = {"value__kind": "branch", "value__layers": 1}
FROZEN = {"reference": "frozen_branch", "freeze_layers": 1}


def settings() -> dict[str, PpoConfig]:
    return {
        "branches": config(**SHARED, **RESTRICTED, **BRANCH, **FROZEN),
        "mixed": config(**SHARED, value__kind="critic"),
    }


def save_demonstrations(folder: Path) -> None:
    """Rows of which some have their labels in two spans."""
    rows = []
    for i in range(7):
        ids = [3 + (5 * i + j) % 20 for j in range(6 + i)]
        labels = [own if j in (2, 3) or j > 4 else -100 for j, own in enumerate(ids)]
        rows.append({"id": str(i), "input_ids": ids, "labels": labels})
    save_rows(folder, train=rows)


def one_run(name: str, kind: Any, folder: Path, state: Path) -> dict[str, Any]:
    own = settings()[name]
    mixed = None
    if name == "mixed":
        rows = Mixture({"d": folder / "demonstrations"}, {}, "train")
        mixed = Ptx(PtxConfig(data={"d": {}}, coefficient=2.0), 5, rows, 0, 24)
    learner = trainer(prompts_in(folder / "prompts"), state, own, kind=kind, mixed=mixed)
    start = {key: tensor.clone() for key, tensor in learner.engine.weights()}
    seen, original = [], learner.optimise

    def optimise(update: int, experience: Any) -> dict[str, float]:
        found = original(update, experience)
        seen.append({key: tensor.clone() for key, tensor in learner.engine.weights()})
        return found

    learner.optimise = optimise
    run = learner.train()
    return {
        "start": start,
        "warmed": seen[0],
        "weights": seen[-1],
        "metrics": run.journals["metrics"].records(),
    }


def work(folder: Path, state: Path) -> dict[str, Any]:
    kinds = ["replicated", "fsdp"] if distributed.world_size() > 1 else ["replicated"]
    return {
        f"{name} {kind}": one_run(name, kind, folder, state / name / kind)
        for name in settings()
        for kind in kinds
    }


if __name__ == "__main__":
    rank_main(work)
