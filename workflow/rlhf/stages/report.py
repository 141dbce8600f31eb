"""Stage ``report``: a page and tables about evaluations, training runs and all their ancestors."""

from __future__ import annotations

import logging

from rlhf.config.report import ReportSlice
from rlhf.core.files import write_atomic
from rlhf.reporting.comparison import compared
from rlhf.reporting.page import render_page
from rlhf.reporting.runs import load_runs
from rlhf.reporting.tables import write_tables
from rlhf.stages.stage import Stage, main

logger = logging.getLogger("rlhf")


def run(stage: Stage) -> None:
    """Render the page of the given manifests.

    Inputs: any number of ``evaluation``, ``ppo``, ``reward`` and ``sft``. Outputs: ``page``, an
    HTML file, ``tables``, a folder, and ``manifest``. The page shows run times, so the manifest
    does not digest it.
    """
    page, config = stage.outputs["page"], stage.read(ReportSlice)
    runs = load_runs(stage.inputs, config.seeds)
    write_atomic(page, render_page(config.title, stage.inputs, config.seeds))
    write_tables(stage.outputs["tables"], compared(runs), runs)
    logger.info("report.%s: open %s in a browser", stage.name, page)
    stage.finish(
        counts={role: len(paths) for role, paths in sorted(stage.inputs.items())},
        volatile={"page"},
    )


if __name__ == "__main__":
    main(run)
