"""Which split a row is in: decided by its root prompt, so it is the same in every stage."""

from __future__ import annotations

import hashlib

from rlhf.provenance.digest import digest_text


def group_of(root_prompt: str) -> str:
    """Digest of a root prompt that ignores case and white space.

    Copies of one prompt are one group, so no prompt is in two splits, whatever the view.
    """
    return digest_text(" ".join(root_prompt.casefold().split()))


def split_of(group: str, validation_fraction: float, salt: str = "") -> str:
    """``validation`` for about ``validation_fraction`` of the groups, ``train`` for the rest.

    Args:
        group: from ``group_of``.
        validation_fraction: expected share of the groups, 0 to 1.
        salt: another salt holds out other groups.
    """
    drawn = hashlib.sha256(f"{salt}\0{group}".encode()).digest()[:8]
    share = int.from_bytes(drawn, "big") / 2**64
    return "validation" if share < validation_fraction else "train"
