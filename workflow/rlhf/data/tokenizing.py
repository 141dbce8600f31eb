"""Rows to token ids within a length, with every cut and every loss counted."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from rlhf.data.encoding import IGNORED, Encoder
from rlhf.data.rows import Conversation, Message, Preference, Prompt, Row
from rlhf.errors import DataError

if TYPE_CHECKING:
    from datasets import Features

BATCH = 256  # rows whose texts are tokenized in one call
ROWS_VIEW = {"sft": "conversation", "preference": "preference", "prompt": "prompt"}
MIN_QUESTION = 16  # tokens of the last question that a cut leaves; less says nothing to answer


@dataclass(frozen=True)
class Limits:
    """How long a sample may be, and what happens to a longer one.

    Attributes:
        view: ``sft``, ``preference`` or ``prompt``.
        max_length: tokens of a sample; of history and one reply in ``preference``.
        overlong: ``drop``; ``truncate``: the oldest turns go first, then the beginning of the
            last question, never a reply; or ``error``.
        max_replies: replies of a preference that are kept, best first; None: all.
    """

    view: Literal["sft", "preference", "prompt"]
    max_length: int
    overlong: Literal["drop", "truncate", "error"]
    max_replies: int | None = None


@dataclass
class Tally:
    """What became of the rows of one split."""

    source_rows: int = 0
    rows: int = 0
    tokens: int = 0
    labels: int = 0
    replies: int = 0
    truncated: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    replies_dropped: Counter[str] = field(default_factory=Counter)

    def as_dict(self, view: str) -> dict[str, Any]:
        """Counts for the manifest; a preference's history counts once in ``tokens``."""
        counts: dict[str, Any] = {
            "source_rows": self.source_rows,
            "rows": self.rows,
            "tokens": self.tokens,
            "truncated": self.truncated,
            "dropped": self.dropped.total(),
            "dropped_reasons": dict(sorted((+self.dropped).items())),
        }
        if view == "sft":
            counts["labels"] = self.labels
            counts["label_share"] = round(self.labels / self.tokens, 6) if self.tokens else 0.0
        if view == "preference":
            counts["replies"] = self.replies
            counts["replies_dropped"] = dict(sorted((+self.replies_dropped).items()))
        return counts


def features_of(view: str) -> Features:
    """Columns of a tokenized view.

    ``sft``: id, input_ids, labels; ``preference``: id, history_ids, reply_ids (a list of lists,
    best first); ``prompt``: id, input_ids. Ids are int32.
    """
    from datasets import Features, List, Value

    ids = List(Value("int32"))
    columns = {
        "sft": {"input_ids": ids, "labels": ids},
        "preference": {"history_ids": ids, "reply_ids": List(ids)},
        "prompt": {"input_ids": ids},
    }
    return Features({"id": Value("string")} | columns[view])


def tokenize(
    rows: Iterable[Row], encoder: Encoder, limits: Limits, tally: Tally
) -> Iterator[dict[str, Any]]:
    """Yield the sample of each row that fits.

    Args:
        rows: rows of the view ``ROWS_VIEW[limits.view]``.
        encoder: tokenizer and template.
        limits: length and policy.
        tally: is added to as samples are made.

    Raises:
        DataError: a row is too long and ``overlong`` is ``error``.
    """
    make = _SAMPLE_OF[limits.view]
    remaining = iter(rows)
    while batch := list(itertools.islice(remaining, BATCH)):
        encoder.prime(dialogue for row in batch for dialogue in _dialogues(row))
        for row in batch:
            tally.source_rows += 1
            sample = make(row, encoder, limits, tally)
            if sample is not None:
                tally.rows += 1
                yield {"id": row.id} | sample


def _dialogues(row: Row) -> Iterator[Sequence[Message]]:
    if isinstance(row, Preference):
        for reply in row.replies:
            yield (*row.history, Message("assistant", reply))
    else:
        yield row.messages if isinstance(row, Conversation) else row.history


def _sft(
    row: Conversation, encoder: Encoder, limits: Limits, tally: Tally
) -> dict[str, Any] | None:
    fitted = _fit(row.id, row.messages, encoder, limits, tally)
    if fitted is None:
        return None
    ids, labels = fitted
    trained = sum(label != IGNORED for label in labels)
    if not trained:
        tally.dropped["no_labels"] += 1
        return None
    tally.tokens += len(ids)
    tally.labels += trained
    return {"input_ids": ids, "labels": labels}


def _prompt(row: Prompt, encoder: Encoder, limits: Limits, tally: Tally) -> dict[str, Any] | None:
    fitted = _fit(row.id, row.history, encoder, limits, tally, prompt=True)
    if fitted is None:
        return None
    tally.tokens += len(fitted[0])
    return {"input_ids": fitted[0]}


def _preference(
    row: Preference, encoder: Encoder, limits: Limits, tally: Tally
) -> dict[str, Any] | None:
    history = encoder.prompt(row.history)
    replies: dict[tuple[int, ...], None] = {}  # in the order of insertion: best first
    for reply in row.replies:
        ids = tuple(encoder.reply(row.history, reply))
        # Texts that a normalizer makes equal are one reply: nothing can be learned from the pair.
        tally.replies_dropped["duplicate"] += ids in replies
        replies.setdefault(ids)
    kept = list(replies)
    if limits.overlong != "error":
        cut = limits.overlong == "truncate"
        needed = _shortest(row.history, encoder) if cut else len(history)
        kept = [ids for ids in kept if needed + len(ids) <= limits.max_length]
        tally.replies_dropped["overlong"] += len(replies) - len(kept)
    surplus = len(kept) - (limits.max_replies or len(kept))
    if surplus > 0:
        kept = kept[: limits.max_replies]
        tally.replies_dropped["surplus"] += surplus
    if len(kept) < 2:
        tally.dropped["overlong" if len(replies) > 1 else "duplicate_replies"] += 1
        return None
    # All replies of a row follow the same history, or their scores could not be compared.
    longest = max(map(len, kept))
    fitted = _fit(row.id, row.history, encoder, limits, tally, prompt=True, reserved=longest)
    if fitted is None:
        return None
    tally.tokens += len(fitted[0]) + sum(map(len, kept))
    tally.replies += len(kept)
    return {"history_ids": fitted[0], "reply_ids": [list(ids) for ids in kept]}


# The view decides which kind of row its function is given.
_SAMPLE_OF: dict[str, Callable[[Any, Encoder, Limits, Tally], dict[str, Any] | None]] = {
    "sft": _sft,
    "preference": _preference,
    "prompt": _prompt,
}


def _fit(
    row: str,
    messages: Sequence[Message],
    encoder: Encoder,
    limits: Limits,
    tally: Tally,
    *,
    prompt: bool = False,
    reserved: int = 0,
) -> tuple[list[int], list[int]] | None:
    """Ids and labels of a dialogue within the limit, or None after counting it as dropped.

    Args:
        row: the row's id.
        messages: the dialogue.
        encoder: tokenizer and template.
        limits: length and policy.
        tally: is added to.
        prompt: end with what begins the assistant's turn.
        reserved: tokens that have to stay free for the longest reply.
    """
    room = limits.max_length - reserved
    texts = encoder.texts(messages)
    ids, labels = encoder.join(messages, texts, prompt)
    if len(ids) <= room:
        return ids, labels
    if limits.overlong == "error":
        raise DataError(
            f"A sample has {len(ids) + reserved} tokens.",
            where=f"row {row}",
            expected=f"at most {limits.max_length} tokens",
            hint=f"raise `tokenization.{limits.view}.max_length`, or set `overlong` to truncate or "
            "drop",
        )
    if limits.overlong == "truncate":
        first = int(messages[0].role == "system")
        while len(ids) > room:
            over = len(ids) - room
            if sum(message.role == "user" for message in messages) > 1:
                messages = [*messages[:first], *messages[first + 2 :]]
                texts = [*texts[:first], *texts[first + 2 :]]
            elif len(texts[first]) - over >= min(MIN_QUESTION, len(texts[first])):
                texts[first] = texts[first][over:]
            else:
                break
            ids, labels = encoder.join(messages, texts, prompt)
        else:
            tally.truncated += 1
            return ids, labels
    tally.dropped["overlong"] += 1
    return None


def _shortest(history: Sequence[Message], encoder: Encoder) -> int:
    """Tokens of the history when all is cut that may be cut."""
    least = [*(one for one in history[:1] if one.role == "system"), history[-1]]
    texts = encoder.texts(least)
    whole, _ = encoder.join(least, texts, prompt=True)
    return len(whole) - max(0, len(texts[-1]) - MIN_QUESTION)
