"""Errors that explain themselves to the person who can mend them."""

from __future__ import annotations

EXIT_BAD_INPUT = 2
EXIT_SAVED = 75  # sysexits' EX_TEMPFAIL: state was saved, run the same command again
EXIT_FENCED = 76  # another attempt took the run over; this one wrote nothing more


class RlhfError(Exception):
    """A failure that a user can act on; printed without a traceback.

    Args:
        what: what is wrong, in one sentence.
        where: the file, line, row or configuration key concerned.
        expected: what would have been right.
        hint: what to do about it.
    """

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        expected: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.what, self.where, self.expected, self.hint = what, where, expected, hint
        lines = [what]
        lines += [f"  where:    {where}"] if where is not None else []
        lines += [f"  expected: {expected}"] if expected else []
        lines += [f"  to do:    {hint}"] if hint else []
        # Names in files may hold what no encoding has: half of a surrogate pair.
        super().__init__("\n".join(lines).encode("utf-8", "backslashreplace").decode())


class ConfigError(RlhfError):
    """The configuration is wrong; ``where`` names the key."""


class DataError(RlhfError):
    """A dataset row is wrong; ``where`` names file and line, or dataset and row."""


class IntegrityError(RlhfError):
    """A file is not what its manifest says, or two artifacts do not belong together."""


class ClusterError(RlhfError):
    """The cluster does not have what a job asks for, or can't run it."""


class ServingError(RlhfError):
    """A model server did not start, did not answer, or answered something unusable."""


class NumericsError(RlhfError):
    """A number is infinite, not a number, or means nothing; ``where`` names the run and step."""


class Fenced(RlhfError):
    """Another attempt took this run over: this process may not write any more (exit code 76)."""
