import yaml

from rlhf.cli import main
from rlhf.config.load import load_config_file
from rlhf.config.presets import PRESETS

FILE = """\
models: {tiny: {source: {path: models/tiny}}}
datasets: {demo: {path: demo.jsonl, format: oasst}}
sft: {chat: {model: tiny, data: {demo: {}}}}
"""


def test_check_valid(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text(FILE)
    assert main(["config", "check", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: valid (models 1, datasets 1, sft 1)\n"


def test_check_invalid(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text(FILE.replace("model:", "modle:"))
    assert main(["config", "check", str(path)]) == 2
    error = capsys.readouterr().err
    assert "sft.chat.modle: unknown key; did you mean 'model'?" in error
    assert str(path) in error


def test_check_formats_and_their_options(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    for entry, words in (
        ("format: oast", ["datasets.demo.format", "did you mean 'oasst'?"]),
        ("format: oasst, options: {topk: 1}", ["datasets.demo.options", "did you mean 'top_k'?"]),
        ("format: oasst, options: {top_k: 0}", ["datasets.demo.options.top_k", "1 or more"]),
    ):
        path.write_text(FILE.replace("format: oasst", entry))
        assert main(["config", "check", str(path)]) == 2
        error = capsys.readouterr().err
        assert [word for word in words if word not in error] == []


def test_an_option_that_yaml_takes_for_something_else(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text(FILE.replace("format: oasst", "format: oasst, options: {exclude: [no]}"))
    assert main(["config", "check", str(path)]) == 2
    error = capsys.readouterr().err
    assert "datasets.demo.options.exclude" in error
    assert 'if line 2 means text, write "no" in quotes' in error
    path.write_text(FILE.replace("format: oasst", "format: oasst, options: {top_k: 1.0}"))
    assert main(["config", "check", str(path)]) == 2
    assert "expected: a whole number" in capsys.readouterr().err


def test_write(tmp_path, capsys):
    assert main(["config", "write", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "schema.json"]
    assert main(["config", "write", str(tmp_path / "absent")]) == 2


def test_show_writes_defaults_and_presets_out(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    own = "reward: {model: judge, weight: 0.5}, data: {demo: {size: 7}}"
    run = f"{{sft: chat, {own}, preset: trlx, kl: {{coefficient: 0.2}}}}"
    path.write_text(
        FILE + "reward: {judge: {sft: chat, data: {demo: {}}}}\n" + f"ppo: {{final: {run}}}\n"
    )
    assert main(["config", "show", str(path), "--run", "ppo.final"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown.keys() == {"ppo"}
    final = shown["ppo"]["final"]
    assert final["kl"] == {
        "coefficient": 0.2, "controller": "adaptive", "target": 6.0, "horizon": 10000,
        **{name: final["kl"][name] for name in final["kl"].keys() - PRESETS["trlx"]["kl"].keys()},
    }  # fmt: skip
    assert final["rewards"]["clip"] == 10
    assert final["sampling"]["stop"] == PRESETS["trlx"]["sampling"]["stop"]
    assert final["lam"] == 0.95
    (tmp_path / "whole.yaml").write_text(FILE)
    assert main(["config", "show", str(path)]) == 0
    whole = tmp_path / "whole.yaml"
    whole.write_text(capsys.readouterr().out)
    assert load_config_file(whole) == load_config_file(path), "what is shown is a configuration"
    assert main(["config", "show", str(path), "--run", "ppo.finale"]) == 2
    assert "did you mean 'ppo.final'?" in capsys.readouterr().err
