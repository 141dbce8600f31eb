"""What comes from Open-Assistant's configurations is a complete pipeline."""

from __future__ import annotations

from pathlib import Path

from support.projects import REPOSITORY, Project

CONFIGS = str(REPOSITORY / "tests/unit/open_assistant/configs")


def test_sft_reward_model_and_ppo_of_galactica(tmp_path: Path) -> None:
    project = Project.clone(tmp_path / "project")
    for line in (
        f"--configs oasst_export_eu galactica-125m --revision {'c' * 40} --output sft.yaml",
        "--configs defaults_rm rm-galactica --onto sft.yaml --output rm.yaml",
        "--configs defaults defaults_rlhf rlhf-data rlhf-galactica --onto sft.yaml rm.yaml "
        "--output rl.yaml",
    ):
        done = project.rlhf("import-oa", "--repo", CONFIGS, *line.split())
        assert done.returncode == 0, done.stderr
    project.config, project.overlays = "sft.yaml", ["rm.yaml", "rl.yaml"]
    assert project.would_run() == {
        "fetch_model",
        "fetch_data",
        "tokenize:conversation",
        "tokenize:preference",
        "tokenize:prompt",
        "check_rows",
        "train_sft",
        "train_reward",
        "export_store:reward",
        "export_store:reference",
        "train_ppo",
        "evaluate",
        "report",
    }
