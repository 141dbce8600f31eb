"""What the on-policy methods share: sampling, rewards, the penalty for leaving the reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import model_validator

from rlhf.config.adapter import ADAPTER, AdapterConfig, refuse_frozen_layers
from rlhf.config.base import NAME_PATTERN, Strict, key
from rlhf.config.decoding import DecodingConfig
from rlhf.config.mixture import DuplicatesConfig, Shares
from rlhf.config.reward_terms import RewardTerms
from rlhf.config.training import (
    EMA,
    PRECISION,
    SEEDS,
    EmaConfig,
    OptimizerConfig,
    Precision,
    check_seeds,
)

SamplerKind = Literal["loop", "cached", "vllm"]
FUNCTIONS = "functions"  # of a slice: file of a reward function → digest


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
    where: Literal["reward", "loss"] = key(
        "reward",
        about="`reward`: subtracted from the rewards of the tokens; `loss`: a term of the loss",
    )
    estimator: Literal["k1", "k2", "k3"] = key(
        "k1", about="estimator of the KL in the penalty (Schulman, Approximating KL divergence)"
    )

    @property
    def in_loss(self) -> bool:
        """Whether the penalty is a term of the loss."""
        return self.where == "loss"

    @model_validator(mode="after")
    def _has_a_gradient(self) -> Self:
        if self.in_loss and self.estimator == "k1":
            raise ValueError(
                "where: loss needs estimator k2 or k3: the gradient of k1 is 0 in the mean, so it "
                "holds the policy to nothing"
            )
        return self


class LossConfig(Strict):
    """The policy's loss."""

    aggregate: Literal["token", "response", "constant"] = key(
        "token",
        about="mean over the tokens of a minibatch (`token`), over the tokens of each response and "
        "then over responses (`response`), or over responses of the sum over tokens divided by "
        "`sampling.max_new_tokens` (`constant`)",
    )
    ratio: Literal["token", "sequence"] = key(
        "token",
        about="probability ratio of each token, or the geometric mean over its response (GSPO)",
    )
    clip_high: float | None = key(
        None, gt=0, about="clip range above 1, where it is not `clip`: clip-higher of DAPO"
    )
    dual_clip: float | None = key(
        None,
        gt=1,
        about="bound of the ratio where an advantage is negative; absent: there is none",
        source="Ye et al. 2020, who take 3",
    )
    entropy_coefficient: float = key(0.0, ge=0, about="weight of the entropy bonus")


class DynamicSamplingConfig(Strict):
    """Prompts whose responses all have the same reward are replaced by further ones."""

    max_rounds: int = key(
        1,
        ge=1,
        about="rounds of sampling in an update, at most; 1: no prompt is replaced",
        source="Yu et al. 2025 (DAPO)",
    )


class OverlongConfig(Strict):
    """Responses that are too long."""

    buffer: int = key(
        0,
        ge=0,
        about="tokens before `sampling.max_new_tokens` over which a penalty grows from 0; 0: none",
        unit="tokens",
        source="Yu et al. 2025 (DAPO)",
    )
    penalty: float = key(1.0, gt=0, about="the penalty at `sampling.max_new_tokens`")
    mask: bool = key(False, about="whether responses that did not end are left out of the loss")


class RewardShapingConfig(Strict):
    """What becomes of the reward model's score, in this order: calibrate, scale, clip, penalty."""

    relative_to: Literal["none", "reply"] = key(
        "none",
        about="`reply`: the score of the dataset's own reply to the prompt is subtracted; the "
        "dataset needs `options.keep_reply`",
    )
    scaling: Literal["none", "running", "reference"] = key(
        "none",
        about="`running` divides by the running std of the scores (no mean subtraction), "
        "`reference` by the std of the first rollout's",
    )
    clip: float | None = key(
        5.0, gt=0, about="scores are clipped to ± this; null: they are not", source="DeepSpeed-Chat"
    )
    missing_eos_penalty: float = key(
        1.0, ge=0, about="subtracted from the score of a response that never ended"
    )


class OnlineConfig(Strict):
    """One run of an on-policy method."""

    sft: str = key(about="name of the SFT run: initial policy and reference", pattern=NAME_PATTERN)
    reward: RewardTerms = key(
        about="name of the reward model; or a term of its own (an ensemble, a function), or a list "
        "of them, whose weighted scores are added up: see docs/rewards.md"
    )
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
    overlong: OverlongConfig = key(OverlongConfig(), about="responses that are too long")
    dynamic_sampling: DynamicSamplingConfig = key(
        DynamicSamplingConfig(), about="prompts that teach nothing are replaced"
    )
    clip: float | None = key(0.2, gt=0, lt=1, about="clip range of the probability ratio")
    loss: LossConfig = key(LossConfig(), about="the policy's loss")
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
    ema: EmaConfig | None = EMA
    precision: Precision = PRECISION
    seed: int = key(0, ge=0, about="seed of sampling and of the order of prompts")
    seeds: list[int] | None = SEEDS

    @property
    def learning_rates(self) -> dict[str, float]:
        """Key → the peak learning rate that it is."""
        return {"optimizer.learning_rate": self.optimizer.learning_rate}

    @classmethod
    def from_slice(cls, values: Mapping[str, Any]) -> Self:
        """See ``Strict``; the digests of the functions' files are no keys of a run."""
        return super().from_slice({name: values[name] for name in values if name != FUNCTIONS})

    @property
    def function_files(self) -> list[str]:
        """Files that functions of the reward are in."""
        return list(dict.fromkeys(filter(None, (term.file for term in self.reward))))

    @property
    def columns(self) -> list[str]:
        """Columns of the datasets' rows that functions of the reward are given."""
        return list(dict.fromkeys(column for term in self.reward for column in term.columns))

    @model_validator(mode="after")
    def _dense_rewards_are_absolute(self) -> Self:
        if self.rewards.relative_to == "reply" and any(term.dense for term in self.reward):
            raise ValueError(
                "rewards.relative_to: a dense term has no score of a whole reply to subtract; "
                "write none"
            )
        return self

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
    def _clips(self) -> Self:
        if self.clip is not None:
            return self
        if self.epochs > 1:
            raise ValueError(
                f"epochs {self.epochs} needs `clip`: without a probability ratio a response is "
                "trained on once"
            )
        ratios = (self.loss.clip_high, self.loss.dual_clip, self.loss.ratio != "token")
        if any(ratios):
            raise ValueError(
                "loss.ratio, loss.clip_high and loss.dual_clip need `clip`: without it there is no "
                "probability ratio"
            )
        return self

    @model_validator(mode="after")
    def _samples_fit(self) -> Self:
        if self.overlong.buffer > self.sampling.max_new_tokens:
            raise ValueError(
                f"overlong.buffer {self.overlong.buffer} is longer than a response: "
                f"sampling.max_new_tokens is {self.sampling.max_new_tokens}"
            )
        if self.dynamic_sampling.max_rounds > 1 and self.responses_per_prompt == 1:
            raise ValueError(
                "dynamic_sampling.max_rounds compares the responses to a prompt: set "
                "responses_per_prompt to 2 or more"
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

    @model_validator(mode="after")
    def _seeds_differ(self) -> Self:
        check_seeds(self, self.seeds)
        return self
