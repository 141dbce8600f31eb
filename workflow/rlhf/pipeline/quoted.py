"""A Python whose path holds a space, or what else a shell would not take as it is."""

from __future__ import annotations

import functools
import shlex
import sys
from typing import Any


def quote_python() -> None:
    """Make Snakemake's executors (interface 9.4, SLURM job steps 0.6) quote their Python.

    They start jobs by a line for a shell, in which its path stands as it is: with an environment
    in ``/home/ada/my project`` a job would end with "/home/ada/my: not found".
    """
    if shlex.quote(sys.executable) == sys.executable:
        return
    import snakemake_executor_plugin_slurm_jobstep as step
    from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

    executors: list[Any] = [RemoteExecutor, step.Executor]
    for executor in executors:
        ask = executor.get_python_executable
        if not hasattr(ask, "__wrapped__"):
            executor.get_python_executable = _quoted(ask)


def _quoted(ask: Any) -> Any:
    @functools.wraps(ask)
    def get_python_executable(self: Any) -> str:
        return shlex.quote(ask(self))

    return get_python_executable
