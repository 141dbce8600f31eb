"""Files that are there whole or not at all: write aside, fsync, rename."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def fsync_path(path: Path) -> None:
    """Flush a file or a directory entry to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomic(path: str | Path, content: str | bytes, mode: int = 0o644) -> None:
    """Replace ``path`` with ``content``; a reader sees the old bytes or the new, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(fd, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    fsync_path(path.parent)


def write_json(path: str | Path, value: Any, mode: int = 0o644, *, allow_nan: bool = False) -> None:
    """Write readable JSON atomically; keys are sorted, so equal values give equal bytes.

    Raises:
        ValueError: a number is infinite or not a number, which JSON does not know; with
            ``allow_nan`` it is written as Python reads it.
    """
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=allow_nan)
    write_atomic(path, text + "\n", mode)


def read_json(path: str | Path) -> Any:
    """Read a JSON file written by this project."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def keep_log(path: Path) -> None:
    """Make sure that a log exists, with all that was ever appended to it.

    Snakemake removes a job's log before it runs the job again, and makes an empty one where a job
    that failed has none. A second, hidden name keeps the file, and what an attempt that was
    replaced still appends to it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = path.with_name(f".{path.name}")
    if not kept.exists():
        with contextlib.suppress(FileNotFoundError, FileExistsError):  # no log yet; another rank
            os.link(path, kept)
    kept.touch()
    if path.exists() and path.samefile(kept):
        return
    other = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    os.link(kept, other)
    os.replace(other, path)
    other.unlink(missing_ok=True)  # it stays where another rank was faster: both are one file


@contextlib.contextmanager
def atomic_directory(
    path: str | Path, *, private: bool = False, guard: Callable[[], None] = lambda: None
) -> Iterator[Path]:
    """Yield a directory to fill that becomes ``path`` only if the block ends well.

    Every file is fsynced before the rename. An existing ``path`` is replaced.

    Args:
        path: the directory to make.
        private: whether only the user may read it.
        guard: called right before the rename, when all is written; what it raises stops it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    try:
        yield temporary
        os.chmod(temporary, 0o700 if private else 0o755)
        for root, _, files in os.walk(temporary):
            for name in files:
                if private:
                    os.chmod(Path(root, name), 0o600)
                fsync_path(Path(root, name))
            fsync_path(Path(root))
        guard()
        if path.exists():
            old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".old"))
            os.replace(path, old / "replaced")
            os.replace(temporary, path)
            shutil.rmtree(old)
        else:
            os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    fsync_path(path.parent)
