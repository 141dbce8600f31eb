"""A transformer from token ids to last hidden states: what all roots are built on.

Sequences are right-padded and no mask is passed: in a causal model a real token never sees what
stands to its right, so padding changes nothing, and attention keeps its fast causal path. Where
attention can tell rows apart (``attend``), they stand in one sequence without padding instead.

Shapes: B sequences, T the longest, H the width, N selected positions.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rlhf.errors import ConfigError
from rlhf.models import attention
from rlhf.models.devices import moved
from rlhf.models.layers import decoder_layers, embeddings
from rlhf.models.packing import MULTIPLES, Row, model_inputs, pack, window_of
from rlhf.models.precision import products
from rlhf.models.prefix import cache_of, prefix_of
from rlhf.models.trunk import Trunk
from rlhf.runtime.options import AttentionKind

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Tokens of one branched pass: attention under a mask of its own grows with their square.
BRANCHED_TOKENS = 1024


class Backbone(nn.Module):
    """A transformer, how much of it is trained, and the type of its matrix products.

    Args:
        model: a causal model of transformers, its weights in place.
    """

    # How attention is computed where nothing else is asked for: the first that works.
    preferred: tuple[AttentionKind, ...] = ("flash", "flex", "sdpa", "eager")

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        attention.install()
        self.model = model
        self.attention: AttentionKind | None = None  # as transformers has it
        self._packs = False
        self.frozen_layers = 0  # from the bottom
        self._trunk: Trunk | None = None
        self._dtype: torch.dtype | None = None
        self._device: torch.device | None = None
        self._lockstep = False
        self._checkpointed: list[Any] = []  # modules that can run again in the backward pass
        self.notes_lengths = False  # whether noise on embeddings wants to know ``row_lengths``
        self.row_lengths: torch.Tensor | None = None  # of the pass: tokens of each token's row

    def place(self, device: torch.device, lockstep: bool) -> None:
        """Say how an engine keeps the weights.

        Args:
            device: computes; the weights may be kept elsewhere.
            lockstep: ranks pass through the layers together, so a call is one pass through each:
                histories and prompts are shared within a sequence alone, and no layer's output is
                remembered.
        """
        self._device, self._lockstep = device, lockstep

    def attend(self, kind: AttentionKind, packs: bool | None = None) -> None:
        """Choose how attention is computed, and whether rows stand in one sequence.

        Args:
            kind: ``flash``: torch's variable-length FlashAttention; ``flex``: FlexAttention;
                ``sdpa``: torch's scaled dot products; ``eager``: plain products.
            packs: whether rows stand in one sequence without padding; None: where kernels leave
                out what is hidden, in ``flash`` and ``flex``. ``eager`` would add the mask.
        """
        assert not (packs and kind == "eager")
        self.attention = kind
        self._packs = kind in ("flash", "flex") if packs is None else packs
        implementation = "eager" if kind == "eager" else "sdpa"
        if self.model.config._attn_implementation != implementation:
            self.model.set_attn_implementation(implementation)

    @property
    def device(self) -> torch.device:
        """What computes; where the weights are, unless an engine keeps them elsewhere."""
        return self._device or next(self.model.parameters()).device

    @property
    def product_dtype(self) -> torch.dtype:
        """Type of the matrix products in a forward pass."""
        return self._dtype or self.model.dtype

    @property
    def branches(self) -> bool:
        """Whether several continuations of one history can share a pass over it.

        The model has to apply a boolean mask as it is given: eager attention would add it. After a
        prefix each goes alone.
        """
        if prefix_of(self.model) is not None:
            return False
        if self.packs:
            return self.attention != "flash" and window_of(self.model.config) is None
        implementation = self.model.config._attn_implementation
        return not self._lockstep and Trunk.fits(self.model) and implementation == "sdpa"

    @property
    def shares_prompts(self) -> bool:
        """Whether sequences with one prompt should share a pass over it.

        On a CPU, and where rows stand in one sequence. Padded, a GPU is kept busy by many rows at
        a time, even if some of it is done twice.
        """
        return self.branches and (self.packs or self.device.type == "cpu")

    @property
    def packs(self) -> bool:
        """Whether rows stand in one sequence without padding."""
        return self._packs and prefix_of(self.model) is None

    def compute_in(self, precision: str) -> None:
        """Choose the type of the matrix products: ``bfloat16``, ``float16`` or ``float32``.

        Sampling is as it was: it takes one token a row at a time, and making narrow weights of
        wide ones would cost as much.
        """
        self._dtype = getattr(torch, precision)

    def checkpoint_activations(self) -> None:
        """Keep each layer's input alone for the backward pass, which computes the layer again.

        Chen et al. 2016 (arXiv 1604.06174). Values and gradients stay the same. Layers that take
        the place of others need another call, while they are there.

        Raises:
            ConfigError: transformers' class can't, or the model has a prefix.
        """
        if prefix_of(self.model) is not None:
            raise ConfigError(
                "Activations after a prefix can't be computed again: transformers' layers drop "
                "the prefix then.",
                where="cluster.activation_checkpointing",
                hint="write activation_checkpointing: false, or adapter.kind: lora",
            )
        try:
            self.model.activation_checkpointing_enable({"use_reentrant": False})
        except ValueError as error:
            kind = f"{type(self.model).__name__} ({self.model.config.model_type})"
            raise ConfigError(
                f"The activations of {kind} can't be computed again: {error}",
                where="cluster.activation_checkpointing",
                expected="an architecture that transformers can checkpoint",
                hint="write activation_checkpointing: false",
            ) from error
        flagged = (m for m in self.model.modules() if getattr(m, "gradient_checkpointing", False))
        self._checkpointed += [module for module in flagged if module not in self._checkpointed]
        for module in self._checkpointed:
            module.gradient_checkpointing = False

    @property
    def remembered_layers(self) -> int:
        """Lowest decoder layers whose output is remembered for each sequence."""
        known = self._trunk is not None and not self._lockstep and not self.packs
        return self._trunk.layers if self._trunk is not None and known else 0

    @contextlib.contextmanager
    def _passing(self) -> Iterator[None]:
        """Around a pass through the body: matrix products narrow, layers checkpointed.

        transformers does so in training mode, and refuses a cache then: modules are in that mode
        for passes that are learned from alone, and not while responses are sampled.
        """
        modules = self._checkpointed if torch.is_grad_enabled() else []
        modes = [module.training for module in modules]
        for module in modules:
            module.gradient_checkpointing = module.training = True
        try:
            with products(self.device, self._dtype):
                yield
        finally:
            for module, mode in zip(modules, modes, strict=True):
                module.gradient_checkpointing, module.training = False, mode

    def freeze(self, layers: int) -> None:
        """Keep the embeddings and the lowest ``layers`` decoder layers as they are.

        An output head that is tied to the embeddings is frozen with them. 0 freezes nothing. The
        frozen part's output is remembered where the architecture allows it (``Trunk``).

        Raises:
            ConfigError: the model has fewer layers.
        """
        if layers == 0:
            return
        stack = decoder_layers(self.model)
        if layers > len(stack):
            raise ConfigError(
                f"freeze_layers is {layers}, but the model has {len(stack)} layers.",
                where="freeze_layers",
                expected=f"0 to {len(stack)}",
            )
        for module in (*embeddings(self.model), *stack[:layers]):
            for parameter in module.parameters():
                parameter.requires_grad_(False)
        self.frozen_layers = layers
        if Trunk.fits(self.model):
            self._trunk = Trunk(self.model, layers)

    def freeze_body(self) -> None:
        """Keep all but the head as it is: embeddings, layers and the last norm.

        The layers' output is remembered where the architecture allows it (``Trunk``).
        """
        self.model.base_model.requires_grad_(False)
        if Trunk.fits(self.model):
            self._trunk = Trunk(self.model, len(decoder_layers(self.model)))

    def hidden_states(self, sequences: Sequence[torch.Tensor]) -> torch.Tensor:
        """Last hidden states [B, T, H], float32, of token ids [T_i]; positions from 0."""
        self._note_lengths([len(ids) for ids in sequences])
        with self._passing():
            if self._trunk is not None and not self._lockstep:
                lower = pad_right([self._trunk.lower(ids) for ids in sequences])
                return self._trunk.upper(lower).float()
            ids = moved(pad_right(sequences), self.device)
            body, prefix = self.model.base_model, cache_of(self.model)
            return body(input_ids=ids, use_cache=False, **prefix).last_hidden_state.float()

    def _note_lengths(self, lengths: Sequence[int], packed: bool = False) -> None:
        """Keep ``row_lengths`` [B, 1], or of rows in one sequence [1, T], for noise on embeddings.

        Args:
            lengths: tokens of each row, without padding.
            packed: whether the rows stand in one sequence.
        """
        if self.notes_lengths:
            each = torch.tensor(lengths)
            rows = torch.repeat_interleave(each, each)[None] if packed else each[:, None]
            self.row_lengths = moved(rows, self.device)

    def branched_hidden_states(
        self,
        histories: Sequence[torch.Tensor],
        branches: Sequence[Sequence[torch.Tensor]],
        with_histories: bool = False,
    ) -> list[list[torch.Tensor]]:
        """Hidden states of several continuations of each history, which is computed once.

        A row holds a history and then its branches; positions go on from the history in each, and
        a branch sees the history and itself. All rows go in one padded pass. Exact in values and
        gradients. Only where the model ``branches``.

        Args:
            histories: token ids [P_i], at least one.
            branches: token ids [L_ij] of the continuations of each.
            with_histories: the history's states stand before those of its branches.

        Returns:
            Last hidden states [L_ij, H] of each branch, float32.
        """
        rows = [torch.cat([h, *own]) for h, own in zip(histories, branches, strict=True)]
        sizes = [[len(h), *map(len, own)] for h, own in zip(histories, branches, strict=True)]
        width, device = max(map(len, rows)), self.device
        layouts = [_layout(each, width) for each in sizes]
        self._note_lengths([len(row) for row in rows])
        with self._passing():
            if self._trunk is not None:
                alone = [_layout(each, sum(each)) for each in sizes]
                lower = [
                    self._trunk.lower(ids, **_batched([layout], device))
                    for ids, layout in zip(rows, alone, strict=True)
                ]
                hidden = self._trunk.upper(pad_right(lower), **_batched(layouts, device))
            else:
                hidden = self.model.base_model(
                    input_ids=pad_right(rows).to(device),
                    use_cache=False,
                    **_batched(layouts, device),
                ).last_hidden_state
        first = 0 if with_histories else 1
        return [
            list(states[: sum(each)].float().split(each)[first:])
            for states, each in zip(hidden, sizes, strict=True)
        ]

    def row_states(self, rows: Sequence[Row]) -> list[list[torch.Tensor]]:
        """Last hidden states, float32, of all tokens: of each row's history, then of its replies.

        Args:
            rows: see ``packing``; several replies only where the model ``branches``.
        """
        pieces = [[len(history), *map(len, replies)] for history, replies in rows]
        if self.packs:
            every = [torch.arange(size) for each in pieces for size in each]
            joined = self.packed_states(rows, list(enumerate(every)))
            states = iter(joined.split([len(each) for each in every]))
            return [[next(states) for _ in each] for each in pieces]
        found: dict[int, list[torch.Tensor]] = {}
        together = [i for i, (_, replies) in enumerate(rows) if replies]
        alone = [i for i, (_, replies) in enumerate(rows) if not replies]
        if together:
            histories, replies = zip(*(rows[i] for i in together), strict=True)
            branched = self.branched_hidden_states(histories, replies, with_histories=True)
            found |= zip(together, branched, strict=True)
        if alone:
            hidden = self.hidden_states([rows[i][0] for i in alone])
            for i, states in zip(alone, hidden, strict=True):
                found[i] = [states[: len(rows[i][0])]]
        return [found[i] for i in range(len(rows))]

    def states_at(
        self,
        sequences: Sequence[torch.Tensor],
        places: Sequence[torch.Tensor],
        prompts: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """Last hidden states at the given positions of each sequence, joined to [N, H].

        Args:
            sequences: token ids [T_i].
            places: positions [N_i], ascending.
            prompts: tokens of each sequence that others may begin with too, at most the first of
                its places; those with one prompt share a pass over it, exactly in values and
                gradients, where the model ``shares_prompts``. None: each goes alone.
        """
        if self.packs:
            return self._packed_states_at(sequences, places, prompts)
        shared, alone = who_shares(sequences, prompts if self.shares_prompts else None)
        found: dict[int, torch.Tensor] = {}
        for rows in shared:
            assert prompts is not None
            length = prompts[rows[0]]
            branches = [sequences[i][length : int(places[i][-1]) + 1] for i in rows]
            (parts,) = self.branched_hidden_states([sequences[rows[0]][:length]], [branches])
            for i, states in zip(rows, parts, strict=True):
                found[i] = states[places[i] - length]
        if alone:
            hidden = self.hidden_states([sequences[i] for i in alone])
            # One index for all rows: each would go to the GPU by itself.
            width = hidden.shape[1]
            index = torch.cat([row * width + places[i] for row, i in enumerate(alone)])
            states = hidden.flatten(0, 1)[moved(index, hidden.device)]
            found |= zip(alone, states.split([len(places[i]) for i in alone]), strict=True)
        return torch.cat([found[i] for i in range(len(sequences))])

    def _packed_states_at(
        self,
        sequences: Sequence[torch.Tensor],
        places: Sequence[torch.Tensor],
        prompts: Sequence[int] | None,
    ) -> torch.Tensor:
        """See ``states_at``: all sequences in one, in one pass."""
        shared, alone = who_shares(sequences, prompts if self.shares_prompts else None, math.inf)
        rows: list[Row] = []
        wanted: dict[int, tuple[int, torch.Tensor]] = {}  # sequence → its piece, places in that
        pieces = 0
        for group in shared:
            assert prompts is not None
            length = prompts[group[0]]
            rows.append((sequences[group[0]][:length], [sequences[i][length:] for i in group]))
            for reply, i in enumerate(group, 1):
                wanted[i] = pieces + reply, places[i] - length
            pieces += 1 + len(group)
        for piece, i in enumerate(alone, pieces):
            rows.append((sequences[i], ()))
            wanted[i] = piece, places[i]
        return self.packed_states(rows, [wanted[i] for i in range(len(sequences))])

    def packed_states(
        self, rows: Sequence[Row], wanted: Sequence[tuple[int, torch.Tensor]]
    ) -> torch.Tensor:
        """Last hidden states [N, H], float32, of rows that stand in one sequence.

        Frozen layers are computed with the others: many rows at a time keep a GPU busy.

        Args:
            rows: see ``packing``.
            wanted: number of a piece, of all histories and replies in their order, and places in
                it.
        """
        assert self.attention is not None
        packed = pack(rows, MULTIPLES.get(self.attention, 1))
        index = torch.cat([packed.starts[piece] + places for piece, places in wanted])
        inputs = model_inputs(packed, self.attention, self.model.config, self.device)
        self._note_lengths(packed.lengths, packed=True)
        with self._passing():
            hidden = self.model.base_model(**inputs).last_hidden_state[0]
        return hidden[moved(index, hidden.device)].float()


def pad_right(sequences: Sequence[torch.Tensor]) -> torch.Tensor:
    """Token ids [T_i] or hidden states [T_i, H] in one tensor; what fills up is never read."""
    return nn.utils.rnn.pad_sequence(list(sequences), batch_first=True)


def _layout(sizes: Sequence[int], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions [T] and mask [T, T] of a history and its branches in a row of ``width`` tokens.

    What fills the row up sees itself alone: a row of the mask without a token would give NaN.
    """
    padded = [*sizes, width - sum(sizes)]
    segment = torch.repeat_interleave(torch.arange(len(padded)), torch.tensor(padded))
    starts = torch.tensor([0] + [sizes[0]] * (len(sizes) - 1) + [0])
    order = torch.cat([torch.arange(size) for size in padded])
    filler = segment == len(sizes)
    same = segment[None, :] == segment[:, None]
    visible = same | ((segment[None, :] == 0) & ~filler[:, None])
    return starts[segment] + order, visible & torch.ones(width, width, dtype=torch.bool).tril()


def _batched(
    layouts: Sequence[tuple[torch.Tensor, torch.Tensor]], device: torch.device
) -> dict[str, torch.Tensor]:
    """Layouts as a model takes them: ``position_ids`` [B, T], ``attention_mask`` [B, 1, T, T]."""
    positions, masks = zip(*layouts, strict=True)
    return {
        "position_ids": torch.stack(positions).to(device),
        "attention_mask": torch.stack(masks)[:, None].to(device),
    }


def who_shares(
    sequences: Sequence[torch.Tensor],
    prompts: Sequence[int] | None,
    most: float | None = None,
) -> tuple[list[list[int]], list[int]]:
    """Indices of sequences that share a pass over their prompt, and of those that stand alone.

    Args:
        sequences: token ids, unpadded.
        prompts: tokens of each prompt; None: nothing is shared.
        most: tokens of a prompt and what follows it; None: ``BRANCHED_TOKENS``.
    """
    if prompts is None:
        return [], list(range(len(sequences)))
    groups: dict[tuple[int, ...], list[list[int]]] = {}
    for i, (sequence, length) in enumerate(zip(sequences, prompts, strict=True)):
        found = groups.setdefault(tuple(sequence[:length].tolist()), [[]])
        tokens = length + sum(len(sequences[j]) - length for j in (*found[-1], i))
        if tokens > (BRANCHED_TOKENS if most is None else most):
            found.append([])
        found[-1].append(i)
    parts = [part for key, found in groups.items() for part in found if key]
    shared = [part for part in parts if len(part) > 1]
    together = {i for part in shared for i in part}
    return shared, [i for i in range(len(sequences)) if i not in together]


def backbones(root: nn.Module) -> Iterator[Backbone]:
    """The transformers in a root: itself, or a policy and a critic."""
    yield from (module for module in root.modules() if isinstance(module, Backbone))
