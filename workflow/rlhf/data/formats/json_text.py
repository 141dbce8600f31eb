"""JSON that is read piece by piece, and its decoding: a key that occurs twice is a fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rlhf.data.formats.lines import read_chunks
from rlhf.errors import DataError

NESTED = "fewer than 300 turns"
LONGEST_TOKEN = 16  # characters of a word or an escape, not of a text or number


class NotJson(Exception):
    """A text that is not JSON, or holds what cannot be kept.

    Attributes:
        reason: under which it is counted.
        line: where in the text, from 1; so is ``column``.
        expected: what would have been right; empty: JSON.
        hint: what to do; empty: nothing in particular.
    """

    def __init__(
        self, what: str, reason: str = "json", line: int = 1, column: int | None = None,
        expected: str = "", hint: str = "",
    ) -> None:  # fmt: skip
        super().__init__(what)
        self.reason, self.line, self.column = reason, line, column
        self.expected, self.hint = expected, hint


class _Twice(ValueError):
    """A key that an object has twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(next(name for name in names if names.count(name) > 1))
    return found


# What pandas writes where there is nothing is no number; JSON knows no such word.
_DECODER = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_constant=lambda word: None if word == "NaN" else float(word),
)
_LENIENT = json.JSONDecoder()


def decode(text: str) -> Any:
    """The value of a whole text.

    Raises:
        NotJson: it is none, nested too deeply, or has a key twice.
    """
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        hint = ""
        if error.msg == "Extra data":
            lone = text[error.pos :].strip() == ","
            hint = "leave out the comma after it" if lone else "write what follows on its own line"
        elif error.pos >= len(text) or error.msg.startswith("Unterminated"):
            hint = "it ends inside of an object: was the file cut off? Copy or download it again"
        raise NotJson(error.msg, line=error.lineno, column=error.colno, hint=hint) from None
    except (ValueError, RecursionError) as error:
        raise _of_values(error) from None


def _of_values(error: Exception) -> NotJson:
    if isinstance(error, _Twice):
        return NotJson(
            f"The key {error} occurs twice in one object",
            "duplicate_key",
            expected="each key once: of two values, which one is right?",
        )
    if isinstance(error, RecursionError):
        return NotJson("The object is nested too deeply", "nested", expected=NESTED)
    return NotJson("A number has too many digits", expected="numbers of some thousand digits")


class Text:
    """A long JSON text of which only a piece is held.

    Args:
        path: a file.
        listed: whether it is one list, for messages.

    Attributes:
        line: number of the line at which the rest begins, from 1.
    """

    def __init__(self, path: Path, listed: bool) -> None:
        self._path, self._listed, self._chunks = path, listed, read_chunks(path)
        self._held, self._at = "", 0
        self.line, self._column = 1, 1

    def peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            while self._at < len(self._held):
                char = self._held[self._at]
                if char not in " \t\r\n":
                    return char
                self._advance(self._at + 1)
            if not self._more():
                return ""

    def skip(self, char: str) -> None:
        """Go past the next character, which is this one."""
        if self.peek() == char:
            self._advance(self._at + 1)
        self.peek()

    def decode(self) -> Any:
        """The next value, after more of the file was read if it does not end in what is held.

        Raises:
            DataError: it is no JSON, so that nobody knows where the next one begins.
            NotJson: it is, but cannot be kept; what follows can be decoded.
        """
        try:
            return self._decode(_DECODER)
        except _Twice as error:
            self._decode(_LENIENT)
            raise _of_values(error) from None

    def _decode(self, decoder: json.JSONDecoder) -> Any:
        self.peek()
        wanted = 0
        while True:
            try:
                value, end = decoder.raw_decode(self._held, self._at)
                if end < len(self._held) or not self._more():
                    self._advance(end)
                    return value
            except json.JSONDecodeError as error:
                # Twice as much each time, or a long object would be scanned again and again.
                wanted = max(2 * wanted, len(self._held) - self._at)
                if not self._may_go_on(error) or not self._more(wanted):
                    self._advance(max(error.pos, self._at))
                    raise self.fault(error.msg) from None
            except _Twice:
                raise
            except (ValueError, RecursionError) as error:
                raise self.fault(str(_of_values(error))) from None

    def _may_go_on(self, error: json.JSONDecodeError) -> bool:
        """Whether what follows may mend an error, as it stands at the end of what is held."""
        near_end = error.pos >= len(self._held) - LONGEST_TOKEN
        return near_end or error.msg.startswith("Unterminated")

    def fault(self, what: str) -> DataError:
        """The error for what stands where the rest begins."""
        if self._listed:
            expected = "[{…}, {…}, …], whole"
            hint = "was the download cut off? For one object a line, leave out the brackets"
        else:
            expected = "JSON objects one after another, whole, without commas between them"
            hint = "mend the file; was the download cut off?"
        return DataError(
            f"The file is not {'a JSON list' if self._listed else 'JSON'}: {what}.",
            where=f"{self._path}:{self.line}:{self._column}",
            expected=expected,
            hint=hint,
        )

    def _advance(self, end: int) -> None:
        passed = self._held[self._at : end]
        newline = passed.rfind("\n")
        self.line += passed.count("\n")
        self._column = len(passed) - newline if newline >= 0 else self._column + len(passed)
        self._at = end

    def _more(self, wanted: int = 1) -> bool:
        """Read on for at least so many characters; False at the end of the file."""
        added: list[str] = []
        while wanted > 0 and (chunk := next(self._chunks, "")):
            added.append(chunk)
            wanted -= len(chunk)
        self._held, self._at = "".join([self._held[self._at :], *added]), 0
        return bool(added)
