"""Infinite weights, and weights that are not a number, in a safetensors file.

The file is read piece by piece, so that a model of any size needs little memory, and without torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

SUFFIX = ".safetensors"
PIECE = 2**24  # bytes read at once

# Type → unsigned integer of its width, and the bits of its exponent: all set in NaN and infinity.
_EXPONENTS = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F8_E5M2": ("<u1", 0x7C),
}
_ALL_SET = {"F8_E4M3": ("<u1", 0x7F)}  # has no infinity, and one NaN


def non_finite(path: str | Path) -> Iterator[tuple[str, int]]:
    """Name of each tensor of a file that holds NaN or infinity, and how many.

    Raises:
        ValueError: it is no safetensors file.
    """
    with open(path, "rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if size > Path(path).stat().st_size:
            raise ValueError("it is no safetensors file")
        header: dict[str, Any] = json.loads(stream.read(size))
        header.pop("__metadata__", None)
        for name, one in sorted(header.items()):
            kind = (_EXPONENTS | _ALL_SET).get(one["dtype"])
            if kind is not None:
                begin, end = one["data_offsets"]
                stream.seek(8 + size + begin)
                count = _count(stream, end - begin, *kind)
                if count:
                    yield name, count


def _count(stream: IO[bytes], size: int, integer: str, bits: int) -> int:
    """Numbers among the next ``size`` bytes that have all of these bits set."""
    count = 0
    while size:
        piece = np.frombuffer(stream.read(min(PIECE, size)), integer)
        if not len(piece):
            raise ValueError("the file ends within a tensor")
        count += int(np.count_nonzero((piece & piece.dtype.type(bits)) == bits))
        size -= piece.nbytes
    return count
