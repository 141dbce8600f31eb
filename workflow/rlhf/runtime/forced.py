"""Runs that somebody forces: they are to be computed again. No torch in here.

A training run that is finished and published has its last state still, and would only write it
out anew: cheap, and right when a parent ran again and came out the same. Whoever forces a run
wants it computed. Snakemake alone knows that it was told so, and it deletes what was published
before the stage starts, so two files in a state's folder, empty both, tell the stage.
"""

from __future__ import annotations

from pathlib import Path

PUBLISHED = "published"  # the artifact of these states is complete
FORCED = "forced"  # it is to be made again, from the start


def force(state: Path) -> None:
    """Have the next attempt at a run compute it again, if it was ever published.

    A run that was cut off, or that ended between its last save and publishing, goes on as ever:
    nobody has seen its result yet.

    Args:
        state: the run's folder, such as ``state/train_sft/chat``.
    """
    for mark in state.glob(f"*/{PUBLISHED}"):
        mark.replace(mark.with_name(FORCED))
