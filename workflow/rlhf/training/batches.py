"""Batch sizes are the configuration's, however many ranks there are. No torch in here."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from rlhf.errors import ConfigError

if TYPE_CHECKING:
    from rlhf.config.offline import OfflineConfig
    from rlhf.config.online import OnlineConfig

logger = logging.getLogger(__name__)


def check_batches(section: str, name: str, config: OfflineConfig, ranks: int) -> None:
    """Say where ranks of a run on datasets alone have nothing to do.

    They share any batch: gradients are sums over rows, divided by what the whole batch counts.

    Args:
        section: such as ``sft``.
        name: the run's name.
        config: the run's configuration.
        ranks: ranks on all nodes.
    """
    rows = config.global_batch_size
    _mention_idle(f"{section}.{name}.global_batch_size", rows, rows, ranks)


def check_rollouts(section: str, name: str, config: OnlineConfig, ranks: int) -> None:
    """Refuse a rollout of fewer prompts than ranks; say where ranks have nothing to do.

    A rank samples all responses to a prompt; and each needs one, for they whiten and measure
    together.

    Args:
        section: of an on-policy method, such as ``ppo``.
        name: the run's name.
        config: the run's configuration.
        ranks: ranks on all nodes.

    Raises:
        ConfigError: impossible; with the nearest possible size.
    """
    k, minibatch = config.responses_per_prompt, config.minibatch_size
    prompts = config.rollout_batch_size // k
    if prompts < ranks:
        step = math.lcm(k, minibatch)
        nearest = -(-ranks * k // step) * step
        raise ConfigError(
            f"The prompts of a rollout ({prompts}) can't be shared by {ranks} ranks.",
            where=f"{section}.{name}.rollout_batch_size: {config.rollout_batch_size}",
            expected=f"at least {ranks * k}, a prompt for each rank with all its responses: "
            f"{nearest} is the nearest size that minibatch_size {minibatch} and "
            f"responses_per_prompt {k} divide",
            hint=f"set rollout_batch_size to {nearest}, or use at most {prompts} ranks "
            "(cluster.nodes, cluster.gpus_per_node, cluster.processes_per_node)",
        )
    busy = -(-minibatch // k)
    _mention_idle(f"{section}.{name}.minibatch_size", minibatch, busy, ranks)


def _mention_idle(key: str, rows: int, busy: int, ranks: int) -> None:
    if busy < ranks:
        logger.info("%s: %d keeps only %d of %d ranks busy at a time", key, rows, busy, ranks)
