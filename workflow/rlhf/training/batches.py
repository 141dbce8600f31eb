"""Batch sizes are the configuration's, however many ranks there are. No torch in here."""

from __future__ import annotations

import logging
from typing import Any

from rlhf.errors import ConfigError

logger = logging.getLogger(__name__)


def check_batches(section: str, name: str, config: dict[str, Any], ranks: int) -> None:
    """Say where a global batch leaves ranks with nothing to do.

    Any batch can be shared: gradients are sums over rows, divided by what the whole batch counts.

    Args:
        section: the run's section, such as ``sft``.
        name: the run's name.
        config: the run's configuration.
        ranks: ranks on all nodes.
    """
    _tell_idle(f"{section}.{name}.global_batch_size", config["global_batch_size"], ranks)


def check_rollouts(section: str, name: str, config: dict[str, Any], ranks: int) -> None:
    """Refuse a rollout that has no response for some rank; say where ranks have nothing to do.

    Ranks whiten and measure together, so each needs a response.

    Args:
        section: the run's section, such as ``ppo``.
        name: the run's name.
        config: the run's configuration.
        ranks: ranks on all nodes.

    Raises:
        ConfigError: impossible; with the nearest possible size.
    """
    if config["rollout_batch_size"] < ranks:
        rows, minibatch = config["rollout_batch_size"], config["minibatch_size"]
        nearest = -(-ranks // minibatch) * minibatch
        raise ConfigError(
            f"{rows} responses can't be shared by {ranks} ranks.",
            where=f"{section}.{name}.rollout_batch_size: {rows}",
            expected=f"at least one response for each rank: {nearest} is the nearest multiple of "
            f"minibatch_size {minibatch}",
            hint=f"set rollout_batch_size to {nearest}, or use at most {rows} ranks (cluster.nodes,"
            " cluster.gpus_per_node, cluster.processes_per_node)",
        )
    _tell_idle(f"{section}.{name}.minibatch_size", config["minibatch_size"], ranks)


def _tell_idle(key: str, size: int, ranks: int) -> None:
    if size < ranks:
        logger.info("%s: %d keeps only %d of %d ranks busy at a time", key, size, size, ranks)
