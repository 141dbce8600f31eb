"""Settings that tests change one of."""

from __future__ import annotations

from typing import Any

from rlhf.config.reward import RewardConfig
from rlhf.models.adapters import Lora

# Of runs on a handful of rows, which are to move far in four updates.
SHORT_RUN: dict[str, Any] = {
    "sft": "chat",
    "data": {"d": {}},
    "epochs": 2,
    "global_batch_size": 4,
    "precision": "float32",
    "optimizer": {"learning_rate": 1e-2, "schedule": "linear", "warmup": 0.0, "eps": 1e-3},
}


def lora(**changes: Any) -> Lora:
    values = {
        "rank": 4,
        "alpha": 8.0,
        "dropout": 0.0,
        "dora": False,
        "rank_stabilized": False,
        "target_modules": "all-linear",
        "modules_to_save": [],
        "rank_pattern": {},
        "alpha_pattern": {},
    }
    return Lora(**values | changes)


def reward_config(l2: float = 0.001, **changes: Any) -> RewardConfig:
    values = {"model": "m", "data": {"d": {}}, "score_l2": l2, "precision": "float32"}
    return RewardConfig.model_validate(values | changes)
