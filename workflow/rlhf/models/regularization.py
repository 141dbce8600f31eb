"""Residual dropout and noise on embeddings, where gradients are computed and nowhere else.

Validation, sampling and whatever else only reads a model's outputs pass without. Draws are those of
torch's own generators: who trains seeds them for each pass, and a layer that is computed again for
the backward pass finds them as they were.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from rlhf.errors import ConfigError
from rlhf.models.backbone import Backbone
from rlhf.models.layers import decoder_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Parts of a decoder layer whose outputs are added to the residual stream. Most families have one
# for attention and one for the feed-forward network, under these names.
_ATTENTION = ("self_attn", "attn", "attention", "self_attention")
_FEED_FORWARD = ("mlp", "feed_forward", "block_sparse_moe")
# Where there are both of these, as in Gemma and OLMo 2, they normalize what is added.
_NORMS_AFTER = ("post_attention_layernorm", "post_feedforward_layernorm")
# Others add inside of the part, or have no module for the second one.
_OWN_PARTS = {
    "bloom": ("self_attention.dense", "mlp.dense_4h_to_h"),
    "mpt": ("attn", "ffn.down_proj"),
    "opt": ("self_attn", "fc2"),
}


def drop_residuals(
    backbone: Backbone, rate: float, ramp: str, where: str, frozen_layers: int = 0
) -> None:
    """Drop a share of what attention and feed-forward parts add to the residual stream.

    Args:
        backbone: its weights and adapters in place.
        rate: p, the share that is dropped; what is kept is divided by 1 − p.
        ramp: ``none``: p in all of the L layers; ``linear``: p·i/(L − 1) in layer i from 0 on
            (LIMA, Zhou et al. 2023, arXiv 2305.11206, section 3).
        where: the key of the settings, for messages.
        frozen_layers: the lowest layers, which are left as they are.

    Raises:
        ConfigError: it is not known what the architecture's layers add.
    """
    layers = decoder_layers(backbone.model)
    for i, layer in enumerate(layers):
        own = rate * i / max(1, len(layers) - 1) if ramp == "linear" else rate
        if own and i >= frozen_layers:
            for part in _parts(backbone.model, layer, where):
                part.register_forward_hook(partial(_drop, own))


def _parts(model: PreTrainedModel, layer: nn.Module, where: str) -> Iterator[nn.Module]:
    named = dict(layer.named_modules())
    own = _OWN_PARTS.get(model.config.model_type)
    if all(name in named for name in _NORMS_AFTER):
        own = _NORMS_AFTER
    choices: list[tuple[str, ...]] = [_ATTENTION, _FEED_FORWARD]
    if own is not None:
        choices = [(name,) for name in own]
    for names in choices:
        part = next((named[name] for name in names if name in named), None)
        if part is None:
            raise ConfigError(
                f"What the layers of {type(model).__name__} ({model.config.model_type}) add to "
                "the residual stream is not known.",
                where=where,
                expected=f"layers with {' or '.join(_ATTENTION)}, and {' or '.join(_FEED_FORWARD)}",
                hint="leave residual_dropout out, or choose another architecture",
            )
        yield part


def _drop(rate: float, _part: nn.Module, _inputs: Any, output: Any) -> Any:
    if not torch.is_grad_enabled():
        return output
    if isinstance(output, tuple):  # attention also gives its weights
        return F.dropout(output[0], rate), *output[1:]
    return F.dropout(output, rate)


def add_embedding_noise(backbone: Backbone, alpha: float) -> None:
    """Add uniform noise to the embeddings of tokens: NEFTune, Jain et al. 2023 (arXiv 2310.05914).

    Of a row of L tokens, with embeddings of width d, it is within ± α/√(L·d): algorithm 1 there.

    Args:
        backbone: its weights and adapters in place.
        alpha: α.
    """

    def noisy(_part: nn.Module, _inputs: Any, embedded: torch.Tensor) -> torch.Tensor:
        lengths = backbone.row_lengths
        if lengths is None or not torch.is_grad_enabled():
            return embedded
        bound = alpha / (lengths.to(embedded) * embedded.shape[-1]).sqrt()[..., None]
        return embedded + bound * (2 * torch.rand_like(embedded) - 1)

    backbone.model.get_input_embeddings().register_forward_hook(noisy)
    backbone.notes_lengths = True
