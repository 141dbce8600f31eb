"""Lines of a text file, plain or packed, or an error that says where the file is broken."""

from __future__ import annotations

import codecs
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from rlhf.data.formats.unpacking import BLOCK, BROKEN, CHUNK, broken, open_unpacked
from rlhf.errors import DataError

BOM = "\ufeff"  # some editors begin a file with it; JSON knows none


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
        DataError: the file is not UTF-8, holds zeros, or is packed and cut short or damaged.
    """
    for number, line in enumerate(raw_lines(Path(path)), start=1):
        text = line.rstrip("\r\n")
        if text.strip():
            yield number, text


def raw_lines(path: Path) -> Iterator[str]:
    """All lines of a file, with what ends them, which is a lone CR in a file without a LF.

    Raises as ``read_lines``.
    """
    number = 0
    try:
        with open_unpacked(path) as stream:
            for number, line in enumerate(_split(stream), start=1):
                yield decode(line, path, number)
    except BROKEN as error:
        raise broken(error, path, number) from None


def is_blank(path: Path) -> bool:
    """Whether a file holds nothing but spaces; one that is no text does not."""
    return path.suffix not in (".parquet", ".arrow") and next(read_lines(path), None) is None


def _split(stream: BinaryIO) -> Iterator[bytes]:
    head = stream.peek(BLOCK)  # type: ignore[attr-defined]
    if b"\n" in head or b"\r" not in head[:-1]:
        yield from stream
        return
    rest = b""
    while block := stream.read(BLOCK):
        *lines, rest = (rest + block).split(b"\r")
        yield from (line + b"\r" for line in lines)
    if rest:
        yield rest


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
                if b"\0" in block:
                    raise _zeros(path, f"{path}, after byte {passed}")
                if text := decoder.decode(block):
                    yield text
                passed += len(block)
            decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        # Lines say better where it is.
        for _ in raw_lines(path):
            pass
        raise
    except BROKEN as error:
        raise broken(error, path, 0) from None


def decode(line: bytes, path: Path, number: int) -> str:
    """Text of a line of the file."""
    if b"\0" in line:
        raise _zeros(path, f"{path}:{number}, byte {line.index(0) + 1} of the line")
    try:
        return line.decode("utf-8").removeprefix(BOM if number == 1 else "")
    except UnicodeDecodeError as error:
        raise DataError(
            f"The file is not UTF-8: byte 0x{line[error.start]:02x} ({error.reason}).",
            where=f"{path}:{number}, byte {error.start + 1} of the line",
            expected="UTF-8 text",
            hint=_how_to_convert(path, line, number, error),
        ) from None


def _zeros(path: Path, where: str) -> DataError:
    return DataError(
        "The file holds bytes that are zero, which no text does.",
        where=where,
        expected="UTF-8 text",
        hint="it is damaged, or no text: copy, download or export it again",
    )


def _how_to_convert(path: Path, line: bytes, number: int, error: UnicodeDecodeError) -> str:
    if error.reason == "unexpected end of data" and not line.endswith((b"\n", b"\r")):
        return "the file ends inside a letter: copy or download it again"
    if _has_utf8(path, number) or _is_utf8_but_ascii(line[: error.start]):
        return (
            "other letters of the file are UTF-8, so to convert it would bend them: mend this "
            "line, or export the file again"
        )
    return (
        "export it again as UTF-8; or, if it is of Western European languages, convert a copy, "
        "look at its letters, and name it: iconv -f WINDOWS-1252 -t UTF-8 "
        f"{shlex.quote(str(path))} > COPY"
    )


def _has_utf8(path: Path, before: int) -> bool:
    """Whether a line before the one that is no UTF-8 holds letters that are."""
    with open_unpacked(path) as stream:
        for number, line in enumerate(_split(stream), start=1):
            if number == before:
                return False
            if _is_utf8_but_ascii(line):
                return True
    return False


def _is_utf8_but_ascii(text: bytes) -> bool:
    return not text.removeprefix(codecs.BOM_UTF8).isascii()
