"""Bytes of a dataset's file: unpacked, in UTF-8, or an error that says what the file is instead."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import shlex
import zlib
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

from rlhf.data.names import kind_of
from rlhf.errors import DataError

BLOCK = 1 << 16  # bytes that are looked at to see what a file is
CHUNK = 1 << 20  # bytes
GZIP, ZSTD, XZ, BZIP2 = "gzip", "zstd", "xz", "bzip2"  # names of the packings and of their tools
_PACKINGS = {b"\x1f\x8b": GZIP, b"\x28\xb5\x2f\xfd": ZSTD, b"\xfd7zXZ\x00": XZ, b"BZh": BZIP2}
# What unpacking a cut or damaged file raises.
BROKEN = (EOFError, zlib.error, lzma.LZMAError, OSError)
DEEPEST = 4  # packings in each other
# Longer ones first: a mark of UTF-32 begins with one of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
LFS = b"version https://git-lfs.github.com/spec/"
_ARCHIVES = {
    b"PK\x03\x04": ("a zip archive", "unzip it, and name the folder; save an Excel workbook as "
                    "CSV UTF-8"),
    b"PK\x05\x06": ("an empty zip archive", "pack it again, or leave it out"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "unpack it with `7z x`, and name the folder"),
    b"Rar!\x1a\x07": ("a rar archive", "unpack it with `unrar x`, and name the folder"),
    b"\xd0\xcf\x11\xe0": ("an old Office document", "save it as CSV UTF-8"),
    b"PAR1": ("Parquet", "give it a name that ends with .parquet"),
    b"ARROW1": ("Arrow", "give it a name that ends with .arrow"),
}  # fmt: skip


class _NotText(OSError):
    """Bytes that are not the text that their beginning says."""


def packing_of(head: bytes) -> str | None:
    """``gzip``, ``zstd``, ``xz`` or ``bzip2``, as the first bytes of a file say."""
    return next((name for magic, name in _PACKINGS.items() if head.startswith(magic)), None)


def open_unpacked(path: Path) -> BinaryIO:
    """Open a text for reading, as UTF-8.

    Packed files are recognised by content, whatever their names, and so is UTF-16 or UTF-32.

    Raises:
        DataError: it is an archive, a web page or some other thing that holds no rows.
    """
    stream: Any = open(path, "rb", buffering=BLOCK)  # noqa: SIM115
    try:
        for depth in range(DEEPEST):
            head = _begin(stream)
            _refuse(head, path, depth)
            packing = packing_of(head)
            if packing is None:
                break
            stream = io.BufferedReader(_UNPACKED[packing](stream), CHUNK)
        if encoding := _encoding(head):
            stream = io.BufferedReader(_Recoded(stream, encoding), CHUNK)
    except BaseException:
        stream.close()
        raise
    return cast(BinaryIO, stream)


def _begin(stream: io.BufferedReader) -> bytes:
    return stream.peek(BLOCK)[:BLOCK]


def _refuse(head: bytes, path: Path, depth: int) -> None:
    """Raise if a file is something else than text."""
    what, hint = next((how for magic, how in _ARCHIVES.items() if head.startswith(magic)), ("", ""))
    text = head[:512].lstrip().lower()
    if head[257:262] == b"ustar":
        what, hint = "a tar archive", "unpack it with `tar -xf`, and name the folder"
    elif head.startswith(LFS):
        what = "a pointer of Git LFS, not the file itself"
        hint = "fetch it: `git lfs pull` in the clone"
    elif text.startswith((b"<!doctype html", b"<html", b"<?xml")) and kind_of(path) != ".txt":
        what, hint = "a web page or XML", "was it a page of an error? Download the file again"
    if what:
        unpack = "unpack it, and " if depth and head.startswith((b"PAR1", b"ARROW1")) else ""
        raise DataError(
            f"The file is {what}.",
            where=path,
            expected="rows as text, plain or packed with gzip, zstd, xz or bzip2",
            hint=unpack + hint,
        )


def _encoding(head: bytes) -> str | None:
    """UTF-16 or UTF-32 by a mark, or by the zeros in what is mostly ASCII; None: neither."""
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    begin = head[:64]
    for encoding, unit, place in (
        ("utf-32-le", 4, 0), ("utf-32-be", 4, 3), ("utf-16-le", 2, 0), ("utf-16-be", 2, 1),
    ):  # fmt: skip
        units = [begin[at : at + unit] for at in range(0, len(begin) - unit + 1, unit)]
        if len(units) >= 4 and all(
            one[place] and not one[:place].strip(b"\0") and not one[place + 1 :].strip(b"\0")
            for one in units
        ):
            return encoding
    return None


class _Layer(io.RawIOBase):
    """Bytes that are made from those of a stream below, which is closed with it."""

    def __init__(self, below: BinaryIO) -> None:
        self._below = below
        self._failed: Exception | None = None

    def close(self) -> None:
        super().close()
        self._below.close()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        # What a file is shows in its beginning, so a little is not given where more may follow.
        filled, least = 0, min(len(buffer), BLOCK)
        if self._failed is not None:
            raise self._failed
        try:
            while filled < least and (data := self._next(len(buffer) - filled)):
                buffer[filled : filled + len(data)] = data
                filled += len(data)
        except BROKEN as error:
            if not filled:
                raise
            self._failed = error  # what came before it is good
        return filled

    @abstractmethod
    def _next(self, size: int) -> bytes:
        """At most so many bytes more; none at the end."""


class _Streams(_Layer):
    """Unpacks xz or bzip2, stream after stream; Python's own ignores what follows if damaged."""

    def __init__(self, below: BinaryIO, make: Callable[[], Any]) -> None:
        super().__init__(below)
        self._make, self._unpack, self._rest = make, make(), b""

    def _next(self, size: int) -> bytes:
        while True:
            if self._unpack.eof:
                # Streams of xz may have zeros between them.
                self._rest = self._unpack.unused_data.lstrip(b"\0") or self._filled()
                if not self._rest:
                    return b""
                self._unpack = self._make()
            data, self._rest = self._rest, b""
            if not data and self._unpack.needs_input and not (data := self._below.read(BLOCK)):
                raise EOFError("it ends before its end was marked")
            if found := self._unpack.decompress(data, size):
                return found

    def _filled(self) -> bytes:
        while block := self._below.read(BLOCK):
            if block := block.lstrip(b"\0"):
                return block
        return b""


class _Wrapped(_Layer):
    """Reads what Python or pyarrow unpacks."""

    def __init__(self, below: BinaryIO, unpacked: Any) -> None:
        super().__init__(below)
        self._unpacked = unpacked

    def _next(self, size: int) -> bytes:
        return self._unpacked.read1(size)


class _Recoded(_Layer):
    """UTF-8 of a text in another encoding."""

    def __init__(self, below: BinaryIO, encoding: str) -> None:
        super().__init__(below)
        self._encoding = encoding
        self._decoder, self._made, self._end = codecs.getincrementaldecoder(encoding)(), b"", False

    def _next(self, size: int) -> bytes:
        while not self._made and not self._end:
            block = self._below.read(BLOCK)
            self._end = not block
            try:
                self._made = self._decoder.decode(block, final=self._end).encode()
            except UnicodeError as error:
                reason = getattr(error, "reason", error)
                raise _NotText(
                    f"its text is not whole {self._encoding.upper()}: {reason}"
                ) from None
        made, self._made = self._made[:size], self._made[size:]
        return made


def _zstd(stream: BinaryIO) -> _Layer:
    import pyarrow as pa

    packed = pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), "zstd")
    return _Wrapped(stream, io.BufferedReader(packed, BLOCK))


_UNPACKED: dict[str, Callable[[Any], _Layer]] = {
    GZIP: lambda stream: _Wrapped(stream, gzip.GzipFile(fileobj=stream)),
    ZSTD: _zstd,
    XZ: lambda stream: _Streams(stream, lzma.LZMADecompressor),
    BZIP2: lambda stream: _Streams(stream, bz2.BZ2Decompressor),
}


def broken(error: Exception, path: Path, line: int) -> DataError:
    """The error for a file that is cut short or damaged after ``line``, or cannot be read."""
    if isinstance(error, PermissionError):
        return DataError(
            "The file may not be read.",
            where=path,
            expected="a file that you may read",
            hint=f"ask its owner, or: chmod u+r {shlex.quote(str(path))}",
        )
    with open(path, "rb") as stream:
        packing = packing_of(stream.read(8))
    if isinstance(error, _NotText) or packing is None:
        return DataError(
            f"The file is cut short or damaged, or cannot be read: {error}.",
            where=f"{path}: line {line} is the last good one",
            expected="a whole file of text",
            hint="copy or download it again",
        )
    return DataError(
        f"The {packing} file is cut short or damaged: {error}",
        where=f"{path}: line {line} is the last good one",
        expected=f"a whole {packing} file",
        hint=f"copy or download it again; `{packing} -t {shlex.quote(str(path))}` checks it",
    )
