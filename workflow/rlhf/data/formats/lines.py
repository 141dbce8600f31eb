"""Lines of a text file, plain or packed, or an error that says where the file is broken."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from rlhf.errors import DataError

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
BOM = "\ufeff"  # some editors begin a file with it; JSON knows none
CHUNK = 1 << 20  # bytes
BROKEN = (EOFError, zlib.error, OSError)  # what unpacking a cut or damaged file raises


def open_unpacked(path: Path) -> BinaryIO:
    """Open a file for reading; gzip and zstd are recognised by content, whatever its name."""
    with open(path, "rb") as stream:
        magic = stream.read(4)
    if magic.startswith(GZIP_MAGIC):
        return cast(BinaryIO, gzip.open(path, "rb"))
    if magic == ZSTD_MAGIC:
        import pyarrow as pa

        # A reader of our own: pyarrow's has no quick lines.
        packed = pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")
        return io.BufferedReader(packed, 1 << 20)
    return open(path, "rb")


def broken(error: Exception, path: Path, line: int) -> DataError:
    """The error for a packed file that is cut short or damaged after ``line``."""
    if isinstance(error, PermissionError):
        return DataError(
            "The file may not be read.",
            where=path,
            expected="a file that you may read",
            hint=f"ask its owner, or: chmod u+r {path}",
        )
    with open(path, "rb") as stream:
        gzipped = stream.read(2) == GZIP_MAGIC
    kind, tool = ("gzip", "gzip") if gzipped else ("zstd", "zstd")
    return DataError(
        f"The {kind} file is cut short or damaged: {error}",
        where=f"{path}: line {line} is the last good one",
        expected=f"a whole {kind} file",
        hint=f"copy or download it again; `{tool} -t {path}` checks it",
    )


def empty(path: Path) -> DataError:
    """The error for a file that holds nothing."""
    return DataError(
        "The dataset's file is empty.",
        where=path,
        expected="one JSON object a line, or rows of another kind that its name tells",
        hint="was the download or the export cut off?",
    )


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, text) for every line that is not blank.

    Raises:
        DataError: the file is empty, not UTF-8, or packed and cut short or damaged.
    """
    path = Path(path)
    found = False
    for number, line in enumerate(raw_lines(path), start=1):
        text = line.rstrip("\r\n")
        if text.strip():
            found = True
            yield number, text
    if not found:
        raise empty(path)


def raw_lines(path: Path) -> Iterator[str]:
    """All lines of a file, with what ends them; raises as ``read_lines``, but may be empty."""
    number = 0
    try:
        with open_unpacked(path) as stream:
            for number, line in enumerate(stream, start=1):
                yield decode(line, path, number)
    except BROKEN as error:
        raise broken(error, path, number) from None


def read_text(path: Path) -> str:
    """The whole text of a file; raises as ``raw_lines``."""
    return "".join(raw_lines(path))


def read_chunks(path: Path) -> Iterator[str]:
    """The text of a file, whatever its lines, piece by piece; raises as ``raw_lines``."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    passed = 0
    try:
        with open_unpacked(path) as stream:
            while block := stream.read(CHUNK):
                if text := decoder.decode(block):
                    yield text
                passed += len(block)
            decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise DataError(
            f"The file is not UTF-8: {error.reason}.",
            where=f"{path}, after byte {passed}",
            expected="UTF-8 text",
            hint=f"convert it: iconv -f LATIN1 -t UTF-8 {path}",
        ) from None
    except BROKEN as error:
        raise broken(error, path, 0) from None


def decode(line: bytes, path: Path, number: int) -> str:
    """Text of a line of the file."""
    try:
        return line.decode("utf-8").removeprefix(BOM if number == 1 else "")
    except UnicodeDecodeError as error:
        raise DataError(
            f"The file is not UTF-8: byte 0x{line[error.start]:02x} ({error.reason}).",
            where=f"{path}:{number}, byte {error.start + 1} of the line",
            expected="UTF-8 text",
            hint=f"convert it: iconv -f LATIN1 -t UTF-8 {path}",
        ) from None
