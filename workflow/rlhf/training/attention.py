"""Which way a run's models compute attention."""

from __future__ import annotations

import logging

from torch import nn

from rlhf.errors import ConfigError
from rlhf.models import devices
from rlhf.models.attention_probe import is_fused, problem
from rlhf.models.backbone import Backbone, backbones
from rlhf.runtime.options import AttentionChoice
from rlhf.training import distributed

logger = logging.getLogger(__name__)

KEY = "cluster.attention"


def choose_attention(root: nn.Module, wanted: AttentionChoice) -> None:
    """Let each model in a root attend in the way that was asked for; all ranks call this.

    On GPUs ``auto`` is the first of what the root prefers that works on every rank; on CPUs it is
    what transformers has.

    Args:
        root: what holds the models, their precision already set.
        wanted: the configuration's choice.

    Raises:
        ConfigError: that way does not work here.
    """
    device = devices.own_device()
    if wanted == "auto" and device.type == "cpu":
        return
    for backbone in backbones(root):
        kind = type(backbone.model).__name__
        for way in backbone.preferred if wanted == "auto" else (wanted,):
            why = problem(backbone, way, device)
            if not distributed.anyone(bool(why)):
                backbone.attend(way)
                logger.info("%s: attention is %s%s", kind, way, _packing(backbone))
                break
            why = why or "it does not work on another rank"
            if wanted != "auto":
                raise ConfigError(
                    f"Attention of {kind} can't be computed by {wanted} on {device.type}: {why}.",
                    where=KEY,
                    expected="a way that works for this model on this device",
                    hint=f"write {KEY}: auto",
                )
            logger.info("%s: attention can't be %s: %s", kind, way, why)
        if (
            device.type == "cuda"
            and backbone.attention == "sdpa"
            and not is_fused(backbone, device)
        ):
            logger.warning(
                "%s: torch computes its attention by the plain kernel, which keeps all scores: "
                "memory grows with the square of the longest row", kind,
            )  # fmt: skip


def attention_facts(root: nn.Module) -> dict[str, str]:
    """How a root's models compute attention, for a manifest; nothing where nobody chose."""
    ways = dict.fromkeys(each.attention for each in backbones(root) if each.attention)
    return {"attention": ", ".join(ways)} if ways else {}


def _packing(backbone: Backbone) -> str:
    if not backbone.packs:
        return ", rows padded"
    return ", rows in one sequence" + (", which share histories" if backbone.branches else "")
