"""Accounts of what became of each row of the files that a dataset is read from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


class Tally(Counter[str]):
    """Counts by reason; appends each reason that is counted to a list, too."""

    def __init__(self, reasons: list[str]) -> None:
        self._reasons = reasons
        super().__init__()

    def __setitem__(self, reason: str, count: int) -> None:
        self._reasons.append(reason)
        super().__setitem__(reason, count)


@dataclass
class Account:
    """What became of the rows of one file.

    Attributes:
        rows: how many were read.
        used: how many gave something.
        held: how many a format holds until all are read; none in the end.
        left_out: reason → how many gave nothing.
    """

    rows: int = 0
    used: int = 0
    held: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def is_even(self) -> bool:
        """Whether every row is accounted for."""
        return self.rows == self.used + self.held + self.left_out.total()

    def leave_out(self, reason: str) -> None:
        """Count a row that gives nothing."""
        self.rows += 1
        self.left_out[reason] += 1

    def as_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON; without what is zero, except rows and used."""
        found: dict[str, Any] = {"rows": self.rows, "used": self.used}
        if self.held:
            found["held"] = self.held
        if self.left_out:
            found["left_out"] = dict(sorted(self.left_out.items()))
        return found


class Held:
    """A row that a format holds until all are read; then it is used or left out, once.

    Args:
        account: of the row's file.
    """

    __slots__ = ("_account",)

    def __init__(self, account: Account) -> None:
        self._account: Account | None = account
        account.held += 1

    def use(self) -> None:
        """Count the row as used, unless it is counted already."""
        if self._account is not None:
            self._account.held -= 1
            self._account.used += 1
            self._account = None

    def leave_out(self, reason: str) -> None:
        """Count the row as left out, unless it is counted already."""
        if self._account is not None:
            self._account.held -= 1
            self._account.left_out[reason] += 1
            self._account = None


def total(accounts: Iterable[Account]) -> Account:
    """The sum of some accounts."""
    whole = Account()
    for one in accounts:
        whole.rows += one.rows
        whole.used += one.used
        whole.held += one.held
        whole.left_out += one.left_out
    return whole
