"""Stands in for the kernel of a GPU where there is none."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def fake_varlen_attn_of_a_gpu(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa
):
    """``torch.nn.attention.varlen.varlen_attn``, causal, a row after the other."""
    assert query.dtype == key.dtype == value.dtype
    assert max_q == int(cu_seq_q.diff().max())
    left, right = window_size
    assert right == 0
    states = []
    for begin, end in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
        rows = (each[begin:end].transpose(0, 1) for each in (query, key, value))
        sees = torch.ones(end - begin, end - begin, dtype=torch.bool).tril()
        if left >= 0:
            sees = sees.triu(-left)
        row = F.scaled_dot_product_attention(
            *rows, attn_mask=sees, scale=scale, enable_gqa=enable_gqa
        )
        states.append(row.transpose(0, 1))
    return torch.cat(states)
