"""What ILQL trains: a language model with heads for the values of states and of tokens.

Snell et al. 2022 (arXiv 2206.11871). On the last hidden state before a token stand a
head for V, the value of the state, and one or two for Q, the value of each token of the vocabulary.
Q has a copy that follows it slowly, of which V and the policy learn. Heads have one hidden layer of
twice the width, as trlX's.

Shapes: N tokens of replies, H the width, V the vocabulary, n heads for Q.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from rlhf.core.seeds import derived_seed
from rlhf.models.devices import moved
from rlhf.models.head import computing
from rlhf.models.logprobs import token_logprobs
from rlhf.models.parts import write_tensors
from rlhf.models.precision import products
from rlhf.models.roots import TokenScorer, from_starts

HEADS = "heads.safetensors"  # beside the weights of a published model
_DECODING = ("value.", "target.")  # heads that decoding needs


class Head(nn.Module):
    """Linear(H, 2H), ReLU, Linear(2H, outputs), with torch's distribution of new weights.

    Args:
        width: H.
        outputs: 1, or V.
        seed: of its weights; None: they are loaded.
        number: tells the heads of a run apart.
    """

    def __init__(self, width: int, outputs: int, seed: int | None, number: int) -> None:
        super().__init__()
        self.inner = nn.utils.skip_init(nn.Linear, width, 2 * width)
        self.outer = nn.utils.skip_init(nn.Linear, 2 * width, outputs)
        if seed is not None:
            generator = torch.Generator().manual_seed(derived_seed(seed, "ilql head", number))
            for parameter, size in (
                *((each, width) for each in self.inner.parameters()),
                *((each, 2 * width) for each in self.outer.parameters()),
            ):
                bound = 1 / math.sqrt(size)
                nn.init.uniform_(parameter, -bound, bound, generator=generator)

    def hidden(self, states: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The layer between [N, 2H], float32, of states [N, H]."""
        with products(states.device, dtype):
            return F.relu(self.inner(states)).float()

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """All outputs [N, outputs] of states [N, H], both float32."""
        return self.outer(self.hidden(states))

    def at(self, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The outputs [N] for one token each, of the layer between; no others are computed."""
        weight, bias = self.outer.weight, self.outer.bias

        def chosen(inner: torch.Tensor) -> torch.Tensor:
            return (inner * F.embedding(tokens, weight)).sum(-1) + bias[tokens]

        with computing(self.outer, chosen):
            return self.outer(hidden)


class ValueHeads(nn.Module):
    """V, Q, and the copies of Q.

    Args:
        width: H.
        vocabulary: V.
        two_qs: whether there are two heads for Q, of whose copies the lesser value counts: a
            maximum over one estimate is too high (van Hasselt 2010; Fujimoto et al. 2018).
        seed: of their weights; None: they are loaded.
    """

    def __init__(self, width: int, vocabulary: int, two_qs: bool, seed: int | None) -> None:
        super().__init__()
        self.value = Head(width, 1, seed, 0)
        numbers = range(1, 3 if two_qs else 2)
        self.q = nn.ModuleList(Head(width, vocabulary, seed, number) for number in numbers)
        self.target = deepcopy(self.q).requires_grad_(False)

    def forward(
        self, states: torch.Tensor, tokens: torch.Tensor, dtype: torch.dtype | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Values of tokens [N] and of the states [N, H] before them, float32.

        Args:
            states: last hidden states, float32.
            tokens: token ids.
            dtype: type of the matrix products; None: that of the weights.

        Returns:
            V [N]; Q [n, N] of the tokens; log softmax of Q over the vocabulary [n, N] at them; and
            the least of their targets [N], without a gradient.
        """
        tokens = moved(tokens, states.device)
        values = self.value.outer(self.value.hidden(states, dtype)).squeeze(-1)
        found, logs = [], []
        for head in _each(self.q):
            hidden = head.hidden(states, dtype)
            found.append(head.at(hidden, tokens))
            logs.append(token_logprobs(head.outer, hidden, tokens, dtype=dtype)[0])
        with torch.no_grad():
            targets = [head.at(head.hidden(states, dtype), tokens) for head in _each(self.target)]
        return values, torch.stack(found), torch.stack(logs), torch.stack(targets).amin(0)

    def advantages(self, states: torch.Tensor) -> torch.Tensor:
        """The least target of each token less the value of the state: [N, V] of states [N, H]."""
        targets = torch.stack([head(states) for head in _each(self.target)]).amin(0)
        return targets - self.value(states)


def _each(heads: nn.ModuleList) -> Iterator[Head]:
    """The heads of a list, which torch takes for modules of any kind."""
    return cast(Iterator[Head], iter(heads))


class Ilql(nn.Module):
    """A policy and its value heads.

    Args:
        policy: the language model.
        heads: of its width and vocabulary.
    """

    # Prefixes of parameters that nothing trains → of those that an engine lets them follow.
    follows: Mapping[str, str] = {"heads.target.": "heads.q."}

    def __init__(self, policy: TokenScorer, heads: ValueHeads) -> None:
        super().__init__()
        self.policy, self.heads = policy, heads

    def forward(
        self, sequences: Sequence[torch.Tensor], starts: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Evaluate the tokens of each sequence from ``starts[i]`` on.

        Sequences with one prompt share a pass over it, see ``Backbone.states_at``.

        Args:
            sequences: token ids [T_i].
            starts: for each the first token that is evaluated, at least 1.

        Returns:
            log π of the tokens [N], in nats, and what ``ValueHeads`` gives for them.
        """
        places, prompts = from_starts(sequences, starts), [start - 1 for start in starts]
        before, tokens = self.policy.states_before(sequences, places, prompts)
        logprobs, _ = self.policy.logprobs(before, tokens)
        return logprobs, *self.heads(before, tokens, self.policy.product_dtype)


def decoding_heads(
    weights: Iterable[tuple[str, torch.Tensor]],
) -> Iterator[tuple[str, torch.Tensor]]:
    """Of all heads those that decoding needs, by their names in ``ValueHeads``.

    Args:
        weights: whole tensors by their names there.
    """
    return ((name, tensor) for name, tensor in weights if name.startswith(_DECODING))


def save_heads(folder: Path, heads: dict[str, torch.Tensor]) -> None:
    """Put the heads beside a published model.

    Raises:
        OSError: the disk is full, for one.
    """
    write_tensors(folder / HEADS, heads)
