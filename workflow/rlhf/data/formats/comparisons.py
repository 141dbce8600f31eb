"""Two replies of which one was judged better, by scores or by a label."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from rlhf.data.formats.accounts import Held
from rlhf.data.formats.columns import columns_of
from rlhf.data.formats.compared import (
    PROMPT,
    Compared,
    is_nothing,
    same,
    without_ties,
)
from rlhf.data.formats.faults import Faults
from rlhf.data.formats.turns import ranked
from rlhf.data.rows import Message, Row

TIES = ("tie", "tie (bothbad)", "both")


class Comparisons(Compared):
    """Two replies, each with a score, or with a label that says which is better; ties are dropped.

    Replies are texts, messages or lists of messages, as in ``preference``; if the histories of the
    two differ, the better one is a demonstration, and the row is counted as ``history_differs``.
    Rows without a label are left out and counted as ``unlabelled``.

    Args:
        faults: where faults go.
        prompt: column or template of the prompt; if it is absent or empty, the replies' dialogues
            contain it; null: they always do.
        replies: columns of the two replies.
        scores: columns of their scores; the higher is better. Rows keep them.
        choice: column of the label.
        wins: the label if the first is better, and the label if the second is; lists if there are
            several, such as ``[[1, 2], [-1, -2]]``.
        ties: labels that prefer neither.
        prompts: templates with ``{}`` for the prompt; one is drawn, by the prompt's digest.
        merge: all rows with the same prompt become one ranked list: by the best score that a reply
            has in any of them, or by its number of wins (a tie is not a win); of replies that rank
            equally, the first is kept and the others are counted as ``tie``. The whole dataset is
            held in memory.
        remove: a regular expression; its matches are removed from replies.
        system: column of a system message; null: ``system`` or ``system_prompt``, if there is one;
            an empty name: none.
    """

    def __init__(
        self,
        faults: Faults,
        prompt: str | None = PROMPT,
        replies: Sequence[str] = ("answer_0", "answer_1"),
        scores: Sequence[str] | None = None,
        choice: str | None = None,
        wins: Sequence[Any] = (0, 1),
        ties: Sequence[Any] = TIES,
        prompts: Sequence[str] | None = None,
        merge: bool = False,
        remove: str | None = None,
        system: str | None = None,
    ) -> None:
        taken = columns_of(prompt, *replies, *(scores or ()), choice)
        super().__init__(faults, prompt, remove=remove, prompts=prompts, system=system, taken=taken)
        for option, value in (("replies", replies), ("scores", scores), ("wins", wins)):
            two = isinstance(value, list | tuple) and len(value) == 2
            if not two and not (option == "scores" and value is None):
                raise faults.wrong_option(option, value, "a list of two")
        self._wins = [one if isinstance(one, list | tuple) else [one] for one in wins]
        labels = [*self._wins[0], *self._wins[1], *ties]
        if any(same(*two) for two in itertools.combinations(labels, 2)) or not all(self._wins):
            raise faults.wrong_option("wins", wins, "labels that differ, and are no `ties`")
        if (scores is None) == (choice is None):
            raise faults.wrong_option("scores", scores, "either `scores` or `choice`")
        self._replies, self._scores, self._choice = tuple(replies), scores, choice
        self._ties, self._merge = ties, merge
        self.scored = scores is not None
        self._lists: dict[tuple[Message, ...], tuple[str, dict[str, float]]] = {}
        self._held: list[tuple[Held, list[tuple[tuple[Message, ...], str]]]] = []

    def rows(self, record: dict[str, Any]) -> list[Row]:
        """A conversation, the pair and the prompt; with ``merge`` they come in the end."""
        first = self._answer(record, self._replies[0], "replies")
        second = self._answer(record, self._replies[1], "replies") if first else None
        if first is None or second is None:
            return []
        histories = self._histories(record, [first, second])
        points = self._points(record) if histories is not None else None
        if histories is None or points is None:
            return []
        row_id = self._faults.row_id
        pair = list(zip(points, (first.text, second.text), histories, strict=True))
        if self._merge and self._scores and histories[0] == histories[1]:
            self._hold(row_id, pair)
            return []
        if points[0] == points[1]:
            self._faults.filtered["tie"] += 1
            return []
        (most, better, history), (least, worse, other) = sorted(pair, key=lambda one: -one[0])
        if history != other:
            self._faults.filtered["history_differs"] += 1
            return ranked(self._faults, row_id, history, [better])
        if better.strip() == worse.strip():
            self._faults.filtered["duplicate_reply"] += 1
            return []
        if self._merge:
            self._hold(row_id, [(1, better, history), (0, worse, history)])
            return []
        scores = [most, least] if self._scores else []
        return ranked(self._faults, row_id, history, [better, worse], scores)

    def finish(self) -> Iterable[Row]:
        """The merged lists."""
        for history, (row_id, known) in self._lists.items():
            places = [(-point, text) for text, point in known.items()]
            kept = without_ties(self._faults, places)
            scores = [known[text] for text in kept] if self._scores else []
            yield from ranked(self._faults, row_id, history, kept, scores)
            for text in known.keys() - set(kept):
                del known[text]
        for held, replies in self._held:
            if any(text in self._lists[history][1] for history, text in replies):
                held.use()
            else:
                held.leave_out("tie")

    def _hold(self, row_id: str, replies: Iterable[tuple[float, str, tuple[Message, ...]]]) -> None:
        """Add wins, or scores, to what the replies to a prompt have."""
        added = []
        for point, reply, history in replies:
            _, known = self._lists.setdefault(history, (row_id, {}))
            text = reply.strip()
            if self._scores:
                known[text] = max(known.get(text, point), point)
            else:
                known[text] = known.get(text, 0) + point
            added.append((history, text))
        self._held.append((self._faults.hold(), added))

    def _points(self, record: dict[str, Any]) -> tuple[float, float] | None:
        """Points of both replies, or None if nothing is said of them or after reporting a fault."""
        if self._choice is not None:
            return self._of_label(record, self._choice)
        first, second = self._scores or ("", "")
        points = self._score_in(record, first)
        others = self._score_in(record, second) if points is not None else None
        return None if points is None or others is None else (points, others)

    def _of_label(self, record: dict[str, Any], choice: str) -> tuple[float, float] | None:
        """One point for the reply that the label says is better, none in a tie."""
        label = self._columns.value(record, choice, "choice", nothing="")
        if label is None:
            return None
        if is_nothing(label):
            self._faults.filtered["unlabelled"] += 1
            return None
        outcomes = ((self._wins[0], (1, 0)), (self._wins[1], (0, 1)), (self._ties, (0, 0)))
        for labels, points in outcomes:
            if any(same(label, one) for one in labels):
                return points
        self._faults.report_value(
            "choice_invalid",
            choice,
            label,
            " or ".join(repr(one) for wins in self._wins for one in wins),
            hint="set `options.wins` to the labels of the set, `options.ties` to those that "
            "prefer neither",
        )
        return None
