"""How attention is computed, where transformers would call torch's scaled dot products.

The kernel follows from what a layer is given: ends of rows that stand in one sequence, for torch's
variable-length FlashAttention (Dao 2023, arXiv 2307.08691); a mask of blocks, for FlexAttention
(Dong et al. 2024, arXiv 2412.05496); or else torch's scaled dot products.
"""

from __future__ import annotations

from typing import Any

import torch

NOT_IN_FLASH = ("softcap", "s_aux", "position_bias")
_NO_GROUPS = torch.nn.Module()  # a layer whose query heads each have keys of their own


def install() -> None:
    """Let models whose attention is ``sdpa`` call ``attend``."""
    from transformers import AttentionInterface

    AttentionInterface.register("sdpa", attend)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    cache: Any = None,
    **options: Any,
) -> tuple[torch.Tensor, Any]:
    """Attention as a layer of transformers calls it; [B, T, heads, D].

    Args:
        module: the layer.
        query: [B, heads, T, D].
        key: [B, key heads, T, D].
        value: like ``key``.
        attention_mask: of tokens or blocks; None: causal.
        cu_seq_lens_q: where rows begin and end [rows + 1] in a sequence without padding, int32.
        max_length_q: tokens of the longest of them.
        cache: keys and values in pages, by transformers' continuous batching; it says all else.
        options: what else transformers gives.
    """
    from torch.nn.attention.flex_attention import BlockMask
    from transformers.integrations.flex_attention import flex_attention_forward
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if cache is not None:
        options |= {"cu_seq_lens_q": cu_seq_lens_q, "max_length_q": max_length_q, "cache": cache}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    if cu_seq_lens_q is not None or isinstance(attention_mask, BlockMask):
        # Autocast knows scaled dot products alone.
        query, key, value = (_narrow(each) for each in (query, key, value))
    if cu_seq_lens_q is not None:
        assert max_length_q is not None
        return _flash(query, key, value, cu_seq_lens_q, max_length_q, **options), None
    if isinstance(attention_mask, BlockMask):
        return flex_attention_forward(module, query, key, value, attention_mask, **options)
    if query.shape[1] != key.shape[1] and query.shape[2] > 1 and _only_plain(query):
        if options.get("is_causal") is None:
            options["is_causal"] = getattr(module, "is_causal", True)
        groups = query.shape[1] // key.shape[1]
        key, value = (each.repeat_interleave(groups, 1) for each in (key, value))
        return sdpa_attention_forward(_NO_GROUPS, query, key, value, attention_mask, **options)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    ends: torch.Tensor,
    longest: int,
    scaling: float | None = None,
    sliding_window: int | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> torch.Tensor:
    """Causal attention within rows that stand in one sequence [1, heads, T, D]."""
    from torch.nn.attention import varlen

    others = [name for name in NOT_IN_FLASH if options.get(name) is not None]
    if others or dropout:
        raise ValueError(f"FlashAttention has no {', '.join(others) or 'dropout'}")
    q, k, v = (each[0].transpose(0, 1) for each in (query, key, value))
    states: Any = varlen.varlen_attn(
        q, k, v, ends, ends, longest, longest,
        scale=scaling,
        window_size=(sliding_window - 1 if sliding_window else -1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    return states[None]


def _narrow(tensor: torch.Tensor) -> torch.Tensor:
    """In the type of products: that of autocast, where it is on."""
    device = tensor.device.type
    enabled = torch.is_autocast_enabled(device)
    return tensor.to(torch.get_autocast_dtype(device)) if enabled else tensor


def _only_plain(query: torch.Tensor) -> bool:
    """Whether torch would compute groups of query heads by its plain kernel alone.

    It keeps all scores. The only other kernel for float32 on GPUs has no groups.
    """
    return query.is_cuda and _narrow(query).dtype == torch.float32
