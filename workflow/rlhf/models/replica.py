"""A whole copy of a language model whose weights are kept elsewhere, in parts."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from rlhf.models.adapter_weights import merged
from rlhf.models.prefix import WEIGHT
from rlhf.models.prefix_tuning import copy_prefix
from rlhf.models.roots import TokenScorer


def replica(
    root: TokenScorer, weights: Iterable[tuple[str, torch.Tensor]], dtype: torch.dtype | None = None
) -> TokenScorer:
    """The same model with these weights, for use without gradients.

    Args:
        root: the model; its own weights are not touched.
        weights: whole tensors by their names in the model, tied ones once; they are taken over as
            they are, not copied, and an adapter is merged into them.
        dtype: type of what is floating-point; None: as it is.
    """
    model = root.model
    with torch.device("meta"):
        copy = type(model)(model.config)
    tensors = {
        name: tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor
        for name, tensor in merged(model, weights)
    }
    if (prefix := tensors.pop(WEIGHT, None)) is not None:
        copy_prefix(model, copy, prefix)
    copy.load_state_dict(tensors, strict=False, assign=True)
    copy.tie_weights()
    # Such as rotary frequencies, which are in no state.
    for name, buffer in merged(model, model.named_buffers()):
        owner, _, leaf = name.rpartition(".")
        copy.get_submodule(owner)._buffers[leaf] = buffer
    empty = [name for name, tensor in copy.named_parameters() if tensor.is_meta]
    assert not empty, empty
    made = root.with_model(copy.eval().requires_grad_(False))
    made.place(root.device, lockstep=False)
    return made
