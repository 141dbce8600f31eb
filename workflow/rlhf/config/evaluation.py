"""Evaluation: the models compared on held-out prompts."""

from __future__ import annotations

from pydantic import model_validator

from rlhf.config.base import NAME_PATTERN, Strict, key


class EvaluationConfig(Strict):
    """Base model, SFT model and the evaluated run's on held-out prompts, by its reward model."""

    ppo: str | None = key(None, about="name of the PPO run that is evaluated", pattern=NAME_PATTERN)
    rloo: str | None = key(None, about="or: name of the RLOO run", pattern=NAME_PATTERN)
    samples_per_prompt: int = key(1, ge=1, about="responses sampled for each held-out prompt")
    max_prompts: int = key(256, ge=1, about="maximum of held-out prompts used, chosen by hash")
    temperature: float = key(1.0, gt=0, about="sampling temperature")
    max_new_tokens: int = key(64, ge=1, about="longest response", unit="tokens")
    seed: int = key(0, ge=0, about="seed of sampling and of the bootstrap")

    @model_validator(mode="after")
    def _one_run(self) -> EvaluationConfig:
        if (self.ppo is None) == (self.rloo is None):
            raise ValueError("give exactly one of ppo, rloo: the run that is evaluated")
        return self

    @property
    def policy(self) -> tuple[str, str]:
        """Section and name of the run that is evaluated."""
        return ("ppo", self.ppo) if self.ppo is not None else ("rloo", str(self.rloo))
