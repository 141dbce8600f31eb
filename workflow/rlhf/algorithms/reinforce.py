"""REINFORCE++: rewards to come, whitened over the whole rollout, in place of a value function.

Hu 2025, "REINFORCE++" (arXiv 2501.03262), section 3. Each update:

1. Sample responses; their log probabilities under the policy (``online.loop``).
2. Scores become per-token rewards with a KL penalty (``online.rewards``).
3. The advantage of a token is the sum of its reward and of those after it (``rewards_to_go``);
   with ``baseline: group`` less the mean reward of the responses to its prompt.
4. Advantages are whitened over all tokens of the update: ``whiten``.
5. In each minibatch, PPO's clipped objective (``policy_objective``).
"""

from __future__ import annotations

import torch

from rlhf.algorithms.advantages import rewards_to_go, whiten, whole, without_values
from rlhf.algorithms.policy import policy_objective
from rlhf.config.reinforce import ReinforceConfig
from rlhf.online.algorithm import Batch, Credit
from rlhf.online.rollout import Rollout


class Reinforce:
    """Advantages from all responses of an update.

    Args:
        config: the run's configuration.
    """

    def __init__(self, config: ReinforceConfig) -> None:
        self.config = config

    def advantages(self, rollout: Rollout, rewards: list[torch.Tensor]) -> Credit:
        """See ``Algorithm``."""
        to_go = rewards_to_go(rewards)
        if self.config.baseline == "group":
            k = self.config.responses_per_prompt
            means = whole(rewards).double().view(-1, k).mean(1).repeat_interleave(k)  # [n]
            to_go = [part - mean for part, mean in zip(to_go, means, strict=True)]
        return without_values(whiten(to_go))

    def loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """See ``Algorithm``."""
        return policy_objective(batch, self.config)
