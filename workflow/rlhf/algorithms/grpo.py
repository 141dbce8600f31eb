"""Group relative policy optimization: a response's advantage is its place in its group.

Shao et al. 2024, DeepSeekMath (arXiv 2402.03300), section 4.1. Each update:

1. Sample k responses to each prompt; their log probabilities under the policy (``online.loop``).
2. Scores become per-token rewards (``online.rewards``); their sum is the reward of the whole
   response. The KL penalty is in the loss, unless the configuration puts it there.
3. The advantage of a response is its reward less the mean of its group, divided by the group's
   standard deviation or not: ``group_relative``. All its tokens share it.
4. In each minibatch, PPO's clipped objective with the k3 estimate of the KL from the reference
   (``policy_objective``), averaged over the tokens of each response and then over responses, or as
   ``loss.aggregate`` says.
"""

from __future__ import annotations

import torch

from rlhf.algorithms.advantages import group_relative, shared, whole
from rlhf.algorithms.policy import policy_objective
from rlhf.config.grpo import GrpoConfig
from rlhf.online.algorithm import Batch, Credit
from rlhf.online.rollout import Rollout


class Grpo:
    """Advantages from a response's place among those to the same prompt.

    Args:
        config: the run's configuration.
    """

    def __init__(self, config: GrpoConfig) -> None:
        self.config = config

    def advantages(self, rollout: Rollout, rewards: list[torch.Tensor]) -> Credit:
        """See ``Algorithm``."""
        k, by_std = self.config.responses_per_prompt, self.config.normalize == "std"
        return shared(group_relative(whole(rewards), k, by_std), rewards)

    def loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """See ``Algorithm``."""
        return policy_objective(batch, self.config)
