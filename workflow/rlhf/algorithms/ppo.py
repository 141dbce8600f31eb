"""Proximal policy optimisation of a language model.

Schulman et al. 2017 (arXiv 1707.06347) in the form of Stiennon et al. 2020 and of "The N
Implementation Details of RLHF with PPO". Each update:

1. Sample responses; their log probabilities and values under the current actor (``online.loop``).
2. Scores become per-token rewards with a KL penalty (``online.rewards``).
3. Rewards and values become advantages and returns: ``gae``.
4. Advantages are whitened over all tokens of the update (``whiten``), or shifted to mean 0
   (``shift``), or stay as they are.
5. In each minibatch, the clipped objective of the policy (``policy_objective``) and the clipped
   error of the value function (``value_loss``) are summed over tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rlhf.algorithms.advantages import shift, whiten
from rlhf.algorithms.policy import policy_objective
from rlhf.config.ppo import PpoConfig
from rlhf.online.algorithm import Batch, Credit
from rlhf.online.rollout import Rollout


class Ppo:
    """Advantages from a learned value function, and a policy held near the one that sampled.

    Args:
        config: the run's configuration.
    """

    def __init__(self, config: PpoConfig) -> None:
        self.config = config

    def advantages(self, rollout: Rollout, rewards: list[torch.Tensor]) -> Credit:
        """See ``Algorithm``."""
        if self.config.rewards.whiten:
            rewards = whiten(rewards, shift_mean=False)
        advantages, returns = gae(rewards, rollout.values, self.config.gamma, self.config.lam)
        if self.config.advantages == "whiten":
            advantages = whiten(advantages)
        elif self.config.advantages == "shift":
            advantages = shift(advantages)
        return Credit(advantages, returns)

    def loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """See ``Algorithm``."""
        config, new = self.config, batch.new
        policy, measures = policy_objective(batch, config)
        value = value_loss(new.values, batch.values, batch.returns, config.value.clip)  # [N]
        value_sum = (value * batch.weights).sum()
        measures["value_loss"] = value_sum.detach()
        return policy + config.value.coefficient * value_sum, measures


def gae(
    rewards: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
    gamma: float,
    lam: float,
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Generalized advantage estimation; the value after a response's last token is 0.

    Schulman et al. 2016 (arXiv 1506.02438), equation 16.

    Args:
        rewards: n × [L_i].
        values: n × [L_i], of the state before each token.
        gamma: discount.
        lam: λ.

    Returns:
        Advantages and returns (advantage + value), n × [L_i].
    """
    lengths = [len(reward) for reward in rewards]
    pad = torch.nn.utils.rnn.pad_sequence
    r, v = pad(list(rewards), batch_first=True), pad(list(values), batch_first=True)  # [n, L]
    after = torch.cat([v[:, 1:], v.new_zeros(len(v), 1)], dim=1)  # [n, L]
    delta = r + gamma * after - v  # [n, L]
    # Padding holds zeros on the right, so running backwards it adds nothing to a response's end.
    advantages = torch.zeros_like(delta)  # [n, L]
    running = delta.new_zeros(len(delta))  # [n]
    for t in reversed(range(delta.shape[1])):
        running = delta[:, t] + gamma * lam * running
        advantages[:, t] = running
    parts = [advantages[i, :length] for i, length in enumerate(lengths)]
    return parts, [part + value for part, value in zip(parts, values, strict=True)]


def value_loss(
    values: torch.Tensor, old: torch.Tensor, returns: torch.Tensor, clip: float | None
) -> torch.Tensor:
    """Half the larger of the plain and the clipped squared error, per token [N].

    Args:
        values: [N] new values.
        old: [N] values when the tokens were sampled.
        returns: [N] targets.
        clip: range around the old values; None: half the plain squared error.
    """
    if clip is None:
        return 0.5 * (values - returns) ** 2
    near = old + (values - old).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2)
