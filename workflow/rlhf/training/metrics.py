"""What a run reports: a journal that resumes with the run, TensorBoard, and progress.

The journal (``metrics.jsonl``) holds only what the run decides, so equal runs write equal bytes.
Speeds and times go to TensorBoard and the terminal.
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


class TensorBoard:
    """TensorBoard events; each number of a record becomes a curve.

    Args:
        folder: folder of the events, or None for none.
        step: step that the run goes on from; later events of an earlier attempt are hidden.
    """

    def __init__(self, folder: str | Path | None, step: int = 0) -> None:
        self._writer: Any = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder), purge_step=step or None)

    def add(self, record: dict[str, Any], step: int) -> None:
        """Write every number of ``record`` at ``step``."""
        if self._writer is not None:
            for name, value in record.items():
                if isinstance(value, int | float) and name != "step":
                    self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close."""
        if self._writer is not None:
            self._writer.close()
