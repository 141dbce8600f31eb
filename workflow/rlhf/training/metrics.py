"""What a run reports as its result: a journal that resumes with the run.

The journal (``metrics.jsonl``) holds only what the run decides, so equal runs write equal bytes.
Speeds and times go to TensorBoard (``rlhf.runtime.trackers``) and the terminal.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rlhf.core.digest import canonical_json
from rlhf.core.files import write_atomic
from rlhf.errors import IntegrityError


class Journal:
    """An append-only JSON lines file, private to the user, that can be cut back to a position.

    Args:
        path: the working copy, beside the run's saved states.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._open()

    def append(self, record: dict[str, Any]) -> None:
        """Add one line."""
        self._stream.write(canonical_json(record).encode() + b"\n")
        self._stream.flush()

    def position(self) -> int:
        """Bytes written so far, safely on the disk."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        return self._stream.seek(0, os.SEEK_END)

    def rewind(self, position: int) -> None:
        """Drop what was written after ``position``.

        The file becomes a new one: an earlier attempt that lives on appends to the old one, which
        nobody reads.

        Raises:
            IntegrityError: the file is shorter than it was when the state was saved.
        """
        size = self._stream.seek(0, os.SEEK_END)
        if size < position:
            raise IntegrityError(
                f"The journal has {size} bytes; the saved state knew {position}.",
                where=self._path,
                hint="delete the folder that holds it: the stage then starts again",
            )
        write_atomic(self._path, self._path.read_bytes()[:position], mode=0o600)
        self._stream.close()
        self._open()

    def records(self) -> list[dict[str, Any]]:
        """All lines, parsed."""
        self._stream.flush()
        return read_jsonl(self._path)

    def publish(self, path: str | Path) -> None:
        """Copy the journal to its place among the results."""
        self._stream.flush()
        write_atomic(path, self._path.read_bytes())

    def _open(self) -> None:
        def private(path: str, flags: int) -> int:
            return os.open(path, flags, mode=0o600)

        # open for the whole run
        self._stream = open(self._path, "a+b", opener=private)  # noqa: SIM115


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """Every line of a JSON lines file."""
    with open(path, encoding="utf-8") as stream:  # splitlines() would split at U+2028 as well
        return [json.loads(line) for line in stream]
