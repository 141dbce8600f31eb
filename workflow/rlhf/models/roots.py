"""The modules that training, scoring and sampling hold: all that touches weights is in here.

Each root's ``forward`` takes token ids and returns tensors or tuples of them: embeddings, layers,
head, frozen trunk and precision are its own affair, so that whatever wraps a root (sharding,
adapters, checkpointing) wraps it in one place.

Shapes: B sequences, T the longest, H the width, V the vocabulary, N scored tokens of all sequences.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from rlhf.errors import ConfigError
from rlhf.models.adapters import switched_off
from rlhf.models.backbone import Backbone
from rlhf.models.branch import Branch
from rlhf.models.head import OwnHead
from rlhf.models.layers import decoder_layers
from rlhf.models.logprobs import own_token_logprobs, token_logprobs
from rlhf.models.packing import Row
from rlhf.models.precision import wide_linear
from rlhf.runtime.options import AttentionKind

if TYPE_CHECKING:
    from transformers import PreTrainedModel

POOLING = "reward_pooling"  # key of a reward model's config.json; absent: ``last``


class TokenScorer(Backbone):
    """Log probabilities of given tokens under a language model.

    Args:
        model: a causal language model.
        own_head: its own way from hidden states to logits (``find_head``); None: a matrix.
    """

    def __init__(self, model: PreTrainedModel, own_head: OwnHead | None = None) -> None:
        super().__init__(model)
        self._own_head = own_head
        self.start: Branch | None = None

    def keep_start(self, frozen: int) -> None:
        """Keep what is trained as it is now, to be a reference beside what becomes of it.

        Args:
            frozen: decoder layers that stay as they are, as ``freeze`` took them.
        """
        self.start = Branch(self.model, frozen, head=True).requires_grad_(False)

    def _untrained(self) -> contextlib.AbstractContextManager[None]:
        return switched_off(self.model) if self.start is None else self.start.in_place()

    def forward(
        self,
        sequences: Sequence[torch.Tensor],
        places: Sequence[torch.Tensor],
        temperature: float = 1.0,
        with_entropy: bool = False,
        prompts: Sequence[int] | None = None,
        adapted: bool = True,
        entropy_gradient: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log probabilities of the tokens at ``places``; the head runs nowhere else.

        Args:
            sequences: token ids [T_i].
            places: positions [N_i] of the scored tokens, ascending, from 1 on.
            temperature: logits are divided by this, as in sampling.
            with_entropy: also compute entropies.
            prompts: see ``Backbone.states_at``.
            adapted: False: without the adapter, as the model that it was added to; or with the
                upper layers that ``keep_start`` kept.
            entropy_gradient: whether entropies are differentiable.

        Returns:
            Log probabilities [N] in nats; entropies [N] in nats, or [0].
        """
        with contextlib.nullcontext() if adapted else self._untrained():
            before, targets = self.states_before(sequences, places, prompts)
            return self.logprobs(before, targets, temperature, with_entropy, entropy_gradient)

    def states_before(
        self,
        sequences: Sequence[torch.Tensor],
        places: Sequence[torch.Tensor],
        prompts: Sequence[int] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states [N, H] before the tokens at ``places``, and these tokens [N]."""
        before = self.states_at(sequences, [each - 1 for each in places], prompts)
        targets = [ids[each] for ids, each in zip(sequences, places, strict=True)]
        return before, torch.cat(targets)

    def logprobs(
        self,
        before: torch.Tensor,
        targets: torch.Tensor,
        temperature: float = 1.0,
        with_entropy: bool = False,
        entropy_gradient: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log probabilities [N] of tokens [N] after hidden states [N, H]; entropies [N] or [0]."""
        rest = (before, targets, temperature, with_entropy, self._dtype, entropy_gradient)
        if self._own_head is not None:
            return own_token_logprobs(self._own_head, *rest)
        return token_logprobs(cast(nn.Linear, self.model.get_output_embeddings()), *rest)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [N, V], float32, of hidden states [N, H], in the type of the weights."""
        if self._own_head is not None:
            return self._own_head.logits(hidden).float()
        head = cast(nn.Linear, self.model.get_output_embeddings())
        return wide_linear(hidden, head.weight, head.bias)

    @property
    def width(self) -> int:
        """Width of the last hidden states; of OPT 350M it is not its ``hidden_size``."""
        if self._own_head is not None:
            return self._own_head.width
        return cast(nn.Linear, self.model.get_output_embeddings()).in_features

    @property
    def vocabulary(self) -> int:
        """How many logits there are of a hidden state."""
        return cast(nn.Linear, self.model.get_output_embeddings()).weight.shape[0]

    def with_model(self, model: PreTrainedModel) -> TokenScorer:
        """A scorer around another instance of the same architecture."""
        own = self._own_head
        if own is not None:
            names = {module: name for name, module in self.model.named_modules()}
            own = replace(own, model=model, body=model.get_submodule(names[own.body]))
        return TokenScorer(model, own)

    def plain(self) -> TokenScorer:
        """The same weights, with products of their own type and nothing remembered."""
        return TokenScorer(self.model, self._own_head)


class ReplyScorer(Backbone):
    """A reward model's raw scores of replies.

    Each is read at its last token, or from the mean of the last hidden states of all tokens,
    history and reply: ``pooling``.

    Args:
        model: a sequence classification model with one label and a linear layer ``score``.
    """

    # Replies to one history share it under masks, which FlashAttention does not have.
    preferred: tuple[AttentionKind, ...] = ("flex", "flash", "sdpa", "eager")

    @property
    def pooling(self) -> str:
        """``last`` or ``mean``; it stands in the model's configuration."""
        return getattr(self.model.config, POOLING, "last")

    def forward(
        self,
        histories: Sequence[torch.Tensor],
        replies: Sequence[Sequence[torch.Tensor]],
        per_token: bool = False,
    ) -> tuple[torch.Tensor]:
        """Raw scores of all replies, joined to [N] in the order of their histories, float32.

        Several replies to one history are computed after one pass over it, where the model
        ``branches``: all such histories in one padded batch. All other replies stand in another,
        each after its history. Where the model ``packs``, all stand in one sequence.

        Args:
            histories: token ids [P_i]; empty where a reply is the whole sequence.
            replies: token ids of k_i replies to each.
            per_token: score every token of each reply, as if it were the last; N is then their
                number.
        """
        # One tensor, however many histories there are: what shards counts a root's outputs, and
        # expects as many on every rank.
        found: dict[int, torch.Tensor] = {}
        pairs = list(zip(histories, replies, strict=True))
        branched = [self.branches and len(own) > 1 and len(history) > 0 for history, own in pairs]
        if per_token:
            return (self._score(torch.cat([own for _, own in self._states(pairs, branched)])),)
        if self.pooling == "mean":
            whole = [torch.cat(both) for both in self._states(pairs, branched)]
            return (self._score(torch.stack([states.mean(0) for states in whole])),)
        if self.packs:
            return (self._packed_scores(pairs, branched),)
        together = [i for i, several in enumerate(branched) if several]
        alone = [i for i, several in enumerate(branched) if not several]
        if together:
            states = self.branched_hidden_states(
                [histories[i] for i in together], [replies[i] for i in together]
            )
            for i, own in zip(together, states, strict=True):
                found[i] = self._score(torch.stack([each[-1] for each in own]))
        if alone:
            rows = [torch.cat([histories[i], reply]) for i in alone for reply in replies[i]]
            last = self.states_at(rows, [torch.tensor([len(row) - 1]) for row in rows])
            sizes = [len(replies[i]) for i in alone]
            found |= zip(alone, self._score(last).split(sizes), strict=True)
        return (torch.cat([found[i] for i in range(len(histories))]),)

    def _states(
        self, pairs: Sequence[Row], branched: Sequence[bool]
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Of each reply, last hidden states of its history [P, H] and of its own tokens [L, H]."""
        rows: list[Row] = []
        for (history, replies), shared in zip(pairs, branched, strict=True):
            alone: list[Row] = [(torch.cat([history, reply]), ()) for reply in replies]
            rows += [(history, replies)] if shared else alone
        pieces = iter(self.row_states(rows))
        found: list[tuple[torch.Tensor, torch.Tensor]] = []
        for (history, replies), shared in zip(pairs, branched, strict=True):
            if shared:
                before, *own = next(pieces)
                found += [(before, each) for each in own]
            else:
                whole = [next(pieces)[0] for _ in replies]
                found += [(each[: len(history)], each[len(history) :]) for each in whole]
        return found

    def _packed_scores(self, pairs: Sequence[Row], branched: Sequence[bool]) -> torch.Tensor:
        """Raw scores [N] of all replies, after a history that they share or each after its own."""
        rows: list[Row] = []
        ends: list[tuple[int, torch.Tensor]] = []
        pieces = 0
        for (history, replies), shared in zip(pairs, branched, strict=True):
            own: list[Row] = (
                [(history, replies)]
                if shared
                else [(torch.cat([history, reply]), ()) for reply in replies]
            )
            scored = replies if shared else [row for row, _ in own]
            pieces += shared
            ends += [(pieces + i, torch.tensor([len(ids) - 1])) for i, ids in enumerate(scored)]
            pieces += len(scored)
            rows += own
        return self._score(self.packed_states(rows, ends))

    def _score(self, states: torch.Tensor) -> torch.Tensor:
        """Raw scores [N] of hidden states [N, H]."""
        return self.model.get_submodule("score")(states).squeeze(-1).float()


class ValueHead(nn.Module):
    """One linear layer on the policy's last hidden state; zero at first, so values start at 0."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Values [N] of hidden states [N, H]."""
        return self.linear(states).squeeze(-1)


class Critic(ReplyScorer):
    """A model of its own, such as a reward model: its calibrated score of every prefix.

    The first value of a reward model at a sequence's last token is the calibrated reward of that
    sequence.

    Args:
        model: the model that it starts from (it is trained in place), with a score.
        mean: mean of the raw scores.
        std: their standard deviation.
    """

    preferred = Backbone.preferred  # it is asked for values of whole responses

    def __init__(self, model: PreTrainedModel, mean: float, std: float) -> None:
        super().__init__(model)
        self.mean, self.std = mean, std

    def values(
        self, sequences: Sequence[torch.Tensor], places: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Values [N] of the states before the tokens at ``places``."""
        before = [each - 1 for each in places]
        states = self.states_at(sequences, before, [int(each[0]) for each in before])
        return (self._score(states) - self.mean) / self.std


class ValueBranch(nn.Module):
    """A value function on the policy's lower layers, with upper layers of its own (trlX).

    Its layers start as the policy's, its head as zero. The lower layers run once for both, and
    learn from both.

    Args:
        policy: the policy, as it starts.
        layers: how many of its upper layers are copied.
        where: the key that says so, for messages.

    Raises:
        ConfigError: the policy does not have so many, or does not train them.
    """

    def __init__(self, policy: TokenScorer, layers: int, where: object) -> None:
        super().__init__()
        stack = decoder_layers(policy.model)
        first, frozen = len(stack) - layers, policy.frozen_layers
        if first < max(1, frozen):
            raise ConfigError(
                f"The value function can't have {layers} upper layers of its own: the policy has "
                f"{len(stack)}, of which {frozen} are frozen.",
                where=where,
                expected=f"1 to {len(stack) - max(1, frozen)}",
                hint="lower it; a critic has all layers of its own (value.kind: critic)",
            )
        self.branch, self.head = Branch(policy.model, first), ValueHead(policy.width)

    def listening(self) -> contextlib.AbstractContextManager[None]:
        """Around the policy's own pass, before ``values`` of the same rows."""
        return self.branch.listening()

    def values(
        self,
        policy: TokenScorer,
        sequences: Sequence[torch.Tensor],
        places: Sequence[torch.Tensor],
        prompts: Sequence[int],
    ) -> torch.Tensor:
        """Values [N] of the states before the tokens at ``places``, from what was listened to."""
        with self.branch.going_on(policy.remembered_layers):
            return self.head(policy.states_before(sequences, places, prompts)[0])


class Actor(nn.Module):
    """A policy as `ActorCritic` has it, for methods without a value function.

    Args:
        policy: the language model.
        temperature: sampling temperature; log probabilities are taken at the same.
    """

    def __init__(self, policy: TokenScorer, temperature: float = 1.0) -> None:
        super().__init__()
        self.policy, self.temperature = policy, temperature

    def forward(
        self,
        sequences: Sequence[torch.Tensor],
        starts: Sequence[int],
        with_entropy: bool = False,
        adapted: bool = True,
        entropy_gradient: bool = False,
        places: Sequence[torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See ``ActorCritic``; there are no values: [0]."""
        if places is not None:
            return _at_places(self.policy, sequences, places)
        if not adapted:
            return _without_adapter(self.policy, sequences, starts, self.temperature)
        places, prompts = from_starts(sequences, starts), [start - 1 for start in starts]
        logprobs, entropy = self.policy(
            sequences,
            places,
            self.temperature,
            with_entropy,
            prompts,
            entropy_gradient=entropy_gradient,
        )
        return logprobs, logprobs.new_zeros(0), entropy


class ActorCritic(nn.Module):
    """Policy and value function together: what PPO trains.

    Args:
        policy: the language model.
        value: a head on the policy's hidden states, a branch of the policy, or a critic.
        temperature: sampling temperature; log probabilities are taken at the same.
    """

    def __init__(
        self,
        policy: TokenScorer,
        value: ValueHead | ValueBranch | Critic,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.policy, self.value, self.temperature = policy, value, temperature

    def forward(
        self,
        sequences: Sequence[torch.Tensor],
        starts: Sequence[int],
        with_entropy: bool = False,
        adapted: bool = True,
        entropy_gradient: bool = False,
        places: Sequence[torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Evaluate the tokens of each sequence from ``starts[i]`` on.

        Sequences with one prompt share a pass over it, see ``Backbone.states_at``.

        Args:
            sequences: token ids [T_i].
            starts: for each the first token that is evaluated, at least 1.
            with_entropy: also compute entropies.
            adapted: False: by the model that the policy started from, where it has an adapter or
                its ``keep_start`` was called; of it there are log probabilities alone.
            entropy_gradient: whether entropies are differentiable.
            places: of demonstrations: positions of the tokens that are evaluated in place of those
                from ``starts`` on, by the policy alone and without a temperature.

        Returns:
            log π of the tokens [N] at the sampling temperature, in nats; values [N] of the states
            before them; entropies of the policy [N], or [0].
        """
        if places is not None:
            return _at_places(self.policy, sequences, places)
        if not adapted:
            return _without_adapter(self.policy, sequences, starts, self.temperature)
        places = from_starts(sequences, starts)
        prompts = [start - 1 for start in starts]
        value = self.value
        with value.listening() if isinstance(value, ValueBranch) else contextlib.nullcontext():
            before, targets = self.policy.states_before(sequences, places, prompts)
        logprobs, entropy = self.policy.logprobs(
            before, targets, self.temperature, with_entropy, entropy_gradient
        )
        if isinstance(value, Critic):
            return logprobs, value.values(sequences, places), entropy
        if isinstance(value, ValueBranch):
            return logprobs, value.values(self.policy, sequences, places, prompts), entropy
        return logprobs, value(before), entropy


def _at_places(
    policy: TokenScorer, sequences: Sequence[torch.Tensor], places: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log probabilities [N] of tokens that nothing was sampled for; nothing else: [0]."""
    logprobs, _ = policy(sequences, places)
    return logprobs, logprobs.new_zeros(0), logprobs.new_zeros(0)


def _without_adapter(
    policy: TokenScorer,
    sequences: Sequence[torch.Tensor],
    starts: Sequence[int],
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log probabilities [N] under the model that the policy started from; nothing else: [0]."""
    places, prompts = from_starts(sequences, starts), [start - 1 for start in starts]
    logprobs, _ = policy(sequences, places, temperature, prompts=prompts, adapted=False)
    return logprobs, logprobs.new_zeros(0), logprobs.new_zeros(0)


def from_starts(sequences: Sequence[torch.Tensor], starts: Sequence[int]) -> list[torch.Tensor]:
    """Positions of each sequence's tokens from ``starts[i]`` on."""
    pairs = zip(sequences, starts, strict=True)
    return [torch.arange(start, len(sequence)) for sequence, start in pairs]
