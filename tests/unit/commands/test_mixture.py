"""``rlhf data stats | duplicates | phrases`` over artifacts made by the stages themselves."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from support.written import write_dataset, write_rows

from rlhf.cli import main
from rlhf.core.files import write_json
from rlhf.data.left_out import DUPLICATES, write_left_out
from rlhf.data.rows import Conversation, Message, Prompt
from rlhf.data.split import group_of
from rlhf.data.tokenizing import Tally, features_of

CONFIG = """\
models: {tiny: {source: {path: models/tiny}}}
datasets:
  demo: {path: demo.jsonl, format: oasst}
  more: {path: more.jsonl, format: messages}
sft:
  chat:
    model: tiny
    epochs: 2
    data: {demo: {max_validation: 2}, more: {size: 5}}
  clean:
    model: tiny
    data: {demo: {}}
    duplicates: {remove: near}
"""
LENGTHS = {"demo": [4, 8, 12, 16] * 5, "more": [30] * 10}


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.yaml").write_text(CONFIG)
    for name, lengths in LENGTHS.items():
        folder = tmp_path / "results/tokenized/conversation/tiny" / name
        counts = {}
        for split in ("train", "validation"):
            kept = lengths if split == "train" else lengths[:5]
            rows = [
                {"id": str(i), "input_ids": [1] * n, "labels": [-100] * (n // 2) + [1] * (n // 2)}
                for i, n in enumerate(kept)
            ]
            write_dataset(folder / "data" / split, features_of("conversation"), rows)
            tally = Tally(len(rows) + 2, len(rows), sum(kept), sum(kept) // 2, truncated=1)
            tally.dropped["overlong"] = 2
            counts[split] = tally.as_dict("conversation")
        write_json(folder / "manifest.json", {"schema": 1, "counts": counts})
    found = tmp_path / "results/duplicates/sft.clean"
    write_left_out(found / DUPLICATES, [{"dataset": "demo", "id": "3"}])
    write_json(found / "manifest.json", {"schema": 1})
    return tmp_path


def lines(capsys):
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_stats(project, capsys):
    assert main(["data", "stats", "sft.chat", "--json", "s.json", "--counts", "counts"]) == 0
    shown = lines(capsys)
    demo = next(line for line in shown if line[:4] == ["conversation", "tiny", "demo", "train"])
    assert demo[4:] == ["20", "200", "10", "10", "16", "16", "1", "2", "50.0", "%"]
    assert ["sft.chat:", "2", "epochs", "of", "25", "rows"] in [line[:6] for line in shown]
    found = json.loads((project / "s.json").read_text())
    (mixture,) = found["mixtures"]
    demo, more = mixture["datasets"]
    assert (demo["epoch_rows"], demo["epoch_tokens"], demo["validation_rows"]) == (20, 200, 2)
    assert (more["epoch_rows"], more["epoch_tokens"], more["validation_rows"]) == (5, 150, 5)
    assert more["passes_per_epoch"] == 0.5
    assert demo["share_of_rows"] == 0.8
    assert demo["share_of_tokens"] == pytest.approx(200 / 350, abs=1e-6)
    assert (mixture["rows_in_all"], mixture["epoch_tokens"]) == (50, 350)
    assert mixture["label_share"] == 0.5
    train = found["datasets"][0]
    assert (train["source_rows"], train["dropped_reasons"]) == (22, {"overlong": 2})
    assert sum(train["length"]["histogram"]["rows"]) == 20
    assert train["length"] | {"histogram": 0} == {
        "mean": 10, "median": 10, "p95": 16, "max": 16, "histogram": 0
    }  # fmt: skip
    table = (project / "counts/dataset_counts.conversation.csv").read_text().splitlines()
    assert table == [
        "dataset_name,train_counts,eval_counts,total_counts", "demo,22,7,29", "more,12,7,19"
    ]  # fmt: skip


def test_stats_of_a_run_that_leaves_rows_out(project, capsys):
    assert main(["data", "stats", "sft.clean"]) == 0
    assert ["demo", "20", "1", "19"] in [line[:4] for line in lines(capsys)]


def test_the_drawing_is_one_file_that_parses(project, capsys):
    assert main(["data", "stats", "--plot", "mixture.svg"]) == 0
    root = ElementTree.parse(project / "mixture.svg").getroot()
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "sft.chat: tokens of an epoch" in texts
    assert "5 rows, 150 tokens, 42.9 %" in texts
    assert "conversation, tiny: rows by length" in texts
    inner = [svg for svg in root.iter("{http://www.w3.org/2000/svg}svg") if svg.get("viewBox")]
    assert len(inner) == 2, "the drawing, and one chart of lengths"
    assert "var(" not in (project / "mixture.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["stats", "sft.chta"], "did you mean 'sft.chat'?"),
        (["duplicates", "dmeo"], "did you mean 'demo'?"),
        (["phrases", "demo"], "snakemake --profile local results/datasets/demo/manifest.json"),
    ],
)
def test_mistakes(project, capsys, arguments, expected):
    assert main(["data", *arguments]) == 2
    assert expected in capsys.readouterr().err


def test_stats_before_tokenization(project, capsys):
    (project / "results/tokenized/conversation/tiny/more/manifest.json").unlink()
    assert main(["data", "stats"]) == 2
    expected = "snakemake --profile local results/tokenized/conversation/tiny/more/manifest.json"
    assert expected in capsys.readouterr().err


@pytest.fixture
def rows(project):
    def talk(id_, question, answer, split="train"):
        history = (Message("user", question),)
        group = group_of(question)
        whole = (*history, Message("assistant", answer))
        return [(Conversation(id_, group, whole), split), (Prompt(id_, group, history), split)]

    text = " ".join(f"word{i}" for i in range(60))
    sets = {
        "demo": [talk("1", "Hi?", "As an AI model, no."), talk("2", text, "x", "validation")],
        "more": [talk("1", "hi?", "as an AI model,  NO."), talk("2", f"{text} now", "See [1].")],
    }
    for name, pairs in sets.items():
        folder = project / "results/datasets" / name / "rows"
        folder.mkdir(parents=True)
        write_rows(folder, [one for pair in pairs for one in pair])
    return project


def test_duplicates(rows, capsys):
    assert main(["data", "duplicates", "--json", "d.json"]) == 0
    shown = lines(capsys)
    first = ["conversation", "more", "train", "demo", "train", "exact", "1", "50.0", "%"]
    assert first in shown
    assert ["prompt", "more", "train", "demo", "validation", "near", "1", "50.0", "%"] in shown
    found = json.loads((rows / "d.json").read_text())
    shared = {
        (one["view"], one["split"], one["other_view"], one["other_split"]): one["prompts"]
        for one in found["shared_prompts"]
    }
    assert shared["conversation", "train", "conversation", "validation"] == 1
    assert shared["conversation", "train", "prompt", "train"] == 2
    assert main(["data", "duplicates", "--exact"]) == 0
    assert not [line for line in lines(capsys) if "near" in line]


def test_phrases(rows, capsys):
    assert main(["data", "phrases", "--json", "p.json"]) == 0
    shown = capsys.readouterr().out
    assert "As an AI   " in shown
    assert "1: As an AI model, no." in shown
    found = json.loads((rows / "p.json").read_text())
    assert [(one["dataset"], one["view"], one["rows"], one["of"]) for one in found] == [
        ("demo", "conversation", 1, 1), ("more", "conversation", 1, 2)
    ]  # fmt: skip
    (rows / "mine.txt").write_text("NO.\n\n")
    assert main(["data", "phrases", "more", "--phrases", "mine.txt"]) == 0
    assert "NO." in capsys.readouterr().out
