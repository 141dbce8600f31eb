"""What recipes and docs say that a recipe needs is what its plan says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support.projects import REPOSITORY

from rlhf.catalog import ONLINE, RULES
from rlhf.config.load import load_config_file
from rlhf.pipeline.plan import all_plans, claim, plan, planned_jobs
from rlhf.pipeline.server_memory import large_servers

RECIPES = [
    path
    for folder in ("recipes", "comparisons")
    for path in sorted((REPOSITORY / "config" / folder).glob("*.yaml"))
]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
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


LORA = {"rank": 128}
AUTO = {"engine": "auto", "offload": "none", "activation_checkpointing": "auto"}
# Rows of the table in docs/memory.md that are no recipe as it stands.
CHANGED = {
    "deepspeed-chat-opt-13b, LoRA": {
        "sft": {"actor": {"adapter": LORA}},
        "ppo": {"final": {"adapter": LORA}},
        "cluster": {"gpu_memory_gb": 40, "stages": {"train_sft": AUTO, "train_ppo": AUTO}},
    },
}
CHANGED["deepspeed-chat-opt-13b, LoRA, 1 GPU"] = CHANGED["deepspeed-chat-opt-13b, LoRA"] | {
    "cluster": CHANGED["deepspeed-chat-opt-13b, LoRA"]["cluster"]
    | {"gpus_per_node": 1, "gpu_memory_gb": 80, "server_gpus": 0}
}


def test_the_table_beside_what_others_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (REPOSITORY / "docs/memory.md").read_text()
    rows = re.findall(r"^\| `([^`]+)`(.*?) \|.*\| SFT (\d+), PPO (\d+) \| (.+?) \|$", page, re.M)
    assert len({name for name, *_ in rows}) >= 5
    monkeypatch.chdir(tmp_path)
    for name, changed, sft, ppo, fits in rows:
        files = [REPOSITORY / f"config/recipes/{name}.yaml"]
        if changed:
            files.append(tmp_path / "changed.yaml")
            files[1].write_text(json.dumps(CHANGED[name + changed]))
        config = load_config_file(*files)
        peaks = {one.rule: one.peak_gb for one in reversed(all_plans(config))}  # the first SFT run
        assert (f"{peaks['train_sft']:.0f}", f"{peaks['train_ppo']:.0f}") == (sft, ppo), name
        assert claim(config) == fits
