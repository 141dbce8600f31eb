"""Many rows in one sequence without padding, and what their tokens attend to.

A row is a history, and the replies that share it, if there are any: in each of them positions go
on from the history, and its tokens see the history and the reply itself. Tokens of other rows are
never seen, so values and gradients are those of rows that are computed one by one.

Masks know tokens by their numbers in the sequence of T; a model with a sliding window has it in
its masks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rlhf.models.devices import moved
from rlhf.runtime.options import AttentionKind

BLOCK = 128  # tokens of a side of FlexAttention's blocks
# Rows are filled up to this many tokens: FlexAttention is compiled for whole blocks.
MULTIPLES: dict[str, int] = {"flex": BLOCK}
SLIDING = "sliding_attention"
LAYER_TYPES = {SLIDING, "full_attention"}  # of transformers, of which masks are known

Row = tuple[torch.Tensor, Sequence[torch.Tensor]]  # ids of a history, and of each reply to it


@dataclass(frozen=True)
class Pack:
    """Rows in one sequence.

    Attributes:
        tokens: [4, T]: token ids; positions, from 0 in each row; the number of the token's row,
            ascending; and of its reply, from 1 on, 0 in a history.
        starts: where each piece begins: of every row its history, then its replies.
        lengths: tokens of each row.
    """

    tokens: torch.Tensor
    starts: list[int]
    lengths: list[int]


def pack(rows: Sequence[Row], multiple: int = 1) -> Pack:
    """Join rows; filled up to a multiple of tokens by one more row, of id 0, without a piece."""
    pieces, starts, lengths, end = [], [], [], 0
    for number, (history, replies) in enumerate(rows):
        begin = end
        for reply, ids in enumerate((history, *replies)):
            first = len(history) if reply else 0
            pieces.append(_piece(ids, first, number, reply))
            starts.append(end)
            end += len(ids)
        lengths.append(end - begin)
    if rest := -end % multiple:
        pieces.append(_piece(torch.zeros(rest, dtype=torch.long), 0, len(rows), 0))
        lengths.append(rest)
    return Pack(torch.cat(pieces, 1), starts, lengths)


def _piece(ids: torch.Tensor, first: int, row: int, reply: int) -> torch.Tensor:
    positions = torch.arange(first, first + len(ids))
    return torch.stack(
        [ids, positions, ids.new_full(ids.shape, row), ids.new_full(ids.shape, reply)]
    )


def model_inputs(
    packed: Pack, kind: AttentionKind, config: Any, device: torch.device
) -> dict[str, Any]:
    """What a body of transformers is called with.

    Args:
        packed: the rows; without replies where ``kind`` is ``flash``.
        kind: how attention is computed: by the rows' ends, or under a mask of blocks or of tokens.
        config: the model's.
        device: where it computes.
    """
    tokens = moved(packed.tokens, device)
    inputs = {"input_ids": tokens[:1], "position_ids": tokens[1:2], "use_cache": False}
    if kind == "flash":
        ends = torch.tensor([0, *packed.lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        ends, longest = moved(ends, device), max(packed.lengths)
        # transformers takes a mask of four dimensions as it is, and asks the GPU nothing.
        return inputs | {
            "attention_mask": torch.empty(1, 1, 0, 0, dtype=torch.bool, device=device),
            "cu_seq_lens_q": ends,
            "cu_seq_lens_k": ends,
            "max_length_q": longest,
            "max_length_k": longest,
        }
    sees = visible(tokens)
    places = torch.arange(tokens.shape[1], device=device)

    def mask(window: int | None) -> Any:
        if kind == "flex":
            return block_mask(packed, sees(window), window, device)
        return sees(window)(0, 0, places[:, None], places)[None, None]

    return inputs | {"attention_mask": _by_layer(config, mask)}


def visible(tokens: torch.Tensor) -> Callable[[int | None], Callable[..., torch.Tensor]]:
    """From a sliding window, or None, to a mask as FlexAttention has them, of two tokens.

    Args:
        tokens: see ``Pack``.
    """
    _, positions, rows, replies = tokens

    def within(window: int | None) -> Callable[..., torch.Tensor]:
        def sees(_batch, _head, query, key):
            same = (rows[query] == rows[key]) & (query >= key)
            same = same & ((replies[key] == 0) | (replies[key] == replies[query]))
            if window is None:
                return same
            return same & (positions[query] - positions[key] < window)

        return sees

    return within


def block_mask(
    packed: Pack, sees: Callable[..., torch.Tensor], window: int | None, device: torch.device
) -> Any:
    """FlexAttention's mask: which blocks of tokens see each other, and ``sees`` within a block.

    What is known of whole blocks on the CPU need not be asked of all pairs of tokens on the GPU.

    Args:
        packed: rows of whole blocks together.
        sees: see ``visible``.
        window: a sliding window; None: there is none.
        device: where it is used.
    """
    from torch.nn.attention.flex_attention import BlockMask

    _, _, rows, replies = packed.tokens.view(4, -1, BLOCK)
    first, last, plain = rows[:, 0], rows[:, -1], replies.amax(1) == 0
    number = torch.arange(len(first))
    some = (number[:, None] >= number) & (last >= first[:, None])  # [queries, keys]
    # One row throughout, the keys earlier and of a history: nothing is hidden.
    every = (number[:, None] > number) & (first == last[:, None]) & plain
    if window is not None:
        every = torch.zeros_like(every)
    kinds = torch.stack([some & ~every, every]).int()
    counts = moved(kinds.sum(2, dtype=torch.int32), device)[:, None, None]
    orders = moved(kinds.argsort(dim=2, descending=True, stable=True).int(), device)[:, None, None]
    return BlockMask.from_kv_blocks(
        counts[0], orders[0], counts[1], orders[1],
        BLOCK_SIZE=BLOCK, mask_mod=sees, seq_lengths=(rows.numel(), rows.numel()),
    )  # fmt: skip


def window_of(config: Any) -> int | None:
    """Tokens that a layer with a sliding window sees; None where the model has no such layers."""
    config = config.get_text_config()
    window = getattr(config, "sliding_window", None)
    return window if getattr(config, "use_sliding_window", True) else None


def unknown_layers(config: Any) -> set[str]:
    """Types of the model's layers whose masks are not known here."""
    return set(getattr(config.get_text_config(), "layer_types", None) or ()) - LAYER_TYPES


def _by_layer(config: Any, mask: Callable[[int | None], Any]) -> Any:
    """A mask for all layers, or one for each type of layer, by its name in transformers."""
    types = set(getattr(config.get_text_config(), "layer_types", None) or ())
    if not types:
        return mask(window_of(config))
    if SLIDING not in types:
        return mask(None)
    return {kind: mask(window_of(config) if kind == SLIDING else None) for kind in types}
