"""Plain text, for language modelling."""

from __future__ import annotations

from typing import Any

from rlhf.data.formats.columns import Columns, columns_of
from rlhf.data.formats.faults import Faults
from rlhf.data.rows import TEXT, Conversation, Message, Row
from rlhf.data.split import group_of


class PlainText:
    """Texts that are cut into pieces; a piece is trained on as a whole, without a chat template.

    Args:
        faults: where faults go.
        text: column of the text; a ``.txt`` file is one row with a column ``text``.
        max_characters: longest piece; cut at a paragraph, a line, a sentence or a space.
    """

    def __init__(self, faults: Faults, text: str = "text", max_characters: int = 2000) -> None:
        if type(max_characters) is not int or max_characters < 1:
            raise faults.wrong_option(
                "max_characters", max_characters, "a whole number of 1 or more"
            )
        self._faults, self._text, self._limit = faults, text, max_characters
        self._columns = Columns(faults)
        self.reads = columns_of(text)

    def rows(self, record: dict[str, Any]) -> list[Row]:
        """One row for each piece; all are in the split that the whole text belongs to."""
        text = self._columns.text(record, self._text, "text")
        if text is None:
            return []
        group = group_of(text)
        rows: list[Row] = []
        for number, piece in enumerate(pieces(text, self._limit), start=1):
            row_id = f"{self._faults.row_id}/{number}"
            rows.append(Conversation(row_id, group, (Message(TEXT, piece),)))
        return rows


def pieces(text: str, limit: int) -> list[str]:
    """Cut a text into pieces of at most ``limit`` characters, stripped, none empty."""
    found = []
    at = 0
    while at < len(text):
        end = min(at + limit, len(text))
        if end < len(text):
            half = text[at + limit // 2 : end]
            for mark in ("\n\n", "\n", ". ", "。", " "):
                if (last := half.rfind(mark)) >= 0:
                    end = at + limit // 2 + last + len(mark)
                    break
        found.append(text[at:end].strip())
        at = end
    return [one for one in found if one]
