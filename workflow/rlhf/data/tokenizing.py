"""Rows to token ids within a length, with every cut and every loss counted."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from rlhf.core.seeds import row_draws
from rlhf.data.cutting import Part, count_system, last_part, random_part
from rlhf.data.encoding import Encoder
from rlhf.data.joining import SAMPLES
from rlhf.data.labels import IGNORED
from rlhf.data.pieces import Ids
from rlhf.data.rows import Conversation, Feedback, Message, Preference, Prompt, Row
from rlhf.data.tags import ReplyTags
from rlhf.errors import DataError

if TYPE_CHECKING:
    from datasets import Features

BATCH = 256  # rows whose texts are tokenized in one call


@dataclass(frozen=True)
class Limits:
    """How long a sample may be, and what happens to a longer one.

    Attributes:
        view: ``conversation``, ``preference``, ``feedback`` or ``prompt``.
        max_length: tokens of a sample; of history and one reply in ``preference``.
        overlong: ``drop``; ``truncate``: the oldest turns go, and where ``min_prefix`` allows it
            the beginning of the last question, never a reply; or ``error``.
        min_prefix: tokens of the last question that a cut leaves; None: it is never cut, as half
            a question has another answer.
        max_replies: replies of a preference that are kept, best first; None: all.
        system_prefix: a system message before every dialogue; None: none.
        reply_tags: how tags are written before replies; None: not at all.
        random_offset: probability that a demonstration which is too long begins at a random turn,
            and not as late as it must.
        seed: of tags and offsets.
    """

    view: Literal["conversation", "preference", "feedback", "prompt"]
    max_length: int
    overlong: Literal["drop", "truncate", "error"]
    min_prefix: int | None = None
    max_replies: int | None = None
    system_prefix: str | None = None
    reply_tags: ReplyTags | None = None
    random_offset: float = 0.0
    seed: int = 0


@dataclass
class Tally:
    """What became of the rows of one split.

    ``truncations`` says how rows were cut, each in one way or more: ``turns`` (the oldest are
    gone), ``question`` (the beginning of the last one), ``offset`` (a random part is left).
    ``joined`` counts the conversations that stand in a row after another one.
    ``dropped`` says why rows are not used: ``long_question`` is one whose last question is too
    long, and may not be cut.
    """

    source_rows: int = 0
    rows: int = 0
    tokens: int = 0
    labels: int = 0
    joined: int = 0
    replies: int = 0
    desirable: int = 0
    truncated: int = 0
    truncations: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    replies_dropped: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        """Add what became of other rows of the split."""
        for one in fields(self):
            mine, more = getattr(self, one.name), getattr(other, one.name)
            setattr(self, one.name, mine + more)

    def as_dict(self, view: str) -> dict[str, Any]:
        """Counts for the manifest; a preference's history counts once in ``tokens``."""
        counts: dict[str, Any] = {
            "source_rows": self.source_rows,
            "rows": self.rows,
            "tokens": self.tokens,
            "truncated": self.truncated,
            "truncations": dict(sorted(self.truncations.items())),
            "dropped": self.dropped.total(),
            "dropped_reasons": dict(sorted((+self.dropped).items())),
        }
        if view == "conversation":
            counts["labels"] = self.labels
            counts["label_share"] = round(self.labels / self.tokens, 6) if self.tokens else 0.0
            if self.joined:
                counts["joined"] = self.joined
        if view == "preference":
            counts["replies"] = self.replies
            counts["replies_dropped"] = dict(sorted((+self.replies_dropped).items()))
        if view == "feedback":
            counts["desirable"] = self.desirable
        return counts


def features_of(
    view: str, kept: Collection[str] = (), joined: bool = False, scored: bool = False
) -> Features:
    """Columns of a tokenized view.

    ``conversation``: id, input_ids, labels, and where short ones are ``joined`` the ids of a row's
    samples; ``preference``: id, history_ids, reply_ids (a list of lists, best first), and
    ``scores`` of the replies if they are ``scored``; ``feedback``: id, history_ids, reply_ids of
    one reply, and desirable; ``prompt``: id, input_ids. Ids are int32.

    Args:
        view: the view.
        kept: what prompts have besides, of ``data.rows_file.KEPT``: ``columns`` (a JSON object) and
            ``own_reply_ids``, of ``reply``.
        joined: whether short conversations are joined.
        scored: whether preferences have scores.
    """
    from datasets import Features, List, Value

    ids = List(Value("int32"))
    columns = {
        "conversation": {"input_ids": ids, "labels": ids},
        "preference": {"history_ids": ids, "reply_ids": List(ids)},
        "feedback": {"history_ids": ids, "reply_ids": List(ids), "desirable": Value("bool")},
        "prompt": {"input_ids": ids},
    }
    more = {"columns": ("columns", Value("string")), "reply": ("own_reply_ids", ids)}
    own = dict(more[name] for name in kept)
    if joined:
        own[SAMPLES] = List(Value("string"))
    if scored:
        own["scores"] = List(Value("float64"))
    return Features({"id": Value("string")} | columns[view] | own)


def tokenize(
    rows: Iterable[Row], encoder: Encoder, limits: Limits, tally: Tally
) -> Iterator[dict[str, Any]]:
    """Yield the sample of each row that fits.

    Args:
        rows: rows of the view ``limits.view``.
        encoder: tokenizer and template.
        limits: length and policy.
        tally: is added to as samples are made.

    Raises:
        DataError: a row is too long and ``overlong`` is ``error``, or the template does not write
            its texts as they are.
    """
    make = _SAMPLE_OF[limits.view]
    remaining = iter(rows)
    while batch := list(itertools.islice(remaining, BATCH)):
        dialogues = [_dialogue(row, limits) for row in batch]
        encoder.prime(turns for one in dialogues for turns in one.all())
        for one in dialogues:
            _check(one, encoder, limits)
            tally.source_rows += 1
            sample = make(one, encoder, limits, tally)
            if sample is not None:
                tally.rows += 1
                yield {"id": one.row} | sample


@dataclass(frozen=True, slots=True)
class _Dialogue:
    """A row with all that goes before and between its messages.

    Attributes:
        row: the row's id.
        history: the dialogue; that before the replies in ``preference`` and ``feedback``.
        replies: each with its tag in front, if it has one; best first.
        desirable: whether a reply of ``feedback`` is a good one.
        scores: of the replies; empty where they have none.
        columns: of a prompt, what is kept of the source's columns, or None.
        own_reply: of a prompt, the source's own reply where that is kept.
    """

    row: str
    history: tuple[Message, ...]
    replies: tuple[tuple[Message, ...], ...] = ()
    desirable: bool = False
    scores: tuple[float, ...] = ()
    columns: str | None = None
    own_reply: str | None = None

    def all(self) -> Iterator[Sequence[Message]]:
        """Every dialogue whose texts are tokenized."""
        if not self.replies:
            yield self.history
        for reply in self.replies:
            yield (*self.history, *reply)
        if self.own_reply is not None:
            yield (*self.history, Message("assistant", self.own_reply))


def _dialogue(row: Row, limits: Limits) -> _Dialogue:
    history = row.messages if isinstance(row, Conversation) else row.history
    replies: tuple[tuple[Message, ...], ...] = ()
    scores: tuple[float, ...] = ()
    if isinstance(row, Preference):
        scores = row.scores
        known = row.properties or itertools.repeat(None)
        replies = tuple(
            (Message("assistant", text, of),) for text, of in zip(row.replies, known, strict=False)
        )
    if isinstance(row, Feedback):
        replies = ((Message("assistant", row.reply, row.properties),),)
    if limits.reply_tags is not None:
        draw = row_draws(limits.seed, "tags", row.id)
        history = tuple(limits.reply_tags.insert(history, draw))
        replies = tuple(limits.reply_tags.before(reply, draw) for (reply,) in replies)
    if limits.system_prefix is not None and any(one.role == "user" for one in history):
        history = (Message("system", limits.system_prefix), *history)
    if isinstance(row, Prompt):
        return _Dialogue(row.id, history, columns=row.columns, own_reply=row.reply)
    desirable = isinstance(row, Feedback) and row.desirable
    return _Dialogue(row.id, history, replies, desirable, scores)


def _check(dialogue: _Dialogue, encoder: Encoder, limits: Limits) -> None:
    """Every row is written by the template itself too: it may look at what no probe has."""
    for messages in dialogue.all():
        encoder.check(messages, dialogue.row)
    if limits.view != "conversation" and limits.reply_tags is None:
        encoder.check(dialogue.history, dialogue.row, prompt=True)


def _conversation(
    dialogue: _Dialogue, encoder: Encoder, limits: Limits, tally: Tally
) -> dict[str, Any] | None:
    import numpy as np

    fitted = _fit(dialogue, encoder, limits, tally)
    if fitted is None:
        return None
    ids, labels = fitted.encoded
    trained = int(np.count_nonzero(np.frombuffer(labels, np.int32) != IGNORED))
    if not trained:
        tally.dropped["no_labels"] += 1
        return None
    tally.tokens += len(ids)
    tally.labels += trained
    return {"input_ids": ids, "labels": labels}


def _prompt(
    dialogue: _Dialogue, encoder: Encoder, limits: Limits, tally: Tally
) -> dict[str, Any] | None:
    fitted = _fit(dialogue, encoder, limits, tally, prompt=True)
    if fitted is None:
        return None
    tally.tokens += len(fitted)
    sample: dict[str, Any] = {"input_ids": fitted.encoded[0]}
    if dialogue.columns is not None:
        sample["columns"] = dialogue.columns
    if dialogue.own_reply is not None:
        sample["own_reply_ids"] = encoder.reply(dialogue.history, dialogue.own_reply)
    return sample


def _preference(
    dialogue: _Dialogue, encoder: Encoder, limits: Limits, tally: Tally
) -> dict[str, Any] | None:
    # A tag stands before what begins the assistant's turn, so both belong to the reply then.
    history, prompt = dialogue.history, limits.reply_tags is None
    replies: dict[bytes, Ids] = {}  # in the order of insertion: best first
    numbers: list[int] = []  # of these among the dialogue's
    for number, reply in enumerate(dialogue.replies):
        ids = encoder.reply(history, reply[-1].content)
        text = ids.tobytes()
        # Texts that a normalizer makes equal are one reply: nothing can be learned from the pair.
        tally.replies_dropped["duplicate"] += text in replies
        if text not in replies:
            replies[text] = ids if prompt else encoder.turn(history, reply)
            numbers.append(number)
    kept = list(replies.values())
    uncut = 0
    if limits.overlong != "error":
        needed, uncut = _shortest(history, encoder, limits, prompt)
        fitting = [i for i, ids in enumerate(kept) if needed + len(ids) <= limits.max_length]
        kept, numbers = [kept[i] for i in fitting], [numbers[i] for i in fitting]
        tally.replies_dropped["overlong"] += len(replies) - len(kept)
    surplus = len(kept) - (limits.max_replies or len(kept))
    if surplus > 0:
        kept = kept[: limits.max_replies]
        tally.replies_dropped["surplus"] += surplus
    if len(replies) < 2:
        tally.dropped["duplicate_replies"] += 1
        return None
    if len(kept) < 2:
        second = sorted(map(len, replies.values()))[1]
        fits = bool(uncut) and needed - uncut + second <= limits.max_length
        tally.dropped["long_question" if fits else "overlong"] += 1
        return None
    # All replies of a row follow the same history, or their scores could not be compared.
    longest = max(map(len, kept))
    fitted = _fit(dialogue, encoder, limits, tally, prompt=prompt, reserved=longest)
    if fitted is None:
        return None
    if fitted.messages != history:
        _check_cut(dialogue, fitted.messages, encoder, limits)
    tally.tokens += len(fitted) + sum(map(len, kept))
    tally.replies += len(kept)
    # Of more replies than are kept, the first are.
    scores = [dialogue.scores[i] for i in numbers[: len(kept)]] if dialogue.scores else None
    sample = {"history_ids": fitted.encoded[0], "reply_ids": kept}
    return sample if scores is None else sample | {"scores": scores}


def _feedback(
    dialogue: _Dialogue, encoder: Encoder, limits: Limits, tally: Tally
) -> dict[str, Any] | None:
    history, prompt = dialogue.history, limits.reply_tags is None
    (reply,) = dialogue.replies
    ids = encoder.reply(history, reply[-1].content) if prompt else encoder.turn(history, reply)
    if limits.overlong != "error":
        needed, uncut = _shortest(history, encoder, limits, prompt)
        if needed + len(ids) > limits.max_length:
            fits = bool(uncut) and needed - uncut + len(ids) <= limits.max_length
            tally.dropped["long_question" if fits else "overlong"] += 1
            return None
    fitted = _fit(dialogue, encoder, limits, tally, prompt=prompt, reserved=len(ids))
    if fitted is None:
        return None
    if fitted.messages != history:
        _check_cut(dialogue, fitted.messages, encoder, limits)
    tally.tokens += len(fitted) + len(ids)
    tally.desirable += dialogue.desirable
    return {
        "history_ids": fitted.encoded[0],
        "reply_ids": [ids],
        "desirable": dialogue.desirable,
    }


def _check_cut(
    dialogue: _Dialogue, history: Sequence[Message], encoder: Encoder, limits: Limits
) -> None:
    """Replies were encoded after the whole history: after what is left of it they are the same."""
    for reply in dialogue.replies:
        encoder.check((*history, *reply), dialogue.row)
        text = reply[-1].content
        if encoder.reply(history, text) != encoder.reply(dialogue.history, text):
            raise DataError(
                "The chat template writes a reply differently after a shorter history.",
                where=f"row {dialogue.row}",
                expected="a template that writes each turn as it is, wherever it stands",
                hint=f"set `tokenization.{limits.view}.overlong` to drop, or choose another "
                "template",
            )


# The view decides what its function makes of a dialogue.
_SAMPLE_OF: dict[str, Callable[[_Dialogue, Encoder, Limits, Tally], dict[str, Any] | None]] = {
    "conversation": _conversation,
    "preference": _preference,
    "feedback": _feedback,
    "prompt": _prompt,
}


def _fit(
    dialogue: _Dialogue,
    encoder: Encoder,
    limits: Limits,
    tally: Tally,
    *,
    prompt: bool = False,
    reserved: int = 0,
) -> Part | None:
    """As much of a history as the limit has room for, or None after counting it as dropped.

    Args:
        dialogue: the history, and the row that it is of.
        encoder: tokenizer and template.
        limits: length and policy.
        tally: is added to.
        prompt: end with what begins the assistant's turn.
        reserved: tokens that have to stay free for the longest reply.
    """
    room = limits.max_length - reserved
    whole = Part(dialogue.history, encoder.texts(dialogue.history), encoder, prompt)
    if len(whole) <= room:
        return whole
    if limits.overlong == "error":
        raise DataError(
            f"A sample has {len(whole) + reserved} tokens.",
            where=f"row {dialogue.row}",
            expected=f"at most {limits.max_length} tokens",
            hint=f"raise `tokenization.{limits.view}.max_length`, or set `overlong` to truncate or "
            "drop",
        )
    reason = "overlong"
    if limits.overlong == "truncate":
        found, how = None, {"offset"}
        if limits.random_offset:
            draw = row_draws(limits.seed, "offset", dialogue.row)
            if draw.random() < limits.random_offset:
                found = random_part(whole, room, draw)
        if found is None:
            how = set()
            found = last_part(whole, room, limits.min_prefix, how)
        if found is not None:
            encoder.check(found.messages, dialogue.row, prompt)
            tally.truncated += 1
            tally.truncations.update(how)
            return found
        reason = "long_question" if "whole" in how else reason
    tally.dropped[reason] += 1
    return None


def _shortest(
    history: Sequence[Message], encoder: Encoder, limits: Limits, prompt: bool
) -> tuple[int, int]:
    """Tokens of a history when all is cut that may be cut.

    Returns:
        The tokens, and how many of them a last question has that could be cut but may not.
    """
    if limits.overlong != "truncate":
        return len(encoder.join(history, encoder.texts(history), prompt)[0]), 0
    kept = [*history[: count_system(history)], history[-1]]
    texts = encoder.texts(kept)
    whole, question = len(encoder.join(kept, texts, prompt)[0]), len(texts[-1])
    if limits.min_prefix is None:
        return whole, question - 1
    return whole - max(0, question - limits.min_prefix), 0
