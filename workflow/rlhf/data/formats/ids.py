"""Ids of rows: their own, or the number of the line; no two rows of a dataset have the same."""

from __future__ import annotations

from typing import Any

from rlhf.data.formats.columns import holds_something
from rlhf.data.formats.faults import Faults

IGNORE = "set `options.ids: ignore`: rows are numbered then, and none is lost"


class RowIds:
    """Gives each row an id of which it can make ids for its prompts, ``id/1``, ``id/2`` and so on.

    A row's own id is what its column ``id`` holds, with the file's name before it where several
    files are read; a row without one has the number of its line. Where one of these ids is that of
    another row or prompt by chance, ``@`` and the number of the line are added to the later one.

    Args:
        faults: where faults go, and where the row stands.
        ids: ``own`` or ``ignore``.

    Raises:
        ConfigError: ``ids`` is something else.
    """

    def __init__(self, faults: Faults, ids: str) -> None:
        if ids not in ("own", "ignore"):
            raise faults.wrong_option("ids", ids, "own, or ignore")
        self._faults, self._ignore = faults, ids == "ignore"
        self._own: set[str] = set()
        self._prompts: dict[str, int] = {}  # id of a row → how many prompts have ids made of it

    def take(self, record: dict[str, Any], prompts: int) -> str | None:
        """An id for a row and as many prompts, or None after reporting a fault."""
        if self._ignore or not holds_something(record.get("id")):
            return self._free(self._faults.row_id, prompts)
        own = self._text(record["id"])
        if own is None:
            return None
        row_id = f"{self._faults.prefix}{own}"
        if row_id in self._own:
            self._faults.report(
                "duplicate_id",
                f"The id {own!r} occurs twice.",
                expected="an `id` of its own for each row, or none at all",
                key="id",
                hint=IGNORE,
            )
            return None
        self._own.add(row_id)
        return self._free(row_id, prompts)

    def _text(self, value: Any) -> str | None:
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # pandas makes 1.0 of 1 where other rows have none
        if isinstance(value, str) or type(value) in (int, float):
            return str(value) if self._faults.is_unicode(str(value), key="id") else None
        self._faults.report_value("id_invalid", "id", value, "a text or a number", hint=IGNORE)
        return None

    def _free(self, row_id: str, prompts: int) -> str:
        while self._is_taken(row_id, prompts):
            row_id = f"{row_id}@{self._faults.line}"
        self._prompts[row_id] = prompts
        return row_id

    def _is_taken(self, row_id: str, prompts: int) -> bool:
        """Whether the id, or one made of it, is that of a row or a prompt."""
        before, slash, number = row_id.rpartition("/")
        theirs = range(1, self._prompts.get(before, 0) + 1) if slash else ()
        if any(number == str(one) for one in theirs):
            return True
        made = (f"{row_id}/{one}" for one in range(1, prompts + 1))
        return row_id in self._prompts or any(one in self._prompts for one in made)
