"""A launcher's scratch folder. What killed launchers left behind goes when the next one starts."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "rlhf-launch-"
SHARED_MEMORY = Path("/dev/shm")
_LOCK = "in-use"


class Scratch:
    """A private folder of one process, in the place for temporary files of this machine.

    Attributes:
        path: the folder; the model servers' own folders in it bear the servers' names.
    """

    def __init__(self) -> None:
        root = Path(tempfile.gettempdir())
        for left in root.glob(f"{PREFIX}*"):
            _remove_if_left(left)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
        # Held as long as this process lives, and by no other: it is not inherited.
        self._lock = os.open(self.path / f".{_LOCK}", os.O_CREAT | os.O_RDWR, 0o600)
        with contextlib.suppress(OSError):  # a file system that has no locks
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            (self.path / f".{_LOCK}").rename(self.path / _LOCK)

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _remove_if_left(folder: Path) -> None:
    """Remove another launcher's folder, and the shared memory of its servers, if it is dead."""
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR)
    except OSError:  # another user's, or gone, or so new that it has no lock yet
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for server in folder.glob("rlhf-*.*"):
            for segment in SHARED_MEMORY.glob(f"{server.name.partition('.')[0]}*"):
                segment.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # its launcher lives
        pass
    finally:
        os.close(lock)
