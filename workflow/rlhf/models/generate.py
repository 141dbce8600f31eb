"""Batched sampling: one forward pass a token for all rows, finished rows leave the batch.

Randomness is one uniform number for each row and step, drawn beforehand: what a row becomes does
not depend on which rows share its batch, when the others end, or how many ranks there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache, DynamicLayer

from rlhf.data.batching import batches_by_length
from rlhf.models.backbone import pad_right
from rlhf.models.decoding import PLAIN, Decoding
from rlhf.models.layers import decoder_layers
from rlhf.models.prefix import prefix_of
from rlhf.models.roots import TokenScorer
from rlhf.models.scoring import ALIKE

PREFILL_TOKENS = 4096  # padded tokens of prompts in one forward pass
BLOCK = 512  # tokens whose probabilities are added up on their own
MAX_ROWS = 128  # rows decoded together
CACHE_BYTES = 2**33  # of keys and values on a CPU
FREE_SHARE = 0.6  # of a GPU's free memory, for keys and values
COMPACT_SHARE = 0.125  # finished rows leave once they are this share of the batch


@dataclass(frozen=True)
class Response:
    """A sampled response.

    Attributes:
        ids: token ids [L], with the EOS if it was sampled; without those of a stop text.
        ended: whether the EOS was sampled, or a stop text.
        logprob: log probability of the whole response, in nats.
        logprobs: those of its tokens [L], float32, under the whole distribution at the sampling
            temperature.
    """

    ids: torch.Tensor
    ended: bool
    logprob: float
    logprobs: torch.Tensor


class _Slots(DynamicLayer):
    """Keys and values in memory of the final size: a step writes one column and copies nothing."""

    keys: torch.Tensor  # there once `is_initialized`; None before
    values: torch.Tensor

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self._capacity, self._length = capacity, 0

    def update(self, key_states, value_states, *args, **kwargs):
        if not self.is_initialized:
            rows, heads, _, width = key_states.shape
            self.keys = key_states.new_empty(rows, heads, self._capacity, width)
            self.values = value_states.new_empty(
                rows, heads, self._capacity, value_states.shape[-1]
            )
            self.is_initialized = True
        start, self._length = self._length, self._length + key_states.shape[-2]
        self.keys[:, :, start : self._length] = key_states
        self.values[:, :, start : self._length] = value_states
        return self.keys[:, :, : self._length], self.values[:, :, : self._length]

    def take(
        self, found: Any, rows: list[list[int]], lengths: list[int], total: int, width: int
    ) -> None:
        """Copy each prompt to its rows, so that it ends before column ``width``."""
        if not self.is_initialized:
            _, heads, _, size = found.keys.shape
            # Zeros: what is masked still takes part in a product, where a NaN would stay one.
            self.keys = found.keys.new_zeros(total, heads, self._capacity, size)
            self.values = found.values.new_zeros(
                total, heads, self._capacity, found.values.shape[-1]
            )
            self.is_initialized, self._length = True, width
        for place, (own, length) in enumerate(zip(rows, lengths, strict=True)):
            self.keys[own, :, width - length : width] = found.keys[place, :, :length]
            self.values[own, :, width - length : width] = found.values[place, :, :length]

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        super().batch_select_indices(indices.to(self.keys.device))

    def get_seq_length(self) -> int:
        return self._length


def uniforms(random: np.random.Generator, rows: int, steps: int) -> torch.Tensor:
    """One uniform number in [0, 1) for each row and step, float64 [rows, steps].

    It has 48 random bits: the 24 of a float32 pass over tokens that are less probable than 6e-8.

    Args:
        random: a stream of its own, which is used up.
        rows: rows of the *global* batch; a rank takes its own.
        steps: longest response.
    """
    high, low = (random.random((rows, steps), np.float32).astype(np.float64) for _ in range(2))
    return torch.from_numpy(high + low * 2.0**-24)


@torch.no_grad()
def generate(
    policy: TokenScorer,
    prompts: Sequence[torch.Tensor],
    draws: torch.Tensor,
    eos_id: int,
    temperature: float = 1.0,
    max_rows: int = MAX_ROWS,
    decoding: Decoding = PLAIN,
) -> list[Response]:
    """Sample one response for each prompt.

    Args:
        policy: a language model.
        prompts: token ids of each prompt, unpadded.
        draws: [n, S] from ``uniforms``; S is the longest response.
        eos_id: the token that ends a response.
        temperature: logits are divided by this; 0 takes the most probable token.
        max_rows: rows decoded together, if their keys and values have room (``_rows_at_a_time``).
        decoding: which tokens can be drawn, and stop texts; by default all, and none.
    """
    responses: dict[int, Response] = {}
    by_length = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    start = 0
    while start < len(by_length):
        capacity = _prefix_tokens(policy) + len(prompts[by_length[start]]) + draws.shape[1]
        rows = by_length[start : start + min(max_rows, _rows_at_a_time(policy, capacity))]
        start += len(rows)
        chosen = [prompts[i] for i in rows]
        decoded = _decode(policy, chosen, draws[rows], eos_id, temperature, decoding)
        for i, (ids, logprobs, stopped) in zip(rows, decoded, strict=True):
            responses[i] = response(ids, logprobs, eos_id, stopped)
    return [responses[i] for i in range(len(prompts))]


def response(
    ids: list[int], logprobs: list[float], eos_id: int, stopped: int | None = None
) -> Response:
    """A response of these tokens.

    Args:
        ids: token ids, at least one.
        logprobs: of each of them.
        eos_id: the token that ends a response.
        stopped: how many of them come before a stop text, which is cut off; None: it has none.
    """
    ids, logprobs = ids[:stopped], logprobs[:stopped]
    ended = stopped is not None or ids[-1] == eos_id
    whole = 0.0
    for logprob in logprobs:  # in their order: `sum` rounds otherwise from Python 3.12 on
        whole += logprob
    return Response(torch.tensor(ids), ended, whole, torch.tensor(logprobs))


def _rows_at_a_time(policy: TokenScorer, capacity: int) -> int:
    """How many rows' keys and values of ``capacity`` tokens have room, at least one."""
    config = policy.model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    layer = 2 * heads * width * capacity * policy.model.dtype.itemsize
    rows = []
    for device, layers in Counter(map(_device_of, decoder_layers(policy.model))).items():
        room = CACHE_BYTES
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            room = int(FREE_SHARE * free)
        rows.append(room // (layers * layer))
    return max(1, min(rows))


def _device_of(layer: torch.nn.Module) -> torch.device:
    """The layer's, of a model that may be spread over several."""
    return next(layer.parameters()).device


def _decode(
    policy: TokenScorer,
    prompts: list[torch.Tensor],
    draws: torch.Tensor,
    eos_id: int,
    temperature: float,
    decoding: Decoding,
) -> list[tuple[list[int], list[float], int | None]]:
    """Token ids of each response, their log probabilities, and how many a stop text leaves."""
    device = policy.device
    before, steps = _prefix_tokens(policy), draws.shape[1]
    lengths = torch.tensor([before + len(prompt) for prompt in prompts])
    width = int(lengths.max())
    # Prompts end in one column, so that every row's next token is in the next.
    mask = (torch.arange(width + steps) >= width - lengths[:, None]).long().to(device)
    padded = len(set(lengths.tolist())) > 1
    position, draws = lengths[:, None].to(device) - 1, draws.to(device)
    body: Any = policy.model.base_model
    slots, last = _prefill(policy, prompts, width, steps)
    cache = Cache(layers=[*slots])
    logits = policy.logits(last)
    out: list[list[int]] = [[] for _ in prompts]
    found: list[list[float]] = [[] for _ in prompts]
    alive = list(range(len(prompts)))  # row of the batch → prompt
    done = [False] * len(prompts)
    scans = [decoding.scan(prompt.tolist()) for prompt in prompts]
    stopped: list[int | None] = [None] * len(prompts)
    for step in range(steps):
        tokens, logprobs = _sample(logits, draws[:, step], temperature, decoding, step, eos_id)
        chosen = zip(alive, tokens.tolist(), logprobs.tolist(), strict=True)
        for row, token, logprob in chosen:
            if not done[row]:
                out[row].append(token)
                found[row].append(logprob)
                done[row] = token == eos_id
                if (scan := scans[row]) is not None and not done[row]:
                    stopped[row] = scan.push(token)
                    done[row] = stopped[row] is not None
        finished = sum(done[row] for row in alive)
        if finished == len(alive) or step + 1 == steps:
            break
        if finished >= max(1, COMPACT_SHARE * len(alive)):
            keep = torch.tensor([i for i, row in enumerate(alive) if not done[row]], device=device)
            alive = [row for row in alive if not done[row]]
            for slot in slots:
                slot.batch_select_indices(keep)
            mask, draws, tokens, position = mask[keep], draws[keep], tokens[keep], position[keep]
        position = position + 1
        hidden = body(
            input_ids=tokens[:, None],
            attention_mask=mask[:, : width + step + 1] if padded else None,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        logits = policy.logits(hidden)
    return list(zip(out, found, stopped, strict=True))


def _prefix_tokens(policy: TokenScorer) -> int:
    """Columns of keys and values before those of a prompt."""
    prefix = prefix_of(policy.model)
    return 0 if prefix is None else prefix.tokens


def _prefill(
    policy: TokenScorer, prompts: list[torch.Tensor], width: int, steps: int
) -> tuple[list[_Slots], torch.Tensor]:
    """Keys and values of all prompts, layer by layer, and the last hidden state of each [n, H].

    Rows with the same prompt share its computation, prompts of like lengths a forward pass; then
    their keys and values move to where the prompts end in one column.
    """
    body: Any = policy.model.base_model
    layers, prefix = len(decoder_layers(policy.model)), prefix_of(policy.model)
    before = None if prefix is None else prefix()
    first = 0 if before is None else before.shape[-2]
    device = body.get_input_embeddings().weight.device
    slots = [_Slots(width + steps) for _ in range(layers)]
    last: list[torch.Tensor] = [torch.empty(0)] * len(prompts)
    rows_of: dict[tuple[int, ...], list[int]] = {}
    for row, prompt in enumerate(prompts):
        rows_of.setdefault(tuple(prompt.tolist()), []).append(row)
    shared = list(rows_of.values())
    lengths = [len(prompts[rows[0]]) for rows in shared]
    for group in batches_by_length(lengths, PREFILL_TOKENS, alike=ALIKE):
        ids = pad_right([prompts[shared[i][0]] for i in group]).to(device)
        part = Cache(layers=[_Slots(first + ids.shape[1]) for _ in range(layers)])
        if before is not None:
            given = before.to(policy.model.dtype)[:, :, None].expand(-1, -1, len(ids), -1, -1, -1)
            for layer, (keys, values) in enumerate(given):
                part.update(keys, values, layer)
        hidden = body(input_ids=ids, past_key_values=part, use_cache=True).last_hidden_state
        for place, i in enumerate(group):
            for row in shared[i]:
                last[row] = hidden[place, lengths[i] - 1]
        for slot, found in zip(slots, part.layers, strict=True):
            slot.take(
                found,
                [shared[i] for i in group],
                [first + lengths[i] for i in group],
                len(prompts),
                width,
            )
    return slots, torch.stack(last)


def _sample(
    logits: torch.Tensor,
    draws: torch.Tensor,
    temperature: float,
    decoding: Decoding = PLAIN,
    step: int = 0,
    eos_id: int = -1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token a row and its log probability under the whole distribution."""
    if temperature not in (0, 1):
        logits = logits / temperature
    probabilities = weights = logits.softmax(-1)
    if decoding.restricts(step):
        weights = decoding.restrict(probabilities, step, eos_id, _invert)
        logits = logits.masked_fill(weights == 0, -torch.inf)
    tokens = logits.argmax(-1) if temperature == 0 else _invert(weights, draws.double())
    return tokens, probabilities.gather(1, tokens[:, None]).squeeze(1).log()


def _invert(probabilities: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """The token of each row at which its cumulative distribution passes the row's draw.

    Far cheaper than multinomial. A sum over a whole vocabulary in float32 loses what is below
    6e-8 of it; here probabilities are added up by blocks, blocks and what is in them in float64.

    Args:
        probabilities: [n, V].
        draws: [n] in [0, 1), float64.
    """
    vocabulary = probabilities.shape[1]
    even = vocabulary // BLOCK * BLOCK
    sums = probabilities[:, :even].unflatten(1, (-1, BLOCK)).sum(-1)
    if even < vocabulary:
        sums = torch.cat([sums, probabilities[:, even:].sum(-1, keepdim=True)], 1)
    block, share = _passed(sums, draws)
    places = block[:, None] * BLOCK + torch.arange(BLOCK, device=block.device)
    own = probabilities.gather(1, places.clamp(max=vocabulary - 1))
    place, _ = _passed(own.masked_fill(places >= vocabulary, 0), share)
    return (block * BLOCK + place).clamp(max=vocabulary - 1)


def _passed(parts: torch.Tensor, draws: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which part [n] of ``parts`` [n, k] each draw falls on, and how far into it, in [0, 1)."""
    exact = parts.is_cuda and torch.are_deterministic_algorithms_enabled()
    cumulative = _summed_by_product(parts) if exact else parts.cumsum(-1, dtype=torch.float64)
    targets = (draws * cumulative[:, -1])[:, None]  # rounding: the sum is not quite 1
    found = torch.searchsorted(cumulative, targets, right=True).clamp(max=parts.shape[1] - 1)
    width = parts.gather(1, found).double()
    into = (targets - cumulative.gather(1, found) + width) / width
    return found.squeeze(1), into.squeeze(1).clamp(0, 1 - 2.0**-52)


def _summed_by_product(parts: torch.Tensor) -> torch.Tensor:
    """Running sums of [n, k] in float64, where ``cumsum`` has no deterministic kernel: on GPUs."""
    ones = torch.ones(2 * parts.shape[1:], dtype=torch.float64, device=parts.device)
    return parts.double() @ ones.triu()
