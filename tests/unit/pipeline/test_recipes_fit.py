"""What every recipe says that it fits is what its plan says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.projects import REPOSITORY

from rlhf.catalog import ONLINE, RULES
from rlhf.config.load import load_config_file
from rlhf.pipeline.plan import all_plans, claim, large_servers, plan, planned_jobs

RECIPES = sorted((REPOSITORY / "config/recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_fits_what_it_says(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # shapes by name: nothing is fetched here
    config = load_config_file(path)
    (said,) = re.findall(r"^# Fits: (.+)$", path.read_text(), re.M)
    assert said == claim(config)
    assert all(one.fits for one in all_plans(config)), "the GPUs that it names are enough"
    for section in ONLINE:
        assert not [line for name in getattr(config, section)
                    for line in large_servers(config, section, name)]  # fmt: skip
    sources = {model.shape.source for one in all_plans(config)
               for model in (*one.work.trained, *one.work.held)}  # fmt: skip
    assert all(source.startswith("name ") for source in sources)
    size = re.match(r"(\d+) × (\d+) GB", said)
    if size:
        assert int(size[1]) == config.cluster.nodes * config.cluster.gpus_per_node
        gpu = int(size[2])
        assert all(plan(config, rule, name, gpu).fits for rule, name in planned_jobs(config)
                   if RULES[rule].trains)  # fmt: skip
