"""Evaluation: the models compared on held-out prompts."""

from __future__ import annotations

from rlhf.config.base import NAME_PATTERN, Strict, key


class EvaluationConfig(Strict):
    """Base, SFT and PPO on held-out prompts, judged by the PPO run's reward model."""

    ppo: str = key(about="name of the PPO run", pattern=NAME_PATTERN)
    samples_per_prompt: int = key(1, ge=1, about="responses sampled for each held-out prompt")
    max_prompts: int = key(256, ge=1, about="held-out prompts used, chosen by hash")
    temperature: float = key(1.0, gt=0, about="sampling temperature")
    max_new_tokens: int = key(64, ge=1, about="longest response", unit="tokens")
    seed: int = key(0, ge=0, about="seed of sampling and of the bootstrap")
