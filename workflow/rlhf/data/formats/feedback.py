"""Ranked replies as single ones that are good or bad."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rlhf.data.rows import Feedback, Preference, Row

WAYS = ("best", "halves")  # values of the option `feedback`


def split_replies(rows: Iterable[Row], way: str) -> Iterator[Row]:
    """The rows, and the replies of each preference as feedback.

    Args:
        rows: of one object of a file.
        way: ``best``: the best reply is good, all others are bad; ``halves``: the better half is
            good, the worse half bad, and one in the middle neither.
    """
    for row in rows:
        yield row
        if not isinstance(row, Preference):
            continue
        count = len(row.replies)
        good = 1 if way == "best" else count // 2
        bad = count - good if way == "best" else count // 2
        known = row.properties or (None,) * count
        for place in (*range(good), *range(count - bad, count)):
            yield Feedback(
                f"{row.id}.{place + 1}",
                row.group,
                row.history,
                row.replies[place],
                place < good,
                known[place],
            )
