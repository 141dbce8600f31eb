"""Which kind of engine a run trains with."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from rlhf.config.training import OptimizerConfig
from rlhf.models import devices
from rlhf.models.backbone import backbones
from rlhf.models.branch import branches
from rlhf.runtime.options import EngineOptions
from rlhf.training.attention import choose_attention
from rlhf.training.engine.protocol import Engine
from rlhf.training.engine.replicated import Replicated
from rlhf.training.optim import check_optimizer


def open_engine(
    root: nn.Module, rates: Mapping[str, float], config: OptimizerConfig, options: EngineOptions
) -> Engine:
    """An engine around a root, which is placed on this process's device; all ranks call this.

    Args:
        root: the module that is trained, its frozen parameters already marked.
        rates: prefix of parameter names → peak learning rate; ``""`` stands for all.
        config: AdamW's.
        options: the kind of engine, and how it keeps what it holds.

    Raises:
        ConfigError: the kind is not installed, or does not have an option, or not the optimizer; or
            activations are to be computed again, or attention in some way, and a model can't.
    """
    check_optimizer(config, devices.own_device(), options.kind)
    choose_attention(root, options.attention)
    if options.activation_checkpointing:
        for backbone in backbones(root):
            backbone.checkpoint_activations()
            for branch in branches(root):
                if branch.model is backbone.model:
                    with branch.in_place():
                        backbone.checkpoint_activations()
    if options.kind == "fsdp":
        from rlhf.training.engine.fsdp import FullySharded

        return FullySharded(root, rates, config, options)
    if options.kind != "replicated":
        from rlhf.training.engine.zero import Zero

        return Zero(root, rates, config, options)
    return Replicated(root, rates, config)
