import subprocess
import sys

import pytest

from rlhf import cli


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert all(name in text for name in cli.COMMANDS)


@pytest.mark.parametrize("command", [name for name in cli.COMMANDS if name != "launch"])
def test_each_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    assert f"usage: rlhf {command}" in capsys.readouterr().out


def test_errors_have_no_traceback_and_exit_2(tmp_path, capsys):
    assert cli.main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("rlhf compare: There is no manifest")
    assert "Traceback" not in error


@pytest.mark.parametrize("argv", [[], ["foo"], ["verify", "--nonsense"]])
def test_wrong_command_line_exits_2(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(argv)
    assert stop.value.code == 2


def test_launch_gets_its_arguments_untouched(monkeypatch):
    seen = []
    monkeypatch.setattr(cli, "run_launch", lambda argv: seen.append(argv) or 7)
    assert cli.main(["launch", "--threads", "2", "--", "m", "--help"]) == 7
    assert seen == [["--threads", "2", "--", "m", "--help"]]


def test_no_command_loads_torch_before_it_needs_to():
    code = (
        "import sys, importlib, rlhf.cli as c\n"
        "modules = [n.replace('-', '_') for n in c.COMMANDS if n != 'launch']\n"
        "[importlib.import_module(f'rlhf.commands.{n}') for n in modules]\n"
        "assert not {'torch', 'transformers', 'pydantic', 'snakemake'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
