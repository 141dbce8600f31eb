"""The worked example of docs/rewards.md, from a finished project's SFT run and reward model."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from support.page_tables import DOCS
from support.projects import Project

from rlhf.core.digest import digest_file
from rlhf.data.rows_file import read_all

EXTRA, SHORT = "config/extra.yaml", "config/short.yaml"
RUN = "results/rloo/sums/manifest.json"


def blocks() -> dict[str, str]:
    """Language → the block of the worked example."""
    text = (DOCS / "rewards.md").read_text(encoding="utf-8")
    example = text.split("## Worked example")[1].split("\n## ")[0]
    return dict(re.findall(r"```(\w+)\n(.*?)```", example, flags=re.S))


@pytest.mark.slow
def test_the_worked_example(project: Project) -> None:
    example, folder = blocks(), project.folder
    row = json.loads(example["json"])
    rows = [row | {"question": f"{i}. {row['question']}"} for i in range(16)]
    (folder / "sums.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in rows))
    (folder / "rewards").mkdir()
    (folder / "rewards/brevity.py").write_text(example["python"])
    (folder / EXTRA).write_text(example["yaml"])
    short = {"updates": 2, "rollout_batch_size": 8, "minibatch_size": 8, "scoring": "local",
             "precision": "float32", "sampling": {"max_new_tokens": 8}}  # fmt: skip
    (folder / SHORT).write_text(yaml.safe_dump({"rloo": {"sums": short}}))
    project.overlays = [EXTRA, SHORT]
    assert project.would_run(RUN) == {
        "fetch_data", "tokenize:prompt", "check_rows", "train_rloo"
    }  # fmt: skip
    project.snakemake(RUN)

    manifest = json.loads((folder / RUN).read_text())
    function = "rewards/brevity.py"
    assert manifest["config"]["functions"] == {function: digest_file(folder / function)}
    assert manifest["parents"]["reward"] == digest_file(
        folder / "results/reward/helpful/manifest.json"
    )
    prompts = read_all(folder / "results/datasets/sums/rows").prompts
    assert {json.loads(prompt.columns or "")["answer"] for prompt in prompts} == {row["answer"]}
    with (folder / "results/rloo/sums/metrics.jsonl").open() as lines:
        records = [json.loads(line) for line in lines]
    for record in records:
        terms = [record[f"reward_{name}"] for name in ("math_answer", "score", "helpful")]
        total = terms[0] + 0.1 * terms[1] + 0.2 * terms[2]
        assert abs(record["reward"] - total) < 1e-5
        assert terms[1] != 0

    project.replace(function, "near a target", "close to a target")
    assert project.would_run(RUN) == {"train_rloo"}
    said = project.rlhf("explain", RUN, "--configfile", project.config, EXTRA, SHORT).stdout
    assert f"the content of {function} changed" in said
