from pathlib import Path

import pytest

from rlhf.cli import main
from rlhf.config.load import load_config_file

CONFIGS = Path(__file__).resolve().parents[1] / "open_assistant/configs"
COMMIT = ["--revision", "c" * 40]
SFT = ["import-oa", "--configs", "oasst_export_eu", "galactica-125m", *COMMIT]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_file_is_written_that_says_what_was_lost(capsys):
    line = [*SFT, "--repo", str(CONFIGS), "--output", "mine.yaml", "--num-gpus", "2"]
    assert main([*line, "--loss_fn", "Focal", "--no-system_prefix"]) == 0
    out, err = capsys.readouterr()
    assert "snakemake --profile local --configfile mine.yaml" in out
    assert "warning: not carried over: loss_fn: Focal (trainer_sft knows" in err
    assert "keys of Open-Assistant: " in err
    text = Path("mine.yaml").read_text()
    assert text.startswith(
        "# Open-Assistant: trainer_sft.py --configs oasst_export_eu galactica-125m "
        "--loss_fn Focal --no-system_prefix\n"
    )
    assert "# Not carried over:\n#   loss_fn: Focal (trainer_sft knows" in text
    assert "#   learning_rate → sft.galactica-125m.optimizer.learning_rate\n" in text
    assert max(map(len, text.splitlines()[1:])) <= 100
    config = load_config_file("mine.yaml")
    assert config.sft["galactica-125m"].global_batch_size == 16
    assert config.sft["galactica-125m"].optimizer.learning_rate == 5e-5


def test_without_output_the_file_goes_to_the_terminal(capsys):
    assert main([*SFT, "--config-file", str(CONFIGS / "config.yaml")]) == 0
    out, _ = capsys.readouterr()
    Path("mine.yaml").write_text(out)
    assert load_config_file("mine.yaml").datasets.keys() == {"oasst_export", "vicuna", "joke"}


def test_three_stages_add_up(capsys):
    repo = ["--repo", str(CONFIGS)]
    assert main([*SFT, *repo, "--output", "sft.yaml"]) == 0
    rm = ["import-oa", *repo, "--configs", "defaults_rm", "rm-galactica", "--onto", "sft.yaml"]
    assert main([*rm, "--output", "rm.yaml"]) == 0
    rl = ["import-oa", *repo, "--configs", "defaults_rlhf", "rlhf-data", "rlhf-galactica"]
    assert main([*rl, "--onto", "sft.yaml", "rm.yaml", "--output", "rl.yaml"]) == 0
    assert "--configfile sft.yaml rm.yaml rl.yaml" in capsys.readouterr().out
    assert "# It adds to sft.yaml, rm.yaml.\n" in Path("rl.yaml").read_text()
    config = load_config_file("sft.yaml", "rm.yaml", "rl.yaml")
    assert [term.model for term in config.ppo["galactica-125m"].reward] == ["galactica-125m"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["--repo", "."], ["There are no YAML files of Open-Assistant"]),
        (["--config-file", "absent.yaml"], ["There is no such configuration file", "absent.yaml"]),
        (["--repo", str(CONFIGS), "--max_lenght", "1"], ["did you mean 'max_length'?"]),
        (
            ["--repo", str(CONFIGS), "--max_length", "1"],
            ["tokenization.conversation.max_length", "greater than or equal to 8"],
        ),
        (["--repo", str(CONFIGS), "--onto", "absent.yaml"], ["absent.yaml"]),
        (["--repo", str(CONFIGS), "--revision", "main"], ["40 hex digits"]),
    ],
)
def test_mistakes(line, words, capsys):
    assert main([*SFT, *line]) == 2
    error = capsys.readouterr().err
    assert [word for word in words if word not in error] == []


def test_what_it_adds_to_has_to_be_valid(capsys):
    Path("base.yaml").write_text("sft: {chat: {}}")
    assert main([*SFT, "--repo", str(CONFIGS), "--onto", "base.yaml"]) == 2
    assert "sft.chat.data: this key is required" in capsys.readouterr().err


def test_what_it_adds_to_is_not_overwritten(capsys):
    line = [*SFT, "--repo", str(CONFIGS), "--output", "sft.yaml"]
    assert main(line) == 0
    assert main([*line, "--onto", "sft.yaml", "--name", "more"]) == 2
    assert "one that it adds to" in capsys.readouterr().err
