"""Jobs that have ended, though Snakemake's SLURM plugin takes them for running ones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

# How a job ended → the nearest that the plugin (2.8.0) counts as an end.
_ENDED = {"PREEMPTED": "CANCELLED", "REVOKED": "CANCELLED", "LAUNCH_FAILED": "FAILED"}

_Query = Callable[[str, Any], Awaitable[tuple[dict[str, str] | None, float | None]]]


def see_lost_jobs() -> None:
    """Make the plugin see that a preempted or cancelled job has ended, so that it is retried.

    To SLURM, PREEMPTED is an end of a job that is not requeued, and with accounting a cancelled
    job is "CANCELLED by <user>".
    """
    import snakemake_executor_plugin_slurm as plugin

    ask: _Query = plugin.query_job_status

    async def query(command: str, logger: Any) -> tuple[dict[str, str] | None, float | None]:
        states, seconds = await ask(command, logger)
        return states and {job: plain_state(state) for job, state in states.items()}, seconds

    plugin.query_job_status = query


def plain_state(state: str) -> str:
    """A state of a job as the plugin knows it."""
    first = state.split()[0] if state else state
    return _ENDED.get(first, first)
