"""Whether a model's attention can be computed in a certain way on a device: it is tried.

A small model of the same class, with the same heads and layers of each type, computes rows as
training does, forward and backward, and is compared with plain products.
"""

from __future__ import annotations

import copy
import gc
from typing import Any, cast

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from rlhf.core.seeds import derived_seed
from rlhf.models.backbone import Backbone
from rlhf.models.context import context
from rlhf.models.head import NARROW_ROUNDING, ROUNDING, same
from rlhf.models.packing import unknown_layers
from rlhf.models.precision import is_narrow
from rlhf.runtime.options import AttentionKind

VOCABULARY = 64
WINDOW = 16  # of layers that have one, so that rows are longer
# Tokens of rows, several of FlexAttention's blocks together; the first two begin alike.
LENGTHS = (90, 140, 30, 110)
SHARED = 20
PASSES = (4, 2)  # rows of each: what is compiled for a second size is for any
INNER = ("intermediate_size", "moe_intermediate_size", "ffn_dim")  # widths that are no matter here
FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]


def problem(root: Backbone, kind: AttentionKind, device: torch.device) -> str | None:
    """Why the model can't be computed so; None where it can.

    Args:
        root: the model, and the type of its products; its weights are not touched.
        kind: how attention is to be computed.
        device: where.
    """
    if kind in ("flash", "flex") and (others := unknown_layers(root.model.config)):
        return f"it has layers of {', '.join(sorted(others))}, whose masks are not known here"
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            torch.manual_seed(derived_seed(0, "attention probe"))
            small = _small(root, device)
            small.attend("eager")
            expected = _computed(small)
            small.attend(kind)
            if small.model.config._attn_implementation != _implementation(kind):
                return "transformers' class does not have it"
            found = _computed(small)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        said = str(error).strip().splitlines()[:1]
        return f"a small input ends in {type(error).__name__}{': ' if said else ''}{''.join(said)}"
    finally:
        small = None  # type: ignore[assignment]
        gc.collect()
    rounding = NARROW_ROUNDING if is_narrow(root.product_dtype) else ROUNDING[torch.float32]
    whats = ("values", "gradients") * len(PASSES)
    for what, own, plain in zip(whats, found, expected, strict=True):
        if not same(own, plain, rounding):
            return f"{what} of a small input are not those of plain attention"
    return None


def is_fused(root: Backbone, device: torch.device) -> bool:
    """Whether torch has a kernel for the model's scaled dot products that keeps no scores."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []), sdpa_kernel(FUSED):
        small = _small(root, device)
        small.attend("sdpa")
        try:
            _computed(small)
        except RuntimeError:
            return False
    return True


def _implementation(kind: AttentionKind) -> str:
    return "eager" if kind == "eager" else "sdpa"


def _small(root: Backbone, device: torch.device) -> Backbone:
    """The body with random weights, few layers and words; gradients are those of its words."""
    model: Any = type(root.model.base_model)
    with device:
        body: Any = model(_small_config(root.model.config))
    body.float().requires_grad_(False).get_input_embeddings().weight.requires_grad_(True)
    small = Backbone(body.eval())
    small.compute_in(str(root.product_dtype).removeprefix("torch."))
    return small


def _small_config(config: Any) -> Any:
    small = copy.deepcopy(config)
    text = small.get_text_config()
    types = getattr(text, "layer_types", None)
    if types:
        text.layer_types = sorted(set(types))
    text.num_hidden_layers = len(text.layer_types) if types else 1
    text.vocab_size, text.pad_token_id = VOCABULARY, None
    # Otherwise what attention adds to the embeddings of narrow models hardly shows.
    text.initializer_range = text.hidden_size**-0.5
    if isinstance(getattr(text, "sliding_window", None), int):
        text.sliding_window = WINDOW
    for name in INNER:
        if isinstance(getattr(text, name, None), int):
            setattr(text, name, VOCABULARY)
    return small


def _computed(small: Backbone) -> list[torch.Tensor]:
    """Of each pass the last hidden states, and the gradients of the embeddings."""
    random = torch.Generator().manual_seed(derived_seed(0, "rows of the attention probe"))
    most = context(small.model.config).tokens or max(LENGTHS)
    lengths = [min(length, most) for length in LENGTHS]
    rows = [torch.randint(VOCABULARY, (length,), generator=random) for length in lengths]
    rows[1][:SHARED] = rows[0][:SHARED]
    first = [SHARED, SHARED, 1, 1]
    places = [torch.arange(start, len(row)) for start, row in zip(first, rows, strict=True)]
    words = cast(nn.Embedding, small.model.get_input_embeddings()).weight
    found = []
    for count in PASSES:
        states = small.states_at(rows[:count], places[:count], first[:count])
        slopes = torch.randn(states.shape, generator=random).to(states.device)
        found += [states.detach(), *torch.autograd.grad((states * slopes).sum(), words)]
    return found
