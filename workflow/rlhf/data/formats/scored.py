"""One reply a row, with scores: HelpSteer's rows."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

from rlhf.data.formats.accounts import Held
from rlhf.data.formats.columns import columns_of
from rlhf.data.formats.compared import PROMPT, Compared, as_number, without_ties
from rlhf.data.formats.faults import Faults
from rlhf.data.formats.turns import ranked
from rlhf.data.rows import Conversation, Message, Row


class Scored(Compared):
    """``{prompt, response, score}``: a reply and its rating, one per row, as in HelpSteer.

    All replies to one prompt become one ranked list; the best of them is the demonstration. Of
    replies with the same rating, the first is kept and the others are counted as ``tie``; a reply
    that occurs twice counts once, with its best rating (``duplicate_reply``). The whole dataset is
    held in memory. Replies are texts, messages or lists of messages, as in ``preference``. Rows
    keep the ratings.

    Args:
        faults: where faults go.
        prompt: column or template of a text, a transcript, a list of alternating texts or of
            messages; if it is absent or empty, the dialogue in ``reply`` contains it; null:
            always.
        reply: column of the reply, or of the dialogue that ends with it.
        scores: column of the score, of which the highest is best; or columns and their weights,
            such as ``{helpfulness: 0.65, correctness: 0.8}``, for a weighted sum.
        min_score: if the best reply is below it, it is not a demonstration, and is counted as
            ``low_score``.
        system: column of a system message; null: ``system`` or ``system_prompt``, if there is one;
            an empty name: none.
    """

    scored = True

    def __init__(
        self,
        faults: Faults,
        prompt: str | None = PROMPT,
        reply: str = "response",
        scores: str | Mapping[str, float] = "score",
        min_score: float | None = None,
        system: str | None = None,
    ) -> None:
        weights = {scores: 1.0} if isinstance(scores, str) else dict(scores)
        taken = columns_of(prompt, reply, *weights)
        super().__init__(faults, prompt, system=system, taken=taken)
        if not weights or not any(weights.values()) or None in map(as_number, weights.values()):
            raise faults.wrong_option(
                "scores", scores, "a column, or columns and their weights, such as {a: 0.5, b: 1}"
            )
        self._reply, self._min_score = reply, min_score
        self._weights = {column: _exact(weight) for column, weight in weights.items()}
        # history → the first row's id, and each reply with its best score and its first row
        self._known: dict[tuple[Message, ...], tuple[str, dict[str, tuple[Fraction, Held]]]] = {}

    def rows(self, record: dict[str, Any]) -> list[Row]:
        """No rows yet: they come when all replies to a prompt are known."""
        answer = self._answer(record, self._reply, "reply")
        histories = self._histories(record, [answer]) if answer is not None else None
        score = self._total(record) if histories is not None else None
        if answer is None or histories is None or score is None:
            return []
        _, known = self._known.setdefault(histories[0], (self._faults.row_id, {}))
        text = answer.text.strip()
        if text in known:
            self._faults.filtered["duplicate_reply"] += 1
            before, held = known[text]
            known[text] = max(before, score), held
        else:
            known[text] = score, self._faults.hold()
        return []

    def finish(self) -> Iterable[Row]:
        """The ranked lists."""
        for history, (row_id, known) in self._known.items():
            places = [(-score, text) for text, (score, _) in known.items()]
            replies = without_ties(self._faults, places)
            low = self._min_score is not None and known[replies[0]][0] < _exact(self._min_score)
            if low:
                self._faults.filtered["low_score"] += 1
            scores = [float(known[text][0]) for text in replies]
            for row in ranked(self._faults, row_id, history, replies, scores):
                if not (low and isinstance(row, Conversation)):
                    yield row
            for text, (_, held) in known.items():
                if text in replies:
                    held.use()
                else:
                    held.leave_out("tie")

    def _total(self, record: dict[str, Any]) -> Fraction | None:
        """The weighted sum of the scores, or None after reporting a fault."""
        total = Fraction(0)
        for column, weight in self._weights.items():
            score = self._score_in(record, column)
            if score is None:
                return None
            total += weight * _exact(score)
        if abs(total) > sys.float_info.max:
            self._faults.report_value("score_invalid", column, score, "a smaller number")
            return None
        return total


def _exact(number: float) -> Fraction:
    """A number as it is written: sums of such are equal where they are on paper."""
    return Fraction(str(number))
