"""The frozen lower part of a model: computed once for each sequence, remembered between epochs.

With frozen embeddings and lower layers, their output for a sequence never changes. SFT and reward
modelling meet each row once an epoch, PPO meets each response in the old-policy pass and in every
epoch; all but the first time only the upper layers run. A sequence goes through the trunk alone,
unpadded, so what is remembered does not depend on which rows shared its batch, and a run that was
stopped and resumed gives the same bytes.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Decoders that are a plain stack between embeddings and a norm, with rotary positions: their
# upper part runs on hidden states given as embeddings.
STACKED = frozenset({"llama", "mistral", "qwen2"})
MAX_BYTES = 2**30


class Trunk:
    """Embeddings and frozen decoder layers of a model.

    Args:
        model: a model whose embeddings and lowest ``layers`` decoder layers are frozen.
        layers: how many.
        max_bytes: memory for remembered hidden states; the least recently used go first.

    Attributes:
        layers: how many decoder layers it has.
    """

    def __init__(self, model: PreTrainedModel, layers: int, max_bytes: int = MAX_BYTES) -> None:
        self._body: Any = model.base_model
        self.layers, self._max_bytes, self._bytes = layers, max_bytes, 0
        self._known: OrderedDict[tuple[bytes, ...], torch.Tensor] = OrderedDict()

    @staticmethod
    def fits(model: PreTrainedModel) -> bool:
        """Whether the architecture can be cut in two."""
        config: Any = model.config
        windowed = getattr(config, "sliding_window", None) and getattr(
            config, "use_sliding_window", True
        )
        return config.model_type in STACKED and not windowed

    @torch.no_grad()
    def lower(self, ids: torch.Tensor, **layout: torch.Tensor) -> torch.Tensor:
        """Hidden states [T, H] below the first trained layer.

        Args:
            ids: one sequence [T].
            layout: ``position_ids`` [1, T] and ``attention_mask`` [1, 1, T, T], if not causal.
        """
        key = (ids.numpy().tobytes(), *(x.cpu().numpy().tobytes() for x in layout.values()))
        found = self._known.get(key)
        if found is not None:
            self._known.move_to_end(key)
            return found
        device = self._body.get_input_embeddings().weight.device
        with self._only(slice(None, self.layers), nn.Identity()):
            found = self._body(
                input_ids=ids[None].to(device), use_cache=False, **layout
            ).last_hidden_state[0]
        self._known[key] = found
        self._bytes += found.nbytes
        while self._bytes > self._max_bytes:
            self._bytes -= self._known.popitem(last=False)[1].nbytes
        return found

    def upper(self, hidden: torch.Tensor, **layout: torch.Tensor) -> torch.Tensor:
        """Last hidden states [B, T, H] from ``lower``'s, padded on the right."""
        with self._only(slice(self.layers, None), self._body.norm):
            return self._body(inputs_embeds=hidden, use_cache=False, **layout).last_hidden_state

    @contextlib.contextmanager
    def _only(self, part: slice, norm: nn.Module) -> Iterator[None]:
        """Run the body with a part of its layers and another last norm."""
        layers, last = self._body.layers, self._body.norm
        self._body.layers, self._body.norm = layers[part], norm
        try:
            yield
        finally:
            self._body.layers, self._body.norm = layers, last
