"""A whole run of an on-policy method that takes a moment."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rlhf.algorithms.grpo import Grpo
from rlhf.algorithms.ppo import Ppo
from rlhf.algorithms.reinforce import Reinforce
from rlhf.algorithms.rloo import Rloo
from rlhf.config.grpo import GrpoConfig
from rlhf.config.online import OnlineConfig
from rlhf.config.ppo import PpoConfig
from rlhf.config.reinforce import ReinforceConfig
from rlhf.config.rloo import RlooConfig
from rlhf.data.mixture import Mixture
from rlhf.models.backbone import Backbone
from rlhf.models.roots import Actor, ActorCritic, Critic, ValueBranch, ValueHead
from rlhf.online.algorithm import Mixed
from rlhf.online.loop import OnlineTrainer
from rlhf.online.prompts import PromptStream
from rlhf.online.reference import AdapterOff, Reference, ReferenceModel
from rlhf.online.rewards import Reward, RewardModel
from rlhf.online.rollout import Rollout
from rlhf.online.sampler import ModelSampler, ReplicaSampler, Sampler
from rlhf.online.terms import RewardSum
from rlhf.runtime.options import EngineKind, EngineOptions, RunOptions
from rlhf.stages.decoding import decoding_of
from rlhf.training.engine.open import open_engine
from support.tiny_models import reply_scorer, reward_model, save_rows, token_scorer, token_sequences

VOCABULARY = 24  # so that EOS is sampled now and then
EOS = 2
CALIBRATION = (0.2, 1.5)


class FakeTokenizer:
    """Knows the EOS; its texts are lossy, so nothing can be encoded again from them."""

    eos_token_id = EOS

    def decode(
        self, ids: Sequence[int] | torch.Tensor, skip_special_tokens: bool = False, **_: Any
    ) -> str:
        return "?" * sum(not skip_special_tokens or int(token) != EOS for token in ids)


def config(**changes: Any) -> PpoConfig:
    """A PPO run; ``section__key=value`` changes a key of a section."""
    values = {"value": {"learning_rate": 1e-2}}
    return PpoConfig.model_validate(_values(values, changes))


def rloo_config(**changes: Any) -> RlooConfig:
    """An RLOO run."""
    return RlooConfig.model_validate(_values({}, changes))


def grpo_config(**changes: Any) -> GrpoConfig:
    """A GRPO run."""
    return GrpoConfig.model_validate(_values({"responses_per_prompt": 4}, changes))


def reinforce_config(**changes: Any) -> ReinforceConfig:
    """A REINFORCE++ run."""
    return ReinforceConfig.model_validate(_values({}, changes))


# Every option of the policy's loss at once; EVERY_OPTION's numbers make each of them act.
EVERY_OPTION = {
    "clip": 0.1,
    "loss__clip_high": 0.3,
    "loss__dual_clip": 1.3,
    "loss__ratio": "sequence",
    "loss__aggregate": "response",
    "loss__entropy_coefficient": 0.05,
    "kl__where": "loss",
    "kl__estimator": "k3",
    "overlong__mask": True,
}


class Parity:
    """A reward function: whether the first token of a response is odd; or always 1.

    Args:
        constant: whether it is always 1.
        beside: another reward that is asked too, for nothing but its work.
    """

    remote = False

    def __init__(self, constant: bool = False, beside: Reward | None = None) -> None:
        self.constant, self.beside = constant, beside
        self.scored: list[str] = []

    def __call__(self, rollout: Rollout) -> torch.Tensor:
        if self.beside:
            self.beside(rollout)
        self.scored += [example["id"] for example in rollout.examples]
        firsts = zip(rollout.sequences, rollout.starts, strict=True)
        scores = [1.0 if self.constant else float(ids[at] % 2) for ids, at in firsts]
        mean, std = CALIBRATION
        return torch.tensor(scores) * std + mean


ALGORITHMS: dict[type[OnlineConfig], Any] = {
    PpoConfig: Ppo,
    RlooConfig: Rloo,
    GrpoConfig: Grpo,
    ReinforceConfig: Reinforce,
}


def _values(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    values = {
        "sft": "s",
        "reward": "r",
        "data": {"d": {}},
        "scoring": "local",
        "precision": "float32",
        "updates": 2,
        "rollout_batch_size": 8,
        "minibatch_size": 8,
        "sampling": {"max_new_tokens": 10},
        "optimizer": {"learning_rate": 3e-3, "warmup": 0.0},
        **values,
    }
    for name, value in changes.items():
        section, _, inner = name.partition("__")
        if inner:
            values.setdefault(section, {})[inner] = value
        else:
            values[section] = value
    return values


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


def rollout_of(
    logprobs: list[torch.Tensor],
    ended: torch.Tensor | None = None,
    values: list[torch.Tensor] | None = None,
) -> Rollout:
    """Responses of which nothing but this is known; a prompt of one token before each."""
    sequences = [torch.zeros(1 + len(part), dtype=torch.long) for part in logprobs]
    ended = torch.ones(len(logprobs), dtype=torch.bool) if ended is None else ended
    values = values or [torch.empty(0)] * len(logprobs)
    count, lengths = len(logprobs), [[len(ids) for ids in sequences]]
    return Rollout([{}] * count, sequences, [1] * count, lengths, ended, logprobs, logprobs, values)


def _value(settings: PpoConfig, model: Any) -> Any:
    if settings.value.kind == "branch":
        return ValueBranch(model, settings.value.layers, "value.layers")
    return critic() if settings.value.kind == "critic" else ValueHead(model.width)


def trainer(
    mixture: Mixture,
    state: Path,
    settings: OnlineConfig,
    reward: Reward | RewardSum | None = None,
    reference: Reference | None = None,
    micro_batch_tokens: int = 48,
    model: Any = None,
    kind: EngineKind = "replicated",
    sampler: Sampler | None = None,
    mixed: Mixed | None = None,
    **options: Any,
) -> OnlineTrainer:
    model, judged = model or policy(), judge()
    model.freeze(settings.freeze_layers)
    if settings.reference == "frozen_branch":
        model.keep_start(settings.freeze_layers)
    start, temperature = copy.deepcopy(model), settings.sampling.temperature
    algorithm, actor = ALGORITHMS[type(settings)](settings), Actor(model, temperature)
    rates = {"policy.": settings.optimizer.learning_rate}
    if isinstance(settings, PpoConfig):
        value = _value(settings, model)
        actor = ActorCritic(model, value, temperature)
        rates["value."] = settings.value.learning_rate
    for root in (start, judged, *actor.children()):
        if isinstance(root, Backbone):
            root.compute_in(settings.precision)
    engine = open_engine(actor, rates, settings.optimizer, EngineOptions(kind))
    judged = engine.frozen(judged)
    if model.start is None:
        own_reference: Reference = ReferenceModel(engine.frozen(start), temperature, 64)
    else:
        own_reference = AdapterOff(engine, model, temperature, 64)
    longest = settings.sampling.max_new_tokens
    decoding = decoding_of(settings.sampling, FakeTokenizer())
    own: Sampler = ModelSampler(model, EOS, longest, temperature, decoding)
    if engine.sharded:
        own = ReplicaSampler(model, "policy.", EOS, longest, temperature, torch.float32, decoding)
    reward = reward or RewardModel(judged, EOS, 64)
    if not isinstance(reward, RewardSum):
        reward = RewardSum.of(reward, CALIBRATION)
    learner = OnlineTrainer(
        algorithm,
        engine,
        sampler or own,
        reward,
        reference or own_reference,
        PromptStream(mixture, settings.seed),
        FakeTokenizer(),
        settings,
        RunOptions("ppo.x", state, {}, **options),
        micro_batch_tokens,
        mixed,
    )
    learner.actor = actor  # for tests to look at
    return learner
