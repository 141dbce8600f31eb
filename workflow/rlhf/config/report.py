"""Reports."""

from __future__ import annotations

from rlhf.config.base import Strict, key


class ReportConfig(Strict):
    """One report."""

    evaluations: list[str] = key(about="names of the evaluations shown", min_length=1)
    title: str = key("RLHF report", about="title of the page")
