"""A whole PPO run that takes a moment."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from support.tiny_models import reply_scorer, reward_model, save_rows, token_scorer, token_sequences

from rlhf.config.ppo import PpoConfig
from rlhf.config.training import OptimizerConfig
from rlhf.data.mixture import Mixture
from rlhf.models.roots import ActorCritic, Critic, ValueHead
from rlhf.ppo.prompts import PromptStream
from rlhf.ppo.scoring import LocalScoring
from rlhf.ppo.trainer import PpoTrainer
from rlhf.runtime.options import RunOptions
from rlhf.training.engine.replicated import Replicated

VOCABULARY = 24  # so that EOS is sampled now and then
EOS = 2
CALIBRATION = (0.2, 1.5)


class FakeTokenizer:
    """Knows the EOS; its texts are lossy, so nothing can be encoded again from them."""

    eos_token_id = EOS

    def decode(self, ids: torch.Tensor, skip_special_tokens: bool = False) -> str:
        return "?" * (len(ids) - skip_special_tokens * int((ids == EOS).sum()))


def config(**changes: Any) -> dict[str, Any]:
    """``section__key=value`` changes a key of a section."""
    values: dict[str, Any] = {
        "sft": "s",
        "reward": "r",
        "data": {"d": {}},
        "scoring": "local",
        "precision": "float32",
        "updates": 2,
        "rollout_batch_size": 8,
        "minibatch_size": 8,
        "sampling": {"max_new_tokens": 10},
        "value": {"learning_rate": 1e-2},
        "optimizer": {"learning_rate": 3e-3, "warmup": 0.0},
    }
    for name, value in changes.items():
        section, _, inner = name.partition("__")
        if inner:
            values.setdefault(section, {})[inner] = value
        else:
            values[section] = value
    return PpoConfig.model_validate(values).model_dump()


def save_prompts(folder: Path, count: int = 12, length: int | None = None) -> Mixture:
    lengths = [length or 3 + i % 6 for i in range(count)]
    prompts = token_sequences(lengths, seed=3, vocabulary=VOCABULARY)
    rows = [{"id": str(i), "input_ids": ids.tolist()} for i, ids in enumerate(prompts)]
    save_rows(folder, train=rows)
    return prompts_in(folder)


def prompts_in(folder: Path) -> Mixture:
    return Mixture({"d": folder}, {}, "train")


def policy(seed: int = 0) -> Any:
    return token_scorer(seed, vocabulary=VOCABULARY)


def judge(seed: int = 1) -> Any:
    return reply_scorer(seed, vocabulary=VOCABULARY)


def critic(mean: float = CALIBRATION[0], std: float = CALIBRATION[1]) -> Critic:
    return Critic(reward_model(1, vocabulary=VOCABULARY), mean, std)


def trainer(
    mixture: Mixture,
    state: Path,
    settings: dict[str, Any],
    scoring: Any = None,
    micro_batch_tokens: int = 48,
    model: Any = None,
    **options: Any,
) -> PpoTrainer:
    model = model or policy()
    reference = copy.deepcopy(model)
    value = critic() if settings["value"]["kind"] == "critic" else ValueHead(model.width)
    reward = judge()
    for one in (model, reference, reward, *([value] if isinstance(value, Critic) else [])):
        one.compute_in(settings["precision"])
    actor = ActorCritic(model, value, settings["sampling"]["temperature"])
    rates = {f"{part}.": settings[section]["learning_rate"]
             for part, section in (("policy", "optimizer"), ("value", "value"))}  # fmt: skip
    made = PpoTrainer(
        Replicated(actor, rates, OptimizerConfig.model_validate(settings["optimizer"])),
        model,
        PromptStream(mixture, settings["seed"]),
        scoring or LocalScoring(reward, reference, 64),
        CALIBRATION,
        FakeTokenizer(),
        settings,
        RunOptions("ppo.x", state, {}, **options),
        micro_batch_tokens,
    )
    made.actor = actor  # for tests to look at
    return made
