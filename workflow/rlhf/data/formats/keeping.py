"""What prompts keep of the rows that they are from: columns, and the rows' own replies."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from rlhf.core.digest import canonical_json
from rlhf.data.formats.columns import columns_of, holds_something, look_up
from rlhf.data.formats.faults import Faults
from rlhf.data.rows import Conversation, Message, Preference, Prompt, Row
from rlhf.data.rows_file import KEPT


class Keeping:
    """Adds to prompts what is asked for.

    Args:
        faults: where faults go.
        keep: names of columns, or names under which columns are kept → their paths, such as
            ``{answer: reward_model.ground_truth}``.
        keep_reply: whether prompts keep their own reply: the demonstration with this history, or
            the best of ranked replies to it.

    Attributes:
        kept: which of ``data.rows_file.KEPT`` prompts have.

    Raises:
        ConfigError: an option has a wrong value.
    """

    def __init__(self, faults: Faults, keep: Any, keep_reply: Any) -> None:
        self._faults = faults
        paths = keep if isinstance(keep, Mapping) else dict.fromkeys(keep or (), "")
        listed = keep is None or isinstance(keep, list | Mapping)
        if not listed or not all(isinstance(part, str) for pair in paths.items() for part in pair):
            raise faults.wrong_option("keep", keep, "a list of columns, such as [answer]")
        if keep_reply not in (None, True, False):
            raise faults.wrong_option("keep_reply", keep_reply, "true or false")
        self._paths = {name: path or name for name, path in paths.items()}
        self._reply = bool(keep_reply)
        asked = dict(zip(KEPT, (bool(self._paths), self._reply), strict=True))
        self.kept = [name for name in KEPT if asked[name]]

    def reads(self, columns: Collection[str]) -> Collection[str]:
        """Columns that are read, with those that are kept."""
        return {*columns, *columns_of(*self._paths.values())} if self._paths else columns

    def add_to(self, rows: list[Row], record: Mapping[str, Any] | None) -> list[Row]:
        """Rows whose prompts have what is kept; none after a fault was reported.

        Args:
            rows: of one row of the source.
            record: that row; None: the rows are of several.
        """
        if not self.kept or not any(isinstance(row, Prompt) for row in rows):
            return rows
        columns = self._columns(record) if self._paths else None
        if self._paths and columns is None:
            return []
        kept: list[Row] = []
        for row in rows:
            if isinstance(row, Prompt):
                reply = self._reply_of(row, rows) if self._reply else None
                if self._reply and reply is None:
                    return []
                row = replace(row, columns=columns, reply=reply)
            kept.append(row)
        return kept

    def _columns(self, record: Mapping[str, Any] | None) -> str | None:
        """The columns as JSON, or None after reporting a fault."""
        if record is None:
            raise self._faults.wrong_option(
                "keep", list(self._paths), "nothing: this format makes prompts of several rows"
            )
        values = {}
        for name, path in self._paths.items():
            try:
                values[name] = look_up(record, path)
            except KeyError:
                self._faults.report(
                    "column_missing",
                    f"The row has no column `{path}`; its columns are: {', '.join(record)}.",
                    expected=f"a column `{path}`, which `options.keep` names",
                    key=path,
                )
                return None
            if not holds_something(values[name]):
                self._faults.report(
                    "column_empty",
                    f"Column `{path}` is empty.",
                    expected="a value, as `options.keep` names the column",
                    key=path,
                )
                return None
        try:
            json.dumps(values, allow_nan=False).encode()
            return canonical_json(values)
        except (TypeError, ValueError) as error:
            self._faults.report(
                "column_type",
                f"A column can't be kept: {error}.",
                expected="texts, numbers, lists and objects",
                key=", ".join(self._paths.values()),
            )
            return None

    def _reply_of(self, prompt: Prompt, rows: list[Row]) -> str | None:
        """The source's own reply to a prompt, or None after reporting that there is none."""
        for row in rows:
            if isinstance(row, Preference) and _said(row.history) == _said(prompt.history):
                return row.replies[0]
            if isinstance(row, Conversation):
                reply = _reply_after(prompt.history, row.messages)
                if reply is not None:
                    return reply
        self._faults.report(
            "reply_missing",
            "The row has no reply to its prompt.",
            expected="a demonstration, or ranked replies, as `options.keep_reply` is true",
        )
        return None


def _reply_after(history: tuple[Message, ...], messages: tuple[Message, ...]) -> str | None:
    """The assistant's turn that follows a history in a dialogue."""
    turns = len(history)
    if len(messages) <= turns or _said(messages[:turns]) != _said(history):
        return None
    return messages[turns].content


def _said(messages: tuple[Message, ...]) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in messages]
