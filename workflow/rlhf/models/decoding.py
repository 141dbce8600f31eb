"""Which tokens can be drawn, and where a response ends besides its EOS.

What is cut off from the distribution is cut off in the order of transformers: EOS while the
response is too short, then top-k, top-p, min-p. What remains is drawn in proportion to its
probability, but log probabilities that are given with a response are those of the whole
distribution: they are compared with the trainer's, which knows no other.

Texts that end a response are looked for in what its tokens say, decoded piece by piece as they
come; the ids stay those that were sampled.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

REPLACEMENT = "\ufffd"  # of bytes that are no whole character, or not yet
CONTEXT = 4  # tokens of the prompt that a response's first ones are decoded after


@dataclass(frozen=True)
class Decoding:
    """What is drawn from, and what ends a response.

    Attributes:
        top_k: only so many most probable tokens; 0: all.
        top_p: only the most probable tokens that have this much probability together.
        min_p: only tokens with at least this share of the most probable one's probability.
        min_new_tokens: neither EOS nor a stop text leaves fewer tokens.
        stop: texts that end a response; None: none do.
    """

    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    min_new_tokens: int = 0
    stop: StopTexts | None = None

    def restricts(self, step: int) -> bool:
        """Whether some token can't be drawn as token ``step`` of a response, from 0."""
        return bool(self.top_k or self.top_p < 1 or self.min_p or step < self.min_new_tokens)

    def restrict(
        self,
        probabilities: torch.Tensor,
        step: int,
        eos_id: int,
        place: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """The probabilities [n, V], with 0 for what can't be drawn; they need not add up to 1.

        Tokens of equal probability stay or go together, so nothing depends on how they are sorted.

        Args:
            probabilities: of the whole distribution [n, V].
            step: which token of a response is drawn, from 0.
            eos_id: the token that ends a response.
            place: from weights [n, V] and shares [n] to where running sums pass these shares.
        """
        kept = probabilities
        if step < self.min_new_tokens and eos_id >= 0:
            kept = kept.clone()
            kept[:, eos_id] = 0
        if 0 < self.top_k < kept.shape[1]:
            kept = _at_least(kept, kept.topk(self.top_k).values[:, -1:])
        if self.top_p < 1:
            ordered = kept.sort(descending=True).values
            # A little less: sums of float32 may miss a share that they should just reach.
            share = torch.full_like(kept[:, 0], self.top_p, dtype=torch.float64) * (1 - 2.0**-20)
            kept = _at_least(kept, ordered.gather(1, place(ordered, share)[:, None]))
        if self.min_p:
            kept = _at_least(kept, self.min_p * kept.amax(-1, keepdim=True))
        return kept

    def scan(self, prompt: Sequence[int]) -> Scan | None:
        """A look for the stop texts in the response to a prompt, if there are any."""
        return self.stop.scan(prompt, self.min_new_tokens) if self.stop else None

    def kept(self, prompt: Sequence[int], ids: Sequence[int], eos_id: int) -> int | None:
        """How many tokens of a whole response remain before a stop text; None: it has none.

        What was sampled after that text is lost: what remains is as if sampling had stopped there.
        """
        scan = self.scan(prompt)
        if scan is None:
            return None
        found = (scan.push(token) for token in ids if token != eos_id)
        return next((kept for kept in found if kept is not None), None)


PLAIN = Decoding()


def _at_least(weights: torch.Tensor, least: torch.Tensor) -> torch.Tensor:
    return weights.masked_fill(weights < least, 0)


class StopTexts:
    """Texts that end a response where they first occur.

    Args:
        tokenizer: says what token ids mean; special tokens are text like others.
        texts: none of them empty.
    """

    def __init__(self, tokenizer: Any, texts: Sequence[str]) -> None:
        self._tokenizer, self.texts = tokenizer, tuple(texts)

    def scan(self, prompt: Sequence[int], least: int = 0) -> Scan:
        """A look at one response, token by token.

        Args:
            prompt: token ids before the response.
            least: tokens of which a stop text may not leave fewer.
        """
        return Scan(self._decode, self.texts, list(prompt[-CONTEXT:]), least)

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )


class Scan:
    """Decodes the tokens of one response as they come, and looks for stop texts.

    The text of a token depends on those before it: a character may take several tokens, and a
    space may belong to the word that follows. So text is taken from the difference that new tokens
    make to those just before them, once it ends with a whole character. A piece is the text of one
    token, or of the few that complete a character together.

    Args:
        decode: from token ids to their text.
        texts: that end the response.
        context: token ids before the response.
        least: tokens of which a stop text may not leave fewer.
    """

    def __init__(
        self, decode: Callable[[list[int]], str], texts: Sequence[str], context: list[int],
        least: int,
    ) -> None:  # fmt: skip
        self._decode, self._texts, self._least = decode, texts, least
        self._longest = max(map(len, texts))
        self._ids, self._before = context, len(context)
        self._known, self._read = 0, len(context)  # the last piece, and what was read since
        self._text = ""
        self._pieces: list[tuple[int, int]] = []  # first character and first token of each piece

    def push(self, token: int) -> int | None:
        """Take the next token; how many tokens remain if a stop text is complete with it.

        Those remain that come before the first piece with a character of the stop text; at least
        one.
        """
        self._ids.append(token)
        whole = self._decode(self._ids[self._known :])
        if whole.endswith(REPLACEMENT):
            return None
        before = len(self._decode(self._ids[self._known : self._read]))
        if len(whole) <= before:
            return None
        start = len(self._text)
        self._pieces.append((start, self._read - self._before))
        self._text += whole[before:]
        self._known, self._read = self._read, len(self._ids)
        return self._remaining(max(0, start - self._longest + 1))

    def _remaining(self, since: int) -> int | None:
        kept = []
        for text in self._texts:
            place = self._text.find(text, since)
            while place >= 0:
                piece = bisect_right(self._pieces, place, key=lambda each: each[0]) - 1
                tokens = max(1, self._pieces[piece][1])
                if tokens >= self._least:
                    kept.append(tokens)
                    break
                place = self._text.find(text, place + 1)
        return min(kept, default=None)
