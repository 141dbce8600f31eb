"""Lines of a text file, plain or gzipped, or an error that says where the file is broken."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from rlhf.errors import DataError

GZIP_MAGIC = b"\x1f\x8b"


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, text) for every line that is not blank.

    Gzip is recognised by its content, whatever the file's name.

    Raises:
        DataError: the file is absent, empty, not UTF-8, or a gzip cut short or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(
            "The dataset's file does not exist.",
            where=path,
            expected="a file, relative to the folder that snakemake runs in",
            hint="correct `path` in the configuration, or put the file there",
        )
    with open(path, "rb") as stream:
        packed = stream.read(2) == GZIP_MAGIC
    number, found = 0, False
    try:
        with gzip.open(path, "rb") if packed else open(path, "rb") as stream:
            for number, line in enumerate(stream, start=1):
                text = _decode(line, path, number).rstrip("\r\n")
                if text.strip():
                    found = True
                    yield number, text
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"The gzip file is cut short or damaged: {error}",
            where=f"{path}: line {number} is the last good one",
            expected="a whole gzip file",
            hint=f"copy or download it again; `gzip -t {path}` checks it",
        ) from None
    if not found:
        raise DataError(
            "The dataset's file is empty.",
            where=path,
            expected="one JSON object a line",
            hint="was the download or the export cut off?",
        )


def _decode(line: bytes, path: Path, number: int) -> str:
    try:
        # Some editors begin a file with a byte order mark; JSON knows none.
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"The file is not UTF-8: byte 0x{line[error.start]:02x} ({error.reason}).",
            where=f"{path}:{number}, byte {error.start + 1} of the line",
            expected="UTF-8 text",
            hint=f"convert it: iconv -f LATIN1 -t UTF-8 {path}",
        ) from None
