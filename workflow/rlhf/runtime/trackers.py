"""Where people watch a run while it trains: TensorBoard. No torch in here."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any


class TensorBoard:
    """TensorBoard events; each number of a record becomes a curve.

    Args:
        folder: folder of the events, or None for none.
        step: step that the run goes on after; later events of an earlier attempt are hidden.
    """

    def __init__(self, folder: str | Path | None, step: int = 0) -> None:
        self._writer: Any = None
        if folder is not None:
            # Not at the top: it is slow to import, and rank 0 alone writes events.
            from tensorboard.compat.proto.event_pb2 import SessionLog
            from tensorboard.summary.writer.event_file_writer import EventFileWriter

            self._writer = EventFileWriter(str(folder))
            self._write(step + 1, session_log=SessionLog(status=SessionLog.START))

    def add(self, record: dict[str, Any], step: int) -> None:
        """Write every number of ``record`` at ``step``."""
        if self._writer is None:
            return
        from tensorboard.compat.proto.summary_pb2 import Summary

        for name, number in record.items():
            if isinstance(number, int | float) and name != "step":
                scalar = Summary.Value(tag=name, simple_value=float(number))
                self._write(step, summary=Summary(value=[scalar]))

    def close(self) -> None:
        """Flush and close."""
        if self._writer is not None:
            self._writer.close()

    def _write(self, step: int, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(wall_time=time.time(), step=step, **content))
