"""REINFORCE leave-one-out: no value function, the other responses to a prompt are the baseline.

Ahmadian et al. 2024, "Back to Basics" (arXiv 2402.14740), section 2.3. Each update:

1. Sample k responses to each prompt; their log probabilities under the policy (``online.loop``).
2. Scores become per-token rewards with a KL penalty (``online.rewards``); their sum is the reward
   of the whole response, which is one action here.
3. The advantage of a response is its reward less the mean reward of the other k − 1 responses to
   its prompt: ``leave_one_out``. All its tokens share it.
4. In each minibatch, −advantage · log π is summed over tokens; or, where ``clip`` is set, PPO's
   clipped objective (``policy_objective``).
"""

from __future__ import annotations

import torch

from rlhf.algorithms.advantages import leave_one_out, shared, whole
from rlhf.algorithms.policy import policy_objective
from rlhf.config.rloo import RlooConfig
from rlhf.online.algorithm import Batch, Credit
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
        centred = leave_one_out(whole(rewards), self.config.responses_per_prompt)  # [n]
        return shared(centred, rewards)

    def loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """See ``Algorithm``."""
        return policy_objective(batch, self.config)
