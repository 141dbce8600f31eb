import json

import pytest

from rlhf.cli import main

ROWS = [
    {"question": f"Why {i}?", "answer_0": "a [1]", "answer_1": "b\n\nc", "score_0": i, "score_1": 1}
    for i in range(4)
]


@pytest.fixture
def copy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "webgpt.jsonl"
    lines = [json.dumps(one | {"question": {"full_text": one["question"]}}) for one in ROWS]
    path.write_text("\n".join([*lines, "{"]))
    return path


def test_list(capsys):
    assert main(["data", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "format", "views", "languages", "rows", "licence", "from"]
    assert any(line.startswith("wmt2019_<src>-<tgt> ") for line in lines)
    assert lines[-1] == f"{len(lines) - 2} datasets; `rlhf data show NAME` says more"


def test_list_by_word_and_view(capsys):
    assert main(["data", "list", "CHINESE", "--view", "conversation"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:-1]]
    assert {"HC3-Chinese", "mkqa-Chinese"} <= set(names)
    assert main(["data", "list", "HH", "--view", "preference"]) == 0
    assert "anthropic_rlhf" in capsys.readouterr().out
    assert main(["data", "list", "no such word"]) == 1


def test_show(capsys):
    assert main(["data", "show", "webgpt"]) == 0
    text = capsys.readouterr().out
    for word in (
        "openai/webgpt_comparisons",
        "score_0",
        "licence:",
        "conversation, preference",
        "webgpt: {}",
    ):
        assert word in text


def test_show_a_name_with_parameters(capsys):
    assert main(["data", "show", "wmt2019_<src>-<tgt>"]) == 0
    text = capsys.readouterr().out
    assert "as in wmt2019_zh-en" in text
    assert "mine: {registry: wmt2019_<src>-<tgt>}" in text
    assert main(["data", "show", "wmt2019_ru-en"]) == 0
    assert "pair: ru-en" in capsys.readouterr().out


def test_show_misspelt(capsys):
    assert main(["data", "show", "webgtp"]) == 2
    assert "did you mean 'webgpt'?" in capsys.readouterr().err


def test_check_a_copy(copy, capsys):
    assert main(["data", "check", "webgpt", "--path", str(copy)]) == 0
    text = capsys.readouterr().out
    assert "preference:   3" in text
    assert "dropped:      json 1" in text
    assert "filtered:     tie 1" in text
    assert "user: Why 0?" in text
    assert "1. b ⏎  ⏎ c" in text
    assert "2. a\n" in text


def test_check_stops_after_so_many_rows(copy, capsys):
    assert main(["data", "check", "webgpt", "--path", str(copy), "--rows", "2"]) == 0
    assert "preference:   1" in capsys.readouterr().out


def test_check_what_is_not_here(copy, capsys):
    assert main(["data", "check", "webgpt"]) == 2
    error = capsys.readouterr().err
    assert "not on this machine" in error
    assert "--path" in error


def test_check_a_dataset_of_a_configuration(copy, tmp_path, capsys):
    config = tmp_path / "mine.yaml"
    options = "{prompt: question.full_text, scores: [score_0, score_1]}"
    entry = f"{{path: {copy.name}, format: comparison, options: {options}}}"
    config.write_text(f"models: {{}}\ndatasets: {{own: {entry}, webgpt: {{path: {copy.name}, "
                      f"registry: webgpt}}}}\n")  # fmt: skip
    assert main(["data", "check", "own", "--config", str(config)]) == 2
    error = capsys.readouterr().err
    assert "datasets.own: webgpt.jsonl:5:2" in error
    assert main(["data", "check", "webgpt", "--config", str(config)]) == 0
    assert main(["data", "check", "own", "--config", str(tmp_path / "no.yaml")]) == 2


def test_write(tmp_path, capsys):
    page = tmp_path / "data.md"
    marks = ("<!-- datasets: generated -->", "<!-- end of datasets -->",
             "<!-- formats: generated -->", "<!-- end of formats -->")  # fmt: skip
    page.write_text("before\n" + "\nx\n".join(marks) + "\nafter\n")
    assert main(["data", "write", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("before\n<!-- datasets")
    assert text.endswith("<!-- end of formats -->\nafter\n")
    assert "| `webgpt` |" in text
    assert main(["data", "write", str(tmp_path / "no.md")]) == 2
