"""Values of PPO as other systems have them, by name.

What belongs to a model, a dataset or a machine is not among them: batch sizes, updates, lengths,
layers that are frozen, data of a pretraining loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Preset = Literal["openassistant", "trlx", "deepspeed_chat"]

# Open-Assistant, model_training/configs/ppo_config.yaml and config_rl.yaml (pythia_rlhf); what it
# leaves to trlX, it has from there.
_OPENASSISTANT: dict[str, Any] = {
    "epochs": 4,
    "sampling": {"top_p": 0.7},
    "kl": {"coefficient": 0.1, "controller": "adaptive", "target": 6.0, "horizon": 10000},
    "rewards": {"clip": 4.0, "missing_eos_penalty": 0.0},
    "value": {"kind": "head", "coefficient": 1.0, "clip": 0.4, "learning_rate": 1e-6},
    "clip": 0.4,
    "gamma": 1.0,
    "lam": 0.95,
    "advantages": "whiten",
    "optimizer": {
        "learning_rate": 1e-6,
        "schedule": "constant",
        "warmup": 0.0,
        "weight_decay": 1e-6,
        "beta1": 0.9,
        "beta2": 0.95,
    },
}
# trlX, examples/hh/ppo_hh.py, the values of GPT-J.
_TRLX: dict[str, Any] = {
    "epochs": 4,
    "sampling": {"stop": ["Human:", "human:", "Assistant:", "assistant:"]},
    "kl": {"coefficient": 0.05, "controller": "adaptive", "target": 6.0, "horizon": 10000},
    "rewards": {"scaling": "running", "clip": 10.0, "missing_eos_penalty": 0.0},
    "value": {"kind": "head", "coefficient": 1.0, "clip": 0.2, "learning_rate": 8e-6},
    "clip": 0.2,
    "gamma": 1.0,
    "lam": 0.95,
    "advantages": "whiten",
    "optimizer": {
        "learning_rate": 8e-6,
        "schedule": "constant",
        "warmup": 0.0,
        "weight_decay": 1e-6,
        "beta1": 0.9,
        "beta2": 0.95,
    },
}
# DeepSpeed-Chat, dschat/rlhf/ppo_trainer.py, and the defaults of step 3's main.py.
_DEEPSPEED_CHAT: dict[str, Any] = {
    "epochs": 1,
    "kl": {"coefficient": 0.1, "controller": "fixed"},
    "rewards": {"clip": 5.0, "missing_eos_penalty": 0.0},
    "value": {
        "kind": "critic",
        "start": "reward",
        "coefficient": 1.0,
        "clip": 0.2,
        "learning_rate": 5e-6,
    },
    "clip": 0.2,
    "gamma": 1.0,
    "lam": 0.95,
    "advantages": "none",
    "optimizer": {
        "learning_rate": 9.65e-6,
        "schedule": "cosine",
        "warmup": 0.0,
        "beta1": 0.9,
        "beta2": 0.95,
    },
}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "openassistant": _OPENASSISTANT,
    "trlx": _TRLX,
    "deepspeed_chat": _DEEPSPEED_CHAT,
}


def with_preset(values: Mapping[str, Any]) -> dict[str, Any]:
    """A run as it is written, on top of the values of its preset.

    Args:
        values: the run's keys, with ``preset``; others win over the preset's, key by key.
    """
    return _over(PRESETS.get(str(values.get("preset")), {}), values)


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        inner = merged.get(name)
        if isinstance(inner, Mapping) and isinstance(value, Mapping):
            value = _over(inner, value)
        merged[name] = value
    return merged
