"""GPUs that this process was given, and those that are here. No torch in here.

Whoever is given GPUs in ``CUDA_VISIBLE_DEVICES`` computes on them or ends with an error: on the
CPU, a job would hold them for hours and use none.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path

from rlhf.runtime.slurm import this_job

VISIBLE = "CUDA_VISIBLE_DEVICES"
USED = "RLHF_GPUS"  # how many GPUs of this node the launcher has shared out
ASK_SECONDS = 30.0
_NONE = ("", "-1", "NoDevFiles")  # what stands for no GPU; CUDA sees nothing from there on
_DRIVER = Path("/proc/driver/nvidia")


def visible(environment: Mapping[str, str] = os.environ) -> tuple[str, ...] | None:
    """The GPUs that the environment names; None where it leaves the choice to the process."""
    named = environment.get(VISIBLE)
    if named is None:
        return None
    return tuple(takewhile(lambda one: one not in _NONE, map(str.strip, named.split(","))))


def count() -> int:
    """GPUs of this machine, or of this job on it, named visible or not; 0 where none is known."""
    if shutil.which("nvidia-smi"):  # sees no more than the job's control group lets it
        return len(re.findall(r"^GPU \d+: ", _ask("-L"), re.MULTILINE))
    if this_job()[0] is not None:
        return 0  # the driver's own list has those of other jobs too
    return len(list((_DRIVER / "gpus").glob("*")))


def driver() -> str:
    """The driver in words."""
    try:
        text = (_DRIVER / "version").read_text()
    except OSError:
        text = ""
    found = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", text)
    version = found[1] if found else _ask("--query-gpu=driver_version", "--format=csv,noheader")
    if not re.fullmatch(r"[\d.]+", version.partition("\n")[0].strip()):
        return "no NVIDIA driver answers here"
    return f"NVIDIA driver {version.partition(chr(10))[0].strip()}"


def unused(own: int) -> str | None:
    """What to say of GPUs of this machine that are left alone; None: all are used.

    Args:
        own: GPUs that this process uses; a launcher knows how many its whole launch does.
    """
    here, used = count(), int(os.environ.get(USED) or own)
    if used >= here:
        return None
    many = "1 GPU" if here == 1 else f"{here} GPUs"
    where = f"on {used} of this machine's {many}" if used else f"on the CPU, beside {many}"
    return f"computing {where}: cluster.gpus_per_node says how many are used"


def _ask(*arguments: str) -> str:
    """What nvidia-smi says, or nothing."""
    if not shutil.which("nvidia-smi"):
        return ""
    try:
        done = subprocess.run(
            ["nvidia-smi", *arguments], capture_output=True, text=True, timeout=ASK_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
