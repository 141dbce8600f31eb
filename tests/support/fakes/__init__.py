"""Commands of a cluster that are not there: folders to put in front of PATH."""

from __future__ import annotations

from pathlib import Path

SLURM = Path(__file__).with_name("slurm")
GPU = Path(__file__).with_name("gpu")
CONTAINER = Path(__file__).with_name("container")
