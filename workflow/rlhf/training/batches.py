"""Batch sizes are the configuration's, however many ranks there are. No torch in here."""

from __future__ import annotations

import logging
from typing import Any

from rlhf.errors import ConfigError

logger = logging.getLogger(__name__)


def check_batches(section: str, name: str, config: dict[str, Any], ranks: int) -> None:
    """Refuse batch sizes that so many ranks can't share; say where ranks have nothing to do.

    SFT and reward modelling share any batch: gradients are sums over rows, divided by what the
    whole batch counts. PPO's ranks each need a response, for they whiten and measure together.

    Args:
        section: ``sft``, ``reward`` or ``ppo``.
        name: the run's name.
        config: the run's configuration.
        ranks: ranks on all nodes.

    Raises:
        ConfigError: impossible; with the nearest possible size.
    """
    if section == "ppo" and config["rollout_batch_size"] < ranks:
        rows, minibatch = config["rollout_batch_size"], config["minibatch_size"]
        nearest = -(-ranks // minibatch) * minibatch
        raise ConfigError(
            f"{rows} responses can't be shared by {ranks} ranks.",
            where=f"ppo.{name}.rollout_batch_size: {rows}",
            expected=f"at least one response for each rank: {nearest} is the nearest multiple of "
            f"minibatch_size {minibatch}",
            hint=f"set rollout_batch_size to {nearest}, or use at most {rows} ranks (cluster.nodes,"
            " cluster.gpus_per_node, cluster.processes_per_node)",
        )
    key = "minibatch_size" if section == "ppo" else "global_batch_size"
    if config[key] < ranks:
        logger.info(
            "%s.%s.%s: %d keeps only %d of %d ranks busy at a time",
            *(section, name, key, config[key], config[key], ranks),
        )
