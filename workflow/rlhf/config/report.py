"""Reports."""

from __future__ import annotations

from rlhf.config.base import Strict, key


class ReportConfig(Strict):
    """One report."""

    evaluations: list[str] = key(about="names of the evaluations shown", min_length=1)
    title: str = key("RLHF report", about="title of the page")


class ReportSlice(ReportConfig):
    """What ``report`` gets: the section, and which of its runs differ in their seed alone."""

    seeds: dict[str, dict[str, int]] = key(
        {}, about="run with several seeds, such as `ppo.final` → names of its runs → their seeds"
    )
