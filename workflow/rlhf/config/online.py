"""What the on-policy methods share: sampling, rewards, the penalty for leaving the reference."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from rlhf.config.adapter import ADAPTER, AdapterConfig, refuse_frozen_layers
from rlhf.config.base import NAME_PATTERN, Strict, key
from rlhf.config.decoding import DecodingConfig
from rlhf.config.mixture import DuplicatesConfig, Shares
from rlhf.config.training import PRECISION, OptimizerConfig, Precision

SamplerKind = Literal["loop", "cached", "vllm"]


class SamplingConfig(DecodingConfig):
    """How responses are sampled."""

    temperature: float = key(
        1.0, gt=0, about="sampling temperature; log probabilities are taken at the same"
    )
    sampler: SamplerKind = key(
        "loop",
        about="what samples: `loop`, this program's own; `cached`, transformers' continuous "
        "batching with paged attention, on GPUs; `vllm`, a vLLM server beside the ranks",
    )
    importance_cap: float | None = key(
        None,
        gt=0,
        about="tokens are weighted by the trainer's probability over the sampler's, truncated at "
        "this; absent: they are not",
        source="Yao et al. 2025, who take 2",
    )
    max_mismatch: float = key(
        0.2,
        gt=0,
        about="the run ends where log probabilities of sampler and trainer are further apart in "
        "an update's mean; with `loop` only where `importance_cap` is set",
        unit="nats per token",
    )

    @property
    def compared(self) -> bool:
        """Whether the sampler's log probabilities are compared with the trainer's.

        Those of `loop` come from the trainer's own model, or from a copy of it.
        """
        return self.sampler != "loop" or self.importance_cap is not None

    @model_validator(mode="after")
    def _sampler_knows(self) -> Self:
        if self.sampler != "loop" and self.restricting:
            raise ValueError(
                f"{', '.join(self.restricting)}: not with sampler: {self.sampler}, which gives log "
                "probabilities of what is left of the distribution, so they can't be compared with "
                "the trainer's; leave out, or write sampler: loop"
            )
        return self


class KlConfig(Strict):
    """The penalty for leaving the reference."""

    coefficient: float = key(
        0.1, ge=0, about="(initial) weight β of the per-token KL penalty", source="Open-Assistant"
    )
    controller: Literal["fixed", "adaptive"] = key("fixed", about="whether β follows `target`")
    target: float = key(
        6.0,
        gt=0,
        about="KL per response that the adaptive controller aims at",
        unit="nats",
        source="Ziegler et al. 2019",
    )
    horizon: int = key(
        10000,
        ge=1,
        about="how slowly the adaptive controller moves",
        unit="episodes",
        source="Ziegler et al. 2019",
    )
    estimator: Literal["k1", "k2", "k3"] = key(
        "k1", about="estimator of the KL in the reward (Schulman, Approximating KL divergence)"
    )


class RewardShapingConfig(Strict):
    """What becomes of the reward model's score, in this order: calibrate, scale, clip, penalty."""

    scaling: Literal["none", "running"] = key(
        "none", about="`running` divides by the running std of the scores (no mean subtraction)"
    )
    clip: float = key(5.0, gt=0, about="scores are clipped to ± this", source="DeepSpeed-Chat")
    missing_eos_penalty: float = key(
        1.0, ge=0, about="subtracted from the score of a response that never ended"
    )


class OnlineConfig(Strict):
    """One run of an on-policy method."""

    sft: str = key(about="name of the SFT run: initial policy and reference", pattern=NAME_PATTERN)
    reward: str = key(about="name of the reward model", pattern=NAME_PATTERN)
    data: Shares = key(about="dataset name → share of its prompts", min_length=1)
    duplicates: DuplicatesConfig = key(
        DuplicatesConfig(), about="repeated prompts, within the datasets and between them"
    )
    scoring: Literal["triton", "local"] = key(
        "triton", about="where rewards and reference log probabilities are computed"
    )
    reference: Literal["model", "frozen_branch"] = key(
        "model",
        about="`model`: the SFT model, whole; `frozen_branch`: its upper layers alone, on the "
        "layers that `freeze_layers` keeps as they are; needs `scoring: local`",
    )
    updates: int = key(100, ge=1, about="rounds of rollout and optimisation")
    rollout_batch_size: int = key(64, ge=1, about="responses sampled for one update")
    responses_per_prompt: int = key(
        1, ge=1, about="responses sampled for each prompt of an update, out of its batch"
    )
    minibatch_size: int = key(64, ge=1, about="responses in one optimizer step")
    epochs: int = key(1, ge=1, about="passes over the rollouts in one update")
    sampling: SamplingConfig = key(SamplingConfig(), about="how responses are sampled")
    kl: KlConfig = key(KlConfig(), about="penalty for leaving the reference")
    rewards: RewardShapingConfig = key(RewardShapingConfig(), about="from score to reward")
    max_approx_kl: float = key(
        0.5,
        gt=0,
        about="an update's remaining epochs are skipped above this approximate KL",
        unit="nats per token",
    )
    optimizer: OptimizerConfig = key(OptimizerConfig(), about="AdamW and its schedule")
    adapter: AdapterConfig | None = ADAPTER
    freeze_layers: int = key(
        0, ge=0, about="decoder layers, from the bottom, that stay as they are"
    )
    precision: Precision = PRECISION
    seed: int = key(0, ge=0, about="seed of sampling and of the order of prompts")

    @property
    def learning_rates(self) -> dict[str, float]:
        """Key → the peak learning rate that it is."""
        return {"optimizer.learning_rate": self.optimizer.learning_rate}

    @property
    def value_updates(self) -> int:
        """First updates in which a value function alone is trained."""
        return 0

    @model_validator(mode="after")
    def _branches_off(self) -> Self:
        if self.reference == "model":
            return self
        if not self.freeze_layers:
            raise ValueError(
                "reference: frozen_branch shares the layers that freeze_layers keeps as they are, "
                + (
                    "and an adapter freezes all: switched off it is the reference already"
                    if self.adapter
                    else "and there are none: set freeze_layers, or write reference: model"
                )
            )
        if self.scoring != "local":
            raise ValueError(
                "reference: frozen_branch is a part of the policy, which servers do not have: "
                "write scoring: local"
            )
        return self

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        for name in ("minibatch_size", "responses_per_prompt"):
            if self.rollout_batch_size % getattr(self, name):
                raise ValueError(
                    f"{name} {getattr(self, name)} must divide rollout_batch_size "
                    f"{self.rollout_batch_size}"
                )
        return self

    @model_validator(mode="after")
    def _adapter_fits(self) -> Self:
        refuse_frozen_layers(self.adapter, self.freeze_layers)
        if self.adapter and self.adapter.dropout:
            raise ValueError(
                f"adapter.dropout {self.adapter.dropout:g}: dropout would change probabilities "
                "between sampling and training, so that their ratio means nothing; write 0"
            )
        return self
