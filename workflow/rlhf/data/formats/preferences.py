"""Replies that people or models compared: pairs, ranked lists, scores, multiple choice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from rlhf.data.formats.columns import Columns, shown
from rlhf.data.formats.faults import Faults
from rlhf.data.formats.turns import (
    HUMAN_ASSISTANT,
    check_prompts,
    history_of,
    pick,
    ranked,
    two_speakers,
)
from rlhf.data.rows import Message, Preference, Row
from rlhf.data.split import group_of

TIES = ("tie", "tie (bothbad)", "both")


class _Compared:
    """What the formats below share: a prompt's column and the history in it."""

    def __init__(
        self,
        faults: Faults,
        prompt: str,
        speakers: Sequence[str] = HUMAN_ASSISTANT,
        inline: bool = False,
        remove: str | None = None,
        prompts: Sequence[str] | None = None,
    ) -> None:
        check_prompts(faults, prompts)
        self._faults, self._prompt, self._inline = faults, prompt, inline
        self._speakers, self._prompts = two_speakers(faults, speakers), prompts
        self._columns = Columns(faults, remove)

    def _history(self, record: dict[str, Any]) -> tuple[Message, ...] | None:
        value: Any
        if "{" in self._prompt:
            value = self._columns.text(record, self._prompt, "prompt")
        else:
            value = self._columns.value(record, self._prompt, "prompt")
        if value is None:
            return None
        if self._prompts and isinstance(value, str):
            value = pick(self._prompts, value).replace("{}", value)
        return history_of(self._faults, value, self._prompt, self._speakers, self._inline)

    def _reply(self, record: dict[str, Any], key: str, option: str) -> str | None:
        """A reply: a text, or what a list of messages ends with."""
        value = self._columns.value(record, key, option)
        if isinstance(value, list) and value and isinstance(value[-1], dict):
            last = value[-1]
            if last.get("role") == "assistant":
                return self._faults.text(last, "content", len(value))
        reply = self._columns.text(record, key, option) if value is not None else None
        if reply is None:
            return None
        said = reply.strip().removeprefix(f"{self._speakers[1]}:").strip()
        if not said:
            self._faults.report(
                "text_empty", f"Column `{key}` is empty.", expected="a reply", key=key
            )
        return said or None


class Pairs(_Compared):
    """``{prompt, chosen, rejected}``: DeepSpeed-Chat's local/jsonfile, rm-static, binarized sets.

    Args:
        faults: where faults go.
        prompt: column of a text, a transcript (``Human: … Assistant:``) or a list of messages.
        chosen: column of the better reply; a list of messages ends with it.
        rejected: column of the worse reply; empty in all rows: demonstrations only.
        speakers: names of user and assistant in a transcript.
        inline: turns of a transcript begin in the middle of a line.
    """

    def __init__(
        self,
        faults: Faults,
        prompt: str = "prompt",
        chosen: str = "chosen",
        rejected: str = "rejected",
        speakers: Sequence[str] = HUMAN_ASSISTANT,
        inline: bool = False,
    ) -> None:
        super().__init__(faults, prompt, speakers, inline)
        self._chosen, self._rejected = chosen, rejected

    def rows(self, record: dict[str, Any]) -> list[Row]:
        """A conversation, the pair and the prompt."""
        history = self._history(record)
        if history is None:
            return []
        chosen = self._reply(record, self._chosen, "chosen")
        rejected = self._reply(record, self._rejected, "rejected") if chosen else None
        if chosen is None or rejected is None:
            return []
        return ranked(self._faults, self._faults.row_id, history, [chosen, rejected])


class Ranked(_Compared):
    """A prompt and a list of replies, best first or with a rank or a score each.

    Args:
        faults: where faults go.
        prompt: column of a text, a transcript, a list of texts in turn or of messages.
        replies: column of the list.
        text: key of the text, if each reply is an object.
        rank: key of its rank, the best is lowest.
        score: key of its score, the best is highest.
        worst: column of a list of replies that are worse than all: one is drawn and put last.
    """

    def __init__(
        self,
        faults: Faults,
        prompt: str = "prompt",
        replies: str = "replies",
        text: str | None = None,
        rank: str | None = None,
        score: str | None = None,
        worst: str | None = None,
    ) -> None:
        super().__init__(faults, prompt)
        if rank and score:
            raise faults.wrong_option("score", score, "`rank` or `score`, not both")
        if (rank or score) and not text:
            raise faults.wrong_option("text", text, "the key of a reply's text")
        self._replies, self._text, self._rank, self._score = replies, text, rank, score
        self._worst = worst

    def rows(self, record: dict[str, Any]) -> list[Row]:
        """The best reply, the list and the prompt."""
        history = self._history(record)
        if history is None:
            return []
        raw = self._columns.value(record, self._replies, "replies")
        if not isinstance(raw, list) or not raw:
            if raw is not None:
                self._faults.report(
                    "column_type",
                    f"Column `{self._replies}` holds {shown(raw)}.",
                    expected="a list of replies, best first",
                    key=self._replies,
                )
            return []
        replies = self._ordered(raw)
        worse = record.get(self._worst) if self._worst else None
        if replies and isinstance(worse, list) and worse:
            last = pick(worse, replies[0])
            replies += [last] if isinstance(last, str) and last.strip() else []
        return ranked(self._faults, self._faults.row_id, history, replies) if replies else []

    def _ordered(self, raw: list[Any]) -> list[str]:
        """Texts, best first, without those that are faulty or tied."""
        texts: list[tuple[float, str]] = []
        key = self._rank or self._score
        for position, one in enumerate(raw, start=1):
            value = one if self._text else {self._replies: one}
            if not isinstance(value, dict):
                self._faults.report(
                    "not_a_reply",
                    f"A reply is {shown(one)}.",
                    expected=f"an object with `{self._text}`",
                    message=position,
                    key=self._replies,
                )
                return []
            text = self._faults.text(value, self._text or self._replies, position)
            if text is None:
                return []
            place: float = position
            if key is not None:
                number = as_number(value.get(key))
                if number is None:
                    self._faults.report(
                        "rank_missing",
                        f"The {'rank' if self._rank else 'score'} of a reply is "
                        f"{shown(value.get(key))}.",
                        expected=f"a number in `{key}`",
                        message=position,
                        key=self._replies,
                    )
                    return []
                place = number if self._rank else -number
            texts.append((place, text))
        return _without_ties(self._faults, texts)


class Comparisons(_Compared):
    """Two replies with a score each, or with a label that says which is better; ties are dropped.

    Args:
        faults: where faults go.
        prompt: column or template of the prompt.
        replies: columns of the two replies.
        scores: columns of their scores; the higher is better.
        choice: column of the label.
        wins: the label if the first is better, and if the second is.
        prompts: templates with ``{}`` for the prompt; one is drawn by its digest.
        merge: all rows of one prompt make one ranked list: by their best score, or by how often
            they won. The whole set is held in memory.
        remove: a regular expression; what it matches is taken out of replies and prompts.
    """

    def __init__(
        self,
        faults: Faults,
        prompt: str = "prompt",
        replies: Sequence[str] = ("answer_0", "answer_1"),
        scores: Sequence[str] | None = None,
        choice: str | None = None,
        wins: Sequence[Any] = (0, 1),
        prompts: Sequence[str] | None = None,
        merge: bool = False,
        remove: str | None = None,
    ) -> None:
        super().__init__(faults, prompt, remove=remove, prompts=prompts)
        for option, value in (("replies", replies), ("scores", scores), ("wins", wins)):
            two = isinstance(value, list | tuple) and len(value) == 2
            if not two and not (option == "scores" and value is None):
                raise faults.wrong_option(option, value, "a list of two")
        if (scores is None) == (choice is None):
            raise faults.wrong_option("scores", scores, "either `scores` or `choice`")
        self._replies, self._scores, self._choice = tuple(replies), scores, choice
        self._wins, self._merge = tuple(wins), merge
        self._lists: dict[tuple[Message, ...], tuple[str, dict[str, float]]] = {}

    def rows(self, record: dict[str, Any]) -> list[Row]:
        """A conversation, the pair and the prompt; with ``merge`` they come in the end."""
        history = self._history(record)
        if history is None:
            return []
        texts = [self._reply(record, key, "replies") for key in self._replies]
        if texts[0] is None or texts[1] is None:
            return []
        points = self._points(record)
        if points is None:
            return []
        pair = list(zip(points, (texts[0], texts[1]), strict=True))
        if self._merge:
            _, known = self._lists.setdefault(history, (self._faults.row_id, defaultdict(float)))
            for point, text in pair:
                known[text] = known[text] + point if self._choice else point
            return []
        if points[0] == points[1]:
            self._faults.filtered["tie"] += 1
            return []
        replies = [text for _, text in sorted(pair, key=lambda one: -one[0])]
        if replies[0] == replies[1]:
            self._faults.filtered["duplicate_reply"] += 1
            return []
        return ranked(self._faults, self._faults.row_id, history, replies)

    def finish(self) -> Iterable[Row]:
        """The merged lists."""
        for history, (row_id, known) in self._lists.items():
            replies = _without_ties(self._faults, [(-point, text) for text, point in known.items()])
            if replies:
                yield from ranked(self._faults, row_id, history, replies)

    def _points(self, record: dict[str, Any]) -> tuple[float, float] | None:
        """Points of both replies, or None for a tie or after reporting a fault."""
        if self._choice is not None:
            label = self._columns.value(record, self._choice, "choice", nothing=TIES[0])
            if label is None:
                return None
            if label in self._wins and not isinstance(label, bool):
                return (1.0, 0.0) if label == self._wins[0] else (0.0, 1.0)
            if label in TIES:
                self._faults.filtered["tie"] += 1
                return None
            self._faults.report(
                "choice_invalid",
                f"Column `{self._choice}` holds {shown(label)}.",
                expected=f"{self._wins[0]!r} or {self._wins[1]!r}",
                key=self._choice,
                hint="set `options.wins` to the labels of the set",
            )
            return None
        points = []
        for key in self._scores or ():
            value = self._columns.value(record, key, "scores")
            number = as_number(value)
            if number is None:
                if value is not None:
                    self._faults.report(
                        "score_invalid",
                        f"Column `{key}` holds {shown(value)}.",
                        expected="a number",
                        key=key,
                    )
                return None
            points.append(number)
        return points[0], points[1]


class MultipleChoice(_Compared):
    """A context and several endings of which one is right; the others are all equally wrong.

    Args:
        faults: where faults go.
        prompt: column or template of the context.
        choices: column of the endings.
        label: column of the right one: its position from 0, or its key.
        keys: column of the endings' keys, such as A, B, C; None: the label is a position.
        wrong: ``one`` (a pair with one wrong ending, drawn by a digest) or ``all`` (a pair with
            each).
    """

    def __init__(
        self,
        faults: Faults,
        prompt: str = "ctx",
        choices: str = "endings",
        label: str = "label",
        keys: str | None = None,
        wrong: str = "one",
    ) -> None:
        super().__init__(faults, prompt)
        if wrong not in ("one", "all"):
            raise faults.wrong_option("wrong", wrong, "one or all")
        self._choices, self._label, self._keys, self._wrong = choices, label, keys, wrong

    def rows(self, record: dict[str, Any]) -> list[Row]:
        """The right ending to imitate, one or more pairs, and the prompt."""
        history = self._history(record)
        if history is None:
            return []
        choices = self._columns.value(record, self._choices, "choices")
        if not isinstance(choices, list) or not all(isinstance(one, str) for one in choices):
            if choices is not None:
                self._faults.report(
                    "column_type",
                    f"Column `{self._choices}` holds {shown(choices)}.",
                    expected="a list of texts",
                    key=self._choices,
                )
            return []
        right = self._right(record, len(choices))
        if right is None:
            return []
        texts = [one.strip() for one in choices]
        others = list(dict.fromkeys(one for one in texts if one and one != texts[right]))
        if not texts[right] or not others:
            self._faults.report(
                "text_empty",
                f"Column `{self._choices}` has no right ending or no wrong one.",
                expected="two different texts or more",
                key=self._choices,
            )
            return []
        row_id = self._faults.row_id
        if self._wrong == "one":
            return ranked(self._faults, row_id, history, [texts[right], pick(others, texts[right])])
        rows = ranked(self._faults, row_id, history, [texts[right]])
        group = group_of(history[0].content)
        pairs = enumerate(others, start=1)
        return rows + [
            Preference(f"{row_id}.{i}", group, history, (texts[right], one)) for i, one in pairs
        ]

    def _right(self, record: dict[str, Any], count: int) -> int | None:
        label = self._columns.value(record, self._label, "label", nothing="")
        if label is None:
            return None
        if label in ("", "-1", -1):
            self._faults.filtered["unlabelled"] += 1
            return None
        place: Any = label
        if self._keys is not None:
            keys = self._columns.value(record, self._keys, "keys")
            place = keys.index(label) if isinstance(keys, list) and label in keys else None
        elif isinstance(label, str) and label.isdigit():
            place = int(label)
        if type(place) is not int or not 0 <= place < count:
            self._faults.report(
                "label_invalid",
                f"Column `{self._label}` holds {shown(label)}.",
                expected=f"one of `{self._keys}`"
                if self._keys
                else f"a number from 0 to {count - 1}",
                key=self._label,
            )
            return None
        return place


def as_number(value: Any) -> float | None:
    """A number, or the number that a text spells; None for anything else."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if number == number else None


def _without_ties(faults: Faults, texts: list[tuple[float, str]]) -> list[str]:
    """Texts in the order of their numbers; of those with equal ones the first is kept."""
    kept: dict[float, str] = {}
    for place, text in sorted(texts, key=lambda one: one[0]):
        if place in kept:
            faults.filtered["tie"] += 1
        kept.setdefault(place, text)
    return list(kept.values())
