"""Evaluation: the models compared on held-out prompts."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from rlhf.config.base import NAME_PATTERN, Strict, key
from rlhf.config.decoding import DecodingConfig


class EvaluatedConfig(Strict):
    """The run that is evaluated: exactly one of these keys names it."""

    ppo: str | None = key(None, about="name of the PPO run that is evaluated", pattern=NAME_PATTERN)
    rloo: str | None = key(None, about="or: name of the RLOO run", pattern=NAME_PATTERN)
    grpo: str | None = key(None, about="or: name of the GRPO run", pattern=NAME_PATTERN)
    reinforce: str | None = key(None, about="or: name of the REINFORCE++ run", pattern=NAME_PATTERN)
    dpo: str | None = key(
        None, about="or: name of the DPO run; `reward` has to be given then", pattern=NAME_PATTERN
    )
    kto: str | None = key(None, about="or: name of the KTO run; likewise", pattern=NAME_PATTERN)
    orpo: str | None = key(None, about="or: name of the ORPO run; likewise", pattern=NAME_PATTERN)
    simpo: str | None = key(None, about="or: name of the SimPO run; likewise", pattern=NAME_PATTERN)
    cpo: str | None = key(None, about="or: name of the CPO run; likewise", pattern=NAME_PATTERN)
    ilql: str | None = key(None, about="or: name of the ILQL run; likewise", pattern=NAME_PATTERN)

    @model_validator(mode="after")
    def _one_run(self) -> EvaluatedConfig:
        if len(self._named()) != 1:
            keys = ", ".join(EvaluatedConfig.model_fields)
            raise ValueError(f"give exactly one of {keys}: the run that is evaluated")
        return self

    @property
    def policy(self) -> tuple[str, str]:
        """Section and name of the run that is evaluated."""
        return self._named()[0]

    def _named(self) -> list[tuple[str, str]]:
        named = ((section, getattr(self, section)) for section in EvaluatedConfig.model_fields)
        return [(section, name) for section, name in named if name is not None]


class AdvantageConfig(Strict):
    """Decoding of an ILQL run: by its policy, shifted by the advantages of tokens."""

    beta: float = key(
        1.0,
        ge=0,
        about="weight β of the advantage Q − V beside log π; 0: the policy alone",
        source="trlX",
    )
    top_k: int = key(
        0,
        ge=0,
        about="tokens that can be drawn, those of the largest log π + β·(Q − V); 0: all",
    )


class EvaluationConfig(DecodingConfig, EvaluatedConfig):
    """Base model, SFT model and the evaluated run's on held-out prompts, by a reward model."""

    reward: str | None = key(
        None,
        about="name of the reward model that scores the responses; by default the one that the "
        "evaluated run was trained against",
        pattern=NAME_PATTERN,
    )
    gold: str | None = key(
        None,
        about="name of a second reward model that scores the responses too, and that nothing was "
        "trained against: whether it agrees shows over-optimisation",
        pattern=NAME_PATTERN,
        source="Gao et al. 2022",
    )
    samples_per_prompt: int = key(1, ge=1, about="responses sampled for each held-out prompt")
    max_prompts: int = key(256, ge=1, about="maximum of held-out prompts used, chosen by hash")
    temperature: float = key(1.0, gt=0, about="sampling temperature")
    advantage: AdvantageConfig = key(
        AdvantageConfig(), about="how an ILQL run decodes; of others there is nothing to say"
    )
    seed: int = key(0, ge=0, about="seed of sampling and of the bootstrap")

    @model_validator(mode="after")
    def _has_advantages(self) -> Self:
        if self.ilql is None and self.advantage != AdvantageConfig():
            raise ValueError(
                "advantage: an ILQL run alone has values of tokens; leave it out, or name the run "
                "under ilql"
            )
        return self
