"""Stage ``report``: one HTML page about evaluations, training runs and all their ancestors."""

from __future__ import annotations

import logging

from rlhf.config.report import ReportConfig
from rlhf.core.files import write_atomic
from rlhf.reporting.page import render_page
from rlhf.stages.stage import Stage, main

logger = logging.getLogger("rlhf")


def run(stage: Stage) -> None:
    """Render the page of the given manifests.

    Inputs: any number of ``evaluation``, ``ppo``, ``reward`` and ``sft``. Outputs: ``page``, an
    HTML file, and ``manifest``. The page shows run times, so the manifest does not digest it.
    """
    page = stage.outputs["page"]
    write_atomic(page, render_page(stage.read(ReportConfig).title, stage.inputs))
    logger.info("report.%s: open %s in a browser", stage.name, page)
    stage.finish(
        counts={role: len(paths) for role, paths in sorted(stage.inputs.items())},
        volatile={"page"},
    )


if __name__ == "__main__":
    main(run)
