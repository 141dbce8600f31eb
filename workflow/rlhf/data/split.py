"""Which split and view a row is for: decided by its root prompt, so all views agree."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from rlhf.core.digest import digest_text

LEFT_TO_OTHERS = "left_to_other_stages"  # of a manifest: rows that `stage_split` took from a view


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
    return "validation" if _draw(f"{salt}\0{group}") < validation_fraction else "train"


def part_of(group: str, parts: Mapping[str, float], salt: str = "") -> str:
    """The view that alone has a group's rows.

    Args:
        group: from ``group_of``.
        parts: view → its part, ≥ 0, in any unit; not all 0.
        salt: another salt shares the groups out anew.
    """
    drawn = _draw(f"stage\0{salt}\0{group}") * sum(parts.values())
    for view, part in sorted(parts.items(), reverse=True):  # one order, however they are given
        drawn -= part
        if drawn < 0:
            return view
    return max(parts, key=lambda view: parts[view])  # rounding has left nothing for the last


def _draw(text: str) -> float:
    """A number from 0 to 1 that is as good as random and follows from the text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
