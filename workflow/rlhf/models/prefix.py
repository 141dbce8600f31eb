"""Prefix tuning: trained keys and values that every token of a row attends to, in every layer.

Li & Liang 2021 (arXiv 2101.00190), without the reparametrization. Where a layer attends to the keys
K and values V of a row it attends to [P_k; K] and [P_v; V]; P_k and P_v, of n tokens, are trained
and all else is frozen. The row's positions begin at n.

A prefix is a module of the model, beside its body: whoever passes through the body gives it a cache
that begins with the prefix (``cache_of``). No weights can hold it, so it is published alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicLayer

MODULE = "prefix_tuning"  # its name in a model
WEIGHT = f"{MODULE}.encoder.embedding.weight"
# In peft's files: the prefix, and what stands before names of what is trained beside it.
EMBEDDINGS, HEAD = "prompt_embeddings", "base_model."


class Prefix(nn.Module):
    """Keys and values before those of a row.

    Args:
        encoder: peft's, without a projection: a matrix [n, layers · 2 · heads · width].
        keys: layers, heads of keys and values, and features of a head.
        start: the prefix of the model that this one started from; None: it has none.
    """

    start: torch.Tensor | None

    def __init__(
        self, encoder: nn.Module, keys: tuple[int, int, int], start: torch.Tensor | None
    ) -> None:
        super().__init__()
        self.encoder, self.keys = encoder, keys
        self.register_buffer("start", start, persistent=False)
        self._disable_adapters = False  # as peft's layers have it, for ``adapters.switched_off``

    @property
    def tokens(self) -> int:
        """n; 0: switched off."""
        if self._disable_adapters:
            return 0 if self.start is None else len(self.start)
        return len(self.encoder.get_parameter("embedding.weight"))

    def forward(self) -> torch.Tensor | None:
        """[layers, 2, heads, n, width]: keys and values of each layer; None: switched off."""
        flat = self.start
        if not self._disable_adapters:
            weight: Any = self.encoder.get_parameter("embedding.weight")
            flat = self.encoder(torch.arange(weight.shape[0], device=weight.device))
        if flat is None:
            return None
        layers, heads, width = self.keys
        return flat.unflatten(1, (layers, 2, heads, width)).permute(1, 2, 3, 0, 4)


class _After(DynamicLayer):
    """Keys and values of a row after those of the prefix; a pass keeps nothing."""

    def __init__(self, prefix: torch.Tensor) -> None:
        super().__init__()
        self._prefix = prefix

    def update(self, key_states, value_states, *args, **kwargs):
        own = self._prefix.to(key_states)[:, None].expand(-1, len(key_states), -1, -1, -1)
        return torch.cat([own[0], key_states], -2), torch.cat([own[1], value_states], -2)

    def get_seq_length(self) -> int:
        return self._prefix.shape[-2]


def prefix_of(model: nn.Module) -> Prefix | None:
    """A model's prefix, if it has one."""
    return getattr(model, MODULE, None)


def cache_of(model: nn.Module) -> dict[str, Any]:
    """What a pass through a model's body, of whole rows, is given beside them."""
    prefix = prefix_of(model)
    given = None if prefix is None else prefix()
    if given is None:
        return {}
    return {"past_key_values": Cache(layers=[_After(layer) for layer in given])}
