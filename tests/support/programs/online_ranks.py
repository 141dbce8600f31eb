"""One rank of two PPO updates, and what it saw."""

from __future__ import annotations

from pathlib import Path

import torch

from rlhf.algorithms.advantages import whiten
from rlhf.online.functions import RewardFunction
from rlhf.online.rewards import RewardModel, RunningScale
from rlhf.online.scoring import Scoring
from rlhf.online.terms import RewardSum, Term
from rlhf.training import distributed
from support.tiny_models import gradients, rank_main
from support.tiny_online import (
    CALIBRATION,
    EOS,
    EVERY_OPTION,
    Parity,
    config,
    grpo_config,
    judge,
    prompts_in,
    reinforce_config,
    rloo_config,
    trainer,
)

LENGTHS = [3, 1, 8, 2, 5]  # an odd number: the ranks have different numbers of responses


def parts() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(n, generator=generator) * 3 + 1 for n in LENGTHS]


def settings() -> dict:
    return config(minibatch_size=4, epochs=2, rewards__scaling="running", rewards__whiten=True,
                  kl__controller="adaptive", updates=2)  # fmt: skip


def dynamic(**changes):
    """A GRPO run with every option, in which groups are replaced."""
    values = {
        "responses_per_prompt": 2,
        "dynamic_sampling__max_rounds": 6,
        "rewards__missing_eos_penalty": 0.0,
    }
    return grpo_config(**EVERY_OPTION | values | changes)


def update_of(settings, folder: Path, state: Path) -> dict:
    """The first minibatch, which is the whole rollout: what it is made of, and its gradient."""
    reward = Parity() if settings.dynamic_sampling.max_rounds > 1 else None
    learner = trainer(prompts_in(folder / "prompts"), state, settings, reward)
    experience = learner.experience(0, learner.roll_out(0))
    (rounds,) = learner._rounds(0, 0, experience.rollout.lengths)
    measures, _ = learner._accumulate(experience, rounds)
    for parameter in learner.actor.parameters():
        if distributed.world_size() > 1:
            torch.distributed.all_reduce(parameter.grad)
    return {
        "prompts": [row["id"] for row in experience.rollout.examples],
        "sequences": experience.rollout.sequences,
        "advantages": experience.credit.advantages,
        "measures": measures,
        "gradients": gradients(learner.actor),
        "replaced": tuple(experience.rollout.replaced or ()),
    }


def several(folder: Path, state: Path) -> dict:
    """A rollout that two reward models and a function score."""
    models = [RewardModel(judge(seed), EOS, 64) for seed in (1, 5)]
    lengths = RewardFunction(
        lambda token_ids: [len(ids) for ids in token_ids], "lengths", [], {}, False,
        decode=str, messages=list, where="reward",
    )  # fmt: skip
    reward = RewardSum(
        [Term("both", models, [CALIBRATION] * 2, combine="uncertainty", coefficient=0.5),
         Term("lengths", [lengths], [(0.0, 1.0)], weight=0.1)]
    )  # fmt: skip
    settings = rloo_config(responses_per_prompt=2, rewards__scaling="reference")
    learner = trainer(prompts_in(folder / "prompts"), state, settings, reward)
    experience = learner.experience(0, learner.roll_out(0))
    return {"scores": experience.scores.tolist(), "figures": learner._measure(experience)}


def sharded(settings, folder: Path, state: Path) -> dict:
    """A whole run of what is spread over the ranks; whole in one process."""
    kind = "fsdp" if distributed.world_size() > 1 else "replicated"
    learner = trainer(prompts_in(folder / "prompts"), state, settings, kind=kind)
    if settings.dynamic_sampling.max_rounds > 1:  # the model is computed by all ranks together
        (model,) = learner.scoring.reward.sources
        reward = RewardSum.of(Parity(beside=model), CALIBRATION)
        learner.scoring = Scoring(reward, learner.scoring.reference)
    run = learner.train()
    return {
        "weights": {name: tensor.clone() for name, tensor in learner.engine.weights()},
        "metrics": run.journals["metrics"].records(),
        "samples": run.journals["samples"].records() if distributed.rank() == 0 else [],
    }


def work(folder: Path, state: Path) -> dict:
    mine = parts()[distributed.rank() :: distributed.world_size()]
    scale = RunningScale()
    stds = [scale.update(part[:1].repeat(2) + torch.tensor([0.0, 1.0])) for part in mine[:2]]
    one = trainer(prompts_in(folder / "prompts"), state, settings())
    experiences, original = [], one.experience
    one.experience = lambda *a: experiences.append(original(*a)) or experiences[-1]
    run = one.train()
    return {
        "white": whiten(mine),
        "unshifted": whiten(mine, shift_mean=False),
        "stds": stds,
        "total": distributed.total([1.0, float(distributed.rank())]),
        "gathered": distributed.gather([distributed.rank()]),
        "anyone": [distributed.anyone(distributed.rank() == 1), distributed.anyone(False)],
        "rloo": update_of(rloo_config(responses_per_prompt=2), folder, state / "rloo"),
        "ppo": update_of(config(responses_per_prompt=2), folder, state / "ppo"),
        "several": several(folder, state / "several"),
        "grpo": update_of(dynamic(), folder, state / "grpo"),
        "reinforce": update_of(
            reinforce_config(responses_per_prompt=2, baseline="group"), folder, state / "reinforce"
        ),
        "sharded": sharded(
            config(epochs=2, updates=2, value__kind="critic"), folder, state / "fsdp"
        ),
        "sharded, dynamic": sharded(dynamic(updates=2), folder, state / "fsdp-dynamic"),
        "rollouts": [
            {"sequences": one.rollout.sequences, "advantages": one.credit.advantages}
            for one in experiences
        ],
        "parameters": {name: p.detach() for name, p in one.actor.named_parameters()},
        "metrics": run.journals["metrics"].records(),
        "coefficient": one.shaping.kl.coefficient,
        "scale": one.shaping.scale.state(),
    }


if __name__ == "__main__":
    rank_main(work)
