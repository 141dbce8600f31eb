"""Multiple choice: one right ending and wrong ones."""

from __future__ import annotations

from typing import Any

from rlhf.data.formats.columns import columns_of
from rlhf.data.formats.compared import Answer, Compared, as_number, is_nothing, same
from rlhf.data.formats.faults import Faults
from rlhf.data.formats.turns import pick, ranked
from rlhf.data.rows import Preference, Row

UNLABELLED = -1


class MultipleChoice(Compared):
    """A context and several endings, of which one is right; the others are all equally wrong.

    Rows without a label, or with -1 as in test splits, are left out and counted as ``unlabelled``.
    Endings that are empty (``empty_choice``) or repeat an earlier one (``duplicate_reply``) are
    left out.

    Args:
        faults: where faults go.
        prompt: column or template of the context.
        choices: column of the endings.
        label: column of the right one: its position, from 0, or its key.
        keys: column of the endings' keys, such as A, B, C; null: the label is a position.
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
        super().__init__(faults, prompt, system="", taken=columns_of(prompt, choices, label, keys))
        if wrong not in ("one", "all"):
            raise faults.wrong_option("wrong", wrong, "one or all")
        self._choices, self._label, self._keys, self._wrong = choices, label, keys, wrong

    def rows(self, record: dict[str, Any]) -> list[Row]:
        """The right ending to imitate, one or more pairs, and the prompt."""
        choices = self._columns.value(record, self._choices, "choices")
        if not isinstance(choices, list) or not all(isinstance(one, str) for one in choices):
            if choices is not None:
                self._faults.report_value("column_type", self._choices, choices, "a list of texts")
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
        histories = self._histories(record, [Answer((), texts[right])])
        if histories is None or not all(
            self._faults.is_unicode(one, key=self._choices) for one in texts
        ):
            return []
        history, row_id = histories[0], self._faults.row_id
        empty = texts.count("")
        for reason, count in (
            ("empty_choice", empty),
            ("duplicate_reply", len(texts) - empty - len(others) - 1),
        ):
            if count:
                self._faults.filtered[reason] += count
        if self._wrong == "one":
            return ranked(self._faults, row_id, history, [texts[right], pick(others, texts[right])])
        rows = ranked(self._faults, row_id, history, [texts[right]])
        pairs = enumerate(others, start=1)
        return rows + [
            Preference(f"{row_id}.{i}", rows[0].group, history, (texts[right], one))
            for i, one in pairs
        ]

    def _right(self, record: dict[str, Any], count: int) -> int | None:
        label = self._columns.value(record, self._label, "label", nothing="")
        if label is None:
            return None
        place: int | float | None = None
        if self._keys is not None and not is_nothing(label):
            keys = self._columns.value(record, self._keys, "keys")
            if keys is None:
                return None
            if not isinstance(keys, list) or len(keys) != count:
                self._faults.report_value(
                    "column_type",
                    self._keys,
                    keys,
                    f"a list of {count} keys, one for each of `{self._choices}`",
                )
                return None
            place = next((i for i, key in enumerate(keys) if same(key, label)), None)
        elif self._keys is None:
            place = as_number(label)
        unlabelled = is_nothing(label) or same(label, UNLABELLED)
        if unlabelled and (self._keys is None or place is None):
            self._faults.filtered["unlabelled"] += 1
            return None
        if place is None or place != int(place) or not 0 <= place < count:
            self._faults.report_value(
                "label_invalid",
                self._label,
                label,
                f"one of `{self._keys}`" if self._keys else f"a number from 0 to {count - 1}",
            )
            return None
        return int(place)
