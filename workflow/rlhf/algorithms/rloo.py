"""REINFORCE leave-one-out: no value function, the other responses to a prompt are the baseline.

Ahmadian et al. 2024, "Back to Basics" (arXiv 2402.14740), section 2.3. Each update:

1. Sample k responses to each prompt; their log probabilities under the policy (``online.loop``).
2. Scores become per-token rewards with a KL penalty (``online.rewards``); their sum is the reward
   of the whole response, which is one action here.
3. The advantage of a response is its reward less the mean reward of the other k − 1 responses to
   its prompt: ``leave_one_out``. All its tokens share it.
4. In each minibatch, −advantage · log π is summed over tokens; or, where ``clip`` is set, PPO's
   clipped objective.
5. Once the policy is too far from the one that sampled, the update's remaining epochs are skipped.
"""

from __future__ import annotations

import torch

from rlhf.algorithms.ppo import policy_loss
from rlhf.config.rloo import RlooConfig
from rlhf.online.algorithm import Batch, Credit
from rlhf.online.kl import approximate_kl
from rlhf.online.rollout import Rollout


class Rloo:
    """Advantages from the other responses to the same prompt.

    Args:
        config: the run's configuration.
    """

    def __init__(self, config: RlooConfig) -> None:
        self.config = config

    def advantages(self, rollout: Rollout, rewards: list[torch.Tensor]) -> Credit:
        """See ``Algorithm``."""
        whole = torch.stack([reward.sum() for reward in rewards])  # [n]
        centred = leave_one_out(whole, self.config.responses_per_prompt)  # [n]
        advantages = [
            advantage.expand(len(reward))  # [L_i]
            for advantage, reward in zip(centred, rewards, strict=True)
        ]
        return Credit(advantages, returns=[torch.empty(0)] * len(rollout))

    def loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """See ``Algorithm``."""
        logprobs, old = batch.new.logprobs, batch.logprobs  # [N]
        if self.config.clip is None:
            loss = -batch.advantages * logprobs  # [N]
            clipped = torch.zeros_like(loss)
        else:
            loss, clipped = policy_loss(logprobs, old, batch.advantages, self.config.clip)
        loss = batch.importance * loss
        with torch.no_grad():
            measures = {
                "policy_loss": loss.sum(),
                "approx_kl": approximate_kl(logprobs, old).sum(),
                "clip_fraction": clipped.sum(),
            }
        return loss.sum(), measures

    def stop(self, measures: dict[str, float]) -> bool:
        """See ``Algorithm``."""
        return measures["approx_kl"] > self.config.max_approx_kl


def leave_one_out(rewards: torch.Tensor, k: int) -> torch.Tensor:
    """Each reward less the mean of the other responses to the same prompt.

    What a prompt is worth by itself is then no part of the advantage.

    Args:
        rewards: [n], those of one prompt together.
        k: responses to each prompt, at least 2.
    """
    groups = rewards.double().view(-1, k)  # [n / k, k]
    others = (groups.sum(1, keepdim=True) - groups) / (k - 1)  # [n / k, k]
    return (groups - others).flatten().to(rewards)
