"""Every command, given every kind of thing that is not what it asks for."""

from pathlib import Path

import pytest

from rlhf import cli

CONFIG = """\
models: {tiny: {source: {path: models/tiny}}}
datasets: {demo: {path: demo.jsonl, format: oasst}}
sft: {chat: {model: tiny, data: {demo: {}}}}
"""
ROOT = Path(__file__).parents[3]
NAMES = ROOT / "tests/unit/open_assistant/configs/config.yaml"
IMPORT = f"import-oa --configs oasst_export_eu galactica-125m --revision {'a' * 40}"
COMMANDS = [
    "config check {}",
    "config check good.yaml {}",
    "config write {}",
    "data check demo --config {}",
    "data check demo --config good.yaml --path {}",
    "data write {}",
    "data stats --configfile {}",
    "data stats --configfile good.yaml --results {}",
    "data duplicates --configfile {}",
    "data duplicates --configfile good.yaml --results {}",
    "data phrases --configfile good.yaml --results fetched --phrases {}",
    "verify {}",
    "compare {} {}",
    "chat {} --prompt hi",
    "prune --state {}",
    "prune --results {}",
    "recover --state {}",
    "lock --configfile {}",
    "lock --check --configfile {}",
    "explain --configfile {}",
    "images build --base train={}",
    "images build --wheels {}",
    f"{IMPORT} --repo {{}}",
    f"{IMPORT} --config-file {{}}",
    f"{IMPORT} --config-file {NAMES} --onto {{}}",
]
WRONG = {
    "folder": None,
    "missing": None,
    "file.json/inside": None,
    "file.json": b'{"a": 1}',
    "schema.json": b'{"schema": 1}',
    "list.json": b"[]",
    "empty": b"",
    "binary": bytes(range(256)),
    "/proc/self/mem": None,  # not even root can read its beginning
    "x" * 300: None,
}
# These are given what they ask for: a folder in which nothing is to be done.
RIGHT = {
    ("config write {}", "folder"),
    ("prune --state {}", "folder"),
    ("prune --results {}", "folder"),
    ("recover --state {}", "folder"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_paths(command, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.yaml").write_text(CONFIG)
    (tmp_path / "fetched/datasets/demo/rows").mkdir(parents=True)
    (tmp_path / "folder").mkdir()
    for name, content in WRONG.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
    for name in WRONG:
        code = cli.main([word.replace("{}", name) for word in command.split()])
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err, name
        if (command, name) in RIGHT:
            assert code == 0, name
        else:
            assert code in (1, 2), name
            said = err.removeprefix(f"rlhf {command.split()[0]}: ") or out
            assert len(said.strip()) > 10, name
    for name, content in WRONG.items():
        if content is not None:
            assert (tmp_path / name).read_bytes() == content


@pytest.mark.parametrize(
    "command",
    [f"{IMPORT} --config-file {NAMES} --output {{}}", "data check demo --config config/mine.yaml"],
)
def test_what_can_not_be_written_or_entered(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for name in ("folder", "file/inside", "x" * 300):
        code = cli.main(command.replace("{}", name).split())
        error = capsys.readouterr().err
        assert code in (1, 2)
        assert error.startswith(f"rlhf {command.split()[0]}: ")
        assert "Traceback" not in error


def test_an_unexpected_failure_names_the_file(tmp_path, monkeypatch, capsys):
    def full(_):
        raise OSError(28, "No space left on device", str(tmp_path / "x"))

    monkeypatch.setattr("rlhf.commands.verify.run", full)
    assert cli.main(["verify", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error == f"rlhf verify: No space left on device.\n  where:    {tmp_path / 'x'}\n"
    monkeypatch.setenv("RLHF_DEBUG", "1")
    assert cli.main(["verify", str(tmp_path)]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("data check demo --rows -1", "--rows"),
        ("data duplicates --threshold nan", "--threshold"),
        ("data duplicates --threshold 1.5", "--threshold"),
        ("data duplicates --words 0", "--words"),
        ("data phrases --examples -1", "--examples"),
        ("chat x --temperature nan", "--temperature"),
        ("doctor --limit inf", "--limit"),
        ("verify $RLHF_NOT_SET/results", "RLHF_NOT_SET is not set"),
        ("config check ~no-such-user/x.yaml", "nobody's home"),
    ],
)
def test_values_out_of_range(command, option, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(command.split())
    assert stop.value.code == 2
    assert option in capsys.readouterr().err


def test_a_lock_that_is_none(tmp_path, capsys):
    """Beside a good configuration: a folder, or a file that somebody edited."""
    (tmp_path / "mine.yaml").write_text(CONFIG)
    lock = tmp_path / "mine.lock.json"
    for content, expected in (
        (b'{"version": 1,\n"models": {},\n"models": {}}', "lines 2 and 3"),
        (b"\xff\xfe", "UTF-16"),
        (b"[]", "The lock is damaged"),
        (b'{"version": NaN}', "The lock is damaged"),
    ):
        lock.write_bytes(content)
        assert cli.main(["lock", "--configfile", str(tmp_path / "mine.yaml")]) == 2
        assert expected in capsys.readouterr().err
    lock.unlink()
    lock.mkdir()
    assert cli.main(["lock", "--configfile", str(tmp_path / "mine.yaml")]) == 2
    assert "This is a folder, not a lock" in capsys.readouterr().err


def test_doctor_goes_on_without_a_configuration(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["doctor", "--configfile", "."]) == 1
    out = capsys.readouterr().out
    assert "failed  configuration: This is a folder, not a configuration file." in out
