"""A prompt and a list of replies in an order."""

from __future__ import annotations

from typing import Any

from rlhf.data.formats.columns import columns_of, there, unread_keys
from rlhf.data.formats.compared import PROMPT, Answer, Compared, as_number, without_ties
from rlhf.data.formats.faults import Faults, shown
from rlhf.data.formats.objects import is_message
from rlhf.data.formats.turns import pick, ranked
from rlhf.data.rows import Row


class Ranked(Compared):
    """A prompt and a list of replies, best first, or each with a rank or a score.

    Replies are texts, messages or lists of messages, as in ``preference``; replies whose history
    differs from the best one's are left out and counted as ``history_differs``. Of replies with
    the same rank or score, the first is kept and the others are counted as ``tie``.

    Args:
        faults: where faults go.
        prompt: column or template of a text, a transcript, a list of alternating texts or of
            messages; if it is absent or empty, the replies' dialogues contain it; null: they
            always do.
        replies: column of the list.
        text: key of the reply, or its path, if each element is an object that holds more than a
            message; likewise ``rank`` and ``score``.
        rank: key of its rank; the lowest is best.
        score: key of its score; the highest is best. Rows keep it, unless there is a ``worst``.
        worst: column of a list of texts that are worse than all replies: one is drawn and put
            last; none, if there is no such column or it is empty.
        system: column of a system message; null: ``system`` or ``system_prompt``, if there is one;
            an empty name: none.
    """

    def __init__(
        self,
        faults: Faults,
        prompt: str | None = PROMPT,
        replies: str = "replies",
        text: str | None = None,
        rank: str | None = None,
        score: str | None = None,
        worst: str | None = None,
        system: str | None = None,
    ) -> None:
        taken = columns_of(prompt, replies, worst)
        super().__init__(faults, prompt, system=system, taken=taken)
        if rank and score:
            raise faults.wrong_option("score", score, "`rank` or `score`, not both")
        if (rank or score) and not text:
            raise faults.wrong_option("text", text, "the key of a reply's text")
        self._replies, self._text, self._rank, self._score = replies, text, rank, score
        self._worst = worst
        self.scored = score is not None and worst is None

    def rows(self, record: dict[str, Any]) -> list[Row]:
        """The best reply, the list and the prompt."""
        raw = self._columns.value(record, self._replies, "replies")
        if not isinstance(raw, list) or not raw:
            if raw is not None:
                self._faults.report_value(
                    "column_type", self._replies, raw, "a list of replies, best first"
                )
            return []
        placed = self._placed(raw)
        histories = placed and self._histories(record, [one for _, one in placed])
        if not placed or not histories:
            return []
        best = min(range(len(placed)), key=lambda i: placed[i][0])
        kept = [
            (place, (place, one.text))
            for (place, one), history in zip(placed, histories, strict=True)
            if history == histories[best]
        ]
        if len(kept) < len(placed):
            self._faults.filtered["history_differs"] += len(placed) - len(kept)
        untied = without_ties(self._faults, kept)
        replies = [text for _, text in untied]
        worse = self._worse(record, replies[0])
        if worse is None:
            return []
        scores = [-place for place, _ in untied] if self.scored else []
        return ranked(
            self._faults, self._faults.row_id, histories[best], [*replies, *worse], scores
        )

    def _placed(self, raw: list[Any]) -> list[tuple[float, Answer]] | None:
        """Place and reply of each element; None after reporting a fault."""
        found: list[tuple[float, Answer]] = []
        unread: set[str] = set()
        key = self._rank or self._score
        for position, one in enumerate(raw, start=1):
            if self._text and not isinstance(one, dict):
                self._faults.report(
                    "not_a_reply",
                    f"A reply is {shown(one)}.",
                    expected=f"an object with `{self._text}`",
                    message=position,
                    key=self._replies,
                )
                return None
            reply = self._reply(one, position)
            if reply is None:
                return None
            place: float = position
            if key is not None:
                value = there(one, key)
                number = as_number(value)
                if number is None:
                    self._faults.report(
                        "rank_missing",
                        f"The {'rank' if self._rank else 'score'} of a reply is "
                        f"{shown(value)}; its keys are: {', '.join(map(str, one))}.",
                        expected=f"a number in `{key}`",
                        message=position,
                        key=self._replies,
                    )
                    return None
                place = number if self._rank else -number
            if self._text:
                unread |= unread_keys(one, columns_of(self._text, key))
            found.append((place, reply))
        for name in unread:
            self._faults.count_unread(f"{self._replies}[].{name}")
        return found

    def _reply(self, one: Any, position: int) -> Answer | None:
        value = there(one, self._text) if self._text else one
        key = f"{self._replies}[].{self._text}" if self._text else self._replies
        if isinstance(value, dict) and not is_message(value):
            self._faults.report(
                "not_a_reply",
                f"A reply is {shown(value)}.",
                expected="a text, a message or a list of messages",
                message=position,
                key=self._replies,
                hint="set `options.text` to the key of its text"
                if not self._text
                else "mend the file, or set `options.invalid: drop`",
            )
            return None
        if value is None or (isinstance(value, str) and not value.strip()):
            self._faults.text({key: value}, key, position)
            return None
        return self._read(value, key, "replies", position)

    def _worse(self, record: dict[str, Any], best: str) -> list[str] | None:
        """One of the replies that are worse than all, if there are any."""
        worse = there(record, self._worst)
        if self._worst is None or worse is None or worse == []:
            return []
        if not isinstance(worse, list) or not all(isinstance(one, str) for one in worse):
            self._faults.report_value("column_type", self._worst, worse, "a list of texts")
            return None
        text = self._columns.text({"worst": pick(worse, best)}, "worst", "worst")
        return None if text is None else [text]
