"""What a dataset holds, counted while it is written."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rlhf.core.digest import digest_value
from rlhf.data.formats.source import Source
from rlhf.data.rows import SPLITS, VIEWS, Conversation, Feedback, Row, replies_of, view_of


class _Count:
    """The tally of one view and split."""

    def __init__(self) -> None:
        self.rows = self.characters = self.longest = self.duplicates = 0
        self.turns: Counter[int] = Counter()
        self.replies: Counter[int] = Counter()

    def as_dict(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "characters_mean": round(self.characters / self.rows, 2) if self.rows else 0.0,
            "characters_max": self.longest,
            "turns": {str(turns): rows for turns, rows in sorted(self.turns.items())},
            "replies": {str(replies): rows for replies, rows in sorted(self.replies.items())},
            "duplicates": self.duplicates,
        }


class Statistics:
    """Rows, characters, turns, replies and duplicates, per view and split."""

    def __init__(self) -> None:
        self._counts = {view: {split: _Count() for split in SPLITS} for view in VIEWS}
        self._seen: set[bytes] = set()

    def add(self, row: Row, split: str) -> None:
        """Count one row."""
        messages = row.messages if isinstance(row, Conversation) else row.history
        replies = replies_of(row)
        texts = [message.content for message in messages]
        length = sum(map(len, texts)) + sum(map(len, replies))
        count = self._counts[view_of(row)][split]
        count.rows += 1
        count.characters += length
        count.longest = max(count.longest, length)
        count.turns[len(messages)] += 1
        if replies:
            count.replies[len(replies)] += 1
        roles = [message.role for message in messages]
        said: list[Any] = [view_of(row), roles, texts, list(replies)]
        said += [row.desirable] if isinstance(row, Feedback) else []
        digest = bytes.fromhex(digest_value(said))[:16]
        count.duplicates += digest in self._seen
        self._seen.add(digest)

    def counts(self) -> dict[str, dict[str, int]]:
        """View → split → number of rows."""
        return {
            view: {split: count.rows for split, count in splits.items()}
            for view, splits in self._counts.items()
        }

    def duplicates(self) -> dict[str, int]:
        """View → number of rows that repeat an earlier one."""
        return {
            view: sum(count.duplicates for count in splits.values())
            for view, splits in self._counts.items()
        }

    def as_dict(self, source: Source) -> dict[str, Any]:
        """All of it, ready for JSON.

        ``turns`` and ``replies`` are histograms: how many messages, or replies to one history →
        rows. Lengths are in characters of a whole row.

        Args:
            source: what the rows are from, read to its end.
        """
        faults = source.faults
        return {
            "views": {
                view: {split: count.as_dict() for split, count in splits.items()}
                for view, splits in self._counts.items()
            },
            "files": {name: one.as_dict() for name, one in source.files.items()},
            "not_read": source.not_read,
            "dropped": dict(sorted(faults.dropped.items())),
            "filtered": dict(sorted(faults.filtered.items())),
            "unread": dict(sorted(faults.unread.items())),
            "noticed": dict(sorted(faults.noticed.items())),
        }
