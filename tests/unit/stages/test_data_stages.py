"""The two stages by hand: files, manifests, and the same bytes twice."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from support.oasst_trees import bot, tree, user
from support.written import write_rows

from rlhf.core.digest import describe_tree
from rlhf.core.files import read_json, write_json
from rlhf.data.labels import IGNORED
from rlhf.data.left_out import DUPLICATES, read_left_out
from rlhf.data.rows import Conversation, Message, Prompt
from rlhf.data.rows_file import read_all
from rlhf.data.split import group_of
from rlhf.errors import ConfigError, DataError, IntegrityError
from rlhf.provenance.manifest import verify
from rlhf.runtime import pool
from rlhf.stages import fetch_data, find_duplicates, tokenize
from rlhf.stages.stage import parse
from rlhf.stages.training import messages_of

VIEW_LENGTHS = {"conversation": 80, "preference": 90, "prompt": 40}


def line(config, outputs, **inputs):
    """The command line of a rule."""
    words = ["--name", "toy", "--config", json.dumps(config)]
    for option, paths in (("--output", outputs), ("--input", inputs)):
        for role, path in paths.items():
            words += [option, role, str(path)]
    return words


def stage(config, outputs, **inputs):
    """A stage as the command line of a rule makes it."""
    return parse(line(config, outputs, **inputs))[0]


def trees(count):
    for i in range(count):
        deeper = user(f"r{i}", bot(f"s{i}"), text="and then? " * (1 + i % 9))
        replies = [bot(f"a{i}", 0, deeper), bot(f"b{i}", 1), bot(f"c{i}", 2, text=f"a{i} " * 9)]
        yield tree(user(f"q{i}", *replies, text=f"question number {i % 30}"))


@pytest.fixture
def fetch(write_lines, tmp_path):
    def fetch(folder="dataset", lines=None, stage_split=None, **options):
        path = write_lines(*(trees(60) if lines is None else lines))
        out = tmp_path / folder
        config = {"format": "oasst", "path": str(path), "options": options}
        config |= {"validation_fraction": 0.2, "split_salt": "", "stage_split": stage_split}
        files = {"rows": "rows", "statistics": "statistics.json", "manifest": "manifest.json"}
        fetch_data.run(stage(config, {role: out / name for role, name in files.items()}))
        return out

    return fetch


@pytest.fixture
def model(make_tokenizer, tmp_path):
    make_tokenizer("chatml").save_pretrained(tmp_path / "base" / "model")
    write_json(tmp_path / "base" / "manifest.json", {"schema": 1, "facts": {}})
    return tmp_path / "base"


def tokenize_line(view, data: Path, model: Path, out: Path, **config):
    """Configuration, outputs and inputs of one run of the stage."""
    config = {"view": view, "max_length": VIEW_LENGTHS[view], "overlong": "truncate"} | config
    if view == "preference":
        config |= {"max_replies": 2}
    outputs = {"data": out / "data", "manifest": out / "manifest.json"}
    inputs = {"model": model / "manifest.json", "data": data / "manifest.json"}
    return line(config, outputs, **inputs)


def run_tokenize(view, data: Path, model: Path, out: Path, **config):
    tokenize.run(parse(tokenize_line(view, data, model, out, **config))[0])
    return read_json(out / "manifest.json")


def test_fetch_data(fetch, tmp_path):
    out = fetch()
    manifest, statistics = read_json(out / "manifest.json"), read_json(out / "statistics.json")
    source = tmp_path / "data.jsonl"
    assert manifest["facts"]["source"] == {
        "path": str(source),
        "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
    }
    rows = manifest["counts"]["rows"]
    assert {view: sum(splits.values()) for view, splits in rows.items()} == {
        "conversation": 180,
        "preference": 60,
        "feedback": 0,
        "prompt": 120,
    }
    assert not any(rows.pop("feedback").values())
    assert all(splits["train"] and splits["validation"] for splits in rows.values())
    assert not verify(out)
    preference = statistics["views"]["preference"]["train"]
    assert preference["rows"] == rows["preference"]["train"]
    assert preference["replies"] == {"3": preference["rows"]}
    assert statistics["views"]["conversation"]["train"]["turns"].keys() == {"2", "4"}
    assert preference["characters_max"] >= preference["characters_mean"] > 0
    assert statistics["views"]["prompt"]["train"]["duplicates"] > 0
    assert manifest["counts"]["duplicates"]["prompt"] == 30
    assert statistics["dropped"] == {}


def test_dropped_rows_are_in_statistics_and_manifest(fetch):
    tie = tree(user("x", bot("y", 0), bot("z", 0)))
    out = fetch(lines=[*trees(20), tie, "{"], invalid="drop")
    assert read_json(out / "statistics.json")["dropped"] == {"json": 1, "rank_tied": 2}
    assert read_json(out / "manifest.json")["counts"]["dropped"] == {"json": 1, "rank_tied": 2}


def test_every_row_and_file_is_in_statistics_and_manifest(tmp_path):
    """Read = used + left out; and a file that is not read has a name."""
    folder, out = tmp_path / "set", tmp_path / "out"
    folder.mkdir()
    rows = [json.dumps({"question": f"q{i}", "answer": "a"}) for i in range(20)]
    (folder / "train-0.jsonl").write_text("\n".join([*rows, "{"]))
    (folder / "train-1.jsonl").write_text(json.dumps({"question": "q", "answer": ""}))
    (folder / "test.jsonl").write_text(rows[0])
    files = {"rows": "rows", "statistics": "statistics.json", "manifest": "manifest.json"}
    config = {"path": str(folder), "format": "qa", "options": {"invalid": "drop"}}
    config |= {"validation_fraction": 0.2, "split_salt": "s"}
    fetch_data.run(stage(config, {key: out / name for key, name in files.items()}))
    statistics, manifest = read_json(out / "statistics.json"), read_json(out / "manifest.json")
    assert statistics["files"] == {
        "train-0.jsonl": {"rows": 21, "used": 20, "left_out": {"json": 1}},
        "train-1.jsonl": {"rows": 1, "used": 0, "left_out": {"text_empty": 1}},
    }
    assert manifest["counts"]["read"] == {
        "files": 2, "rows": 22, "used": 20, "left_out": {"json": 1, "text_empty": 1}
    }  # fmt: skip
    assert list(manifest["facts"]["source"]["files"]) == ["train-0.jsonl", "train-1.jsonl"]
    assert statistics["not_read"] == manifest["facts"]["not_read"]
    assert statistics["not_read"]["test.jsonl"].startswith("for evaluation by its name")


def test_failed_fetch_leaves_nothing(fetch, tmp_path):
    with pytest.raises(DataError, match=r"data\.jsonl:21:2"):
        fetch(lines=[*trees(20), "{"])
    assert not list((tmp_path / "dataset").iterdir())


@pytest.mark.parametrize("view", VIEW_LENGTHS)
def test_tokenize(fetch, model, tmp_path, view, make_tokenizer):
    """Checklist 7"""
    data = fetch()
    manifest = run_tokenize(view, data, model, tmp_path / view)
    tokenizer = make_tokenizer("chatml")
    assert not verify(tmp_path / view)
    assert manifest["facts"] == tokenize.tokenizer_facts(tokenizer)
    assert manifest["facts"]["eos_token_id"] == tokenizer.eos_token_id
    truncated = 0
    for split in ("train", "validation"):
        counts = manifest["counts"][split]
        opened = datasets.load_from_disk(str(tmp_path / view / "data" / split))
        assert len(opened) == counts["rows"] == counts["source_rows"] - counts["dropped"] > 0
        truncated += counts["truncated"]
        assert len(set(opened["id"])) == len(opened)
        for row in opened:
            if view == "preference":
                longest = max(map(len, row["reply_ids"]))
                assert len(row["history_ids"]) + longest <= VIEW_LENGTHS[view]
                assert len(row["reply_ids"]) == 2
                assert all(ids[-1] == tokenizer.eos_token_id for ids in row["reply_ids"])
            else:
                assert 0 < len(row["input_ids"]) <= VIEW_LENGTHS[view]
        if view == "conversation":
            assert all(any(x != IGNORED for x in labels) for labels in opened["labels"])
            assert 0 < counts["label_share"] < 1
            assert counts["tokens"] == sum(map(len, opened["input_ids"]))
    assert truncated > 0 or view == "preference"  # its questions are too short to cut


def test_tags_and_prefix_come_from_the_configuration(fetch, model, tmp_path, make_tokenizer):
    config = {
        "reply_tags": {"dropout": 0.0, "length": False},
        "system_prefix": "Be kind.",
        "random_offset": 0.5,
        "seed": 3,
        "min_prefix": 2,
    }
    run_tokenize("conversation", fetch(), model, tmp_path / "out", **config)
    tokenizer = make_tokenizer("chatml")
    start = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n"
    tag = "<|im_start|>system\nlang: en\n<|im_end|>\n<|im_start|>assistant\n"
    opened = datasets.load_from_disk(str(tmp_path / "out" / "data" / "train"))
    for row in opened:
        text = tokenizer.decode(row["input_ids"])
        assert text.startswith(start)
        assert text.count(tag) == text.count("<|im_start|>assistant")
    ways = read_json(tmp_path / "out" / "manifest.json")["counts"]["train"]["truncations"]
    assert ways.keys() <= {"offset", "question", "turns"}
    assert ways


@pytest.mark.parametrize("view", VIEW_LENGTHS)
def test_two_runs_give_the_same_bytes(fetch, model, tmp_path, view):
    first, second = fetch("one"), fetch("two")
    assert describe_tree(first / "rows") == describe_tree(second / "rows")
    assert (first / "manifest.json").read_bytes() == (second / "manifest.json").read_bytes()
    for name, data in (("a", first), ("b", second)):
        run_tokenize(view, data, model, tmp_path / name)
    trees = [describe_tree(tmp_path / name) for name in "ab"]
    for one in trees:
        one.pop("run.json")
    assert trees[0] == trees[1]


def test_the_stage_does_without_torch(fetch, model, tmp_path):
    """Which takes longer to import than all else that it does, and changes no byte."""
    data = fetch()
    run_tokenize("prompt", data, model, tmp_path / "here")
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "rlhf.stages.tokenize",
         *tokenize_line("prompt", data, model, tmp_path / "alone")],
        capture_output=True, text=True, env=os.environ,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert " transformers\n" in done.stderr
    assert " torch\n" not in done.stderr
    assert "PyTorch" not in done.stderr
    assert describe_tree(tmp_path / "here/data") == describe_tree(tmp_path / "alone/data")


def test_bytes_do_not_depend_on_the_number_of_processes(fetch, model, tmp_path, monkeypatch):
    monkeypatch.setattr("rlhf.data.rows_file.ROW_GROUP", 16)
    monkeypatch.setattr(tokenize, "GROUPS_A_PROCESS", 2)
    data, processes = fetch(), []

    def in_order(work, items, count):
        processes.append(count)
        return pool.in_order(work, items, count)

    monkeypatch.setattr(tokenize, "in_order", in_order)
    for threads in ("1", "2"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        run_tokenize("preference", data, model, tmp_path / threads)
    assert processes == [1, 2]
    trees = [describe_tree(tmp_path / threads) for threads in ("1", "2")]
    for one in trees:
        one.pop("run.json")
    assert trees[0] == trees[1]


def test_short_conversations_are_joined_to_training_rows(fetch, model, tmp_path):
    data, out = fetch(), tmp_path / "joined"
    plain = run_tokenize("conversation", data, model, tmp_path / "plain", max_length=160)
    mixing = {
        "max_length": 160,
        "samples_mixing": {"shorter_than": 40, "probability": 0.6},
    }
    manifest = run_tokenize("conversation", data, model, out, **mixing)
    sets = {name: datasets.load_from_disk(str(tmp_path / name / "data" / "train"))
            for name in ("plain", "joined")}  # fmt: skip
    alone = {row["id"]: row for row in sets["plain"]}
    joined = [row for row in sets["joined"] if len(row["samples"]) > 1]
    assert sorted(one for row in sets["joined"] for one in row["samples"]) == sorted(alone)
    assert max(len(row["samples"]) for row in joined) > 2, "as many as fit"
    for row in sets["joined"]:
        own = [alone[one] for one in row["samples"]]
        assert row["id"] == row["samples"][0]
        assert row["input_ids"] == [token for one in own for token in one["input_ids"]]
        assert len(row["input_ids"]) <= 160
        first = [own[0]["labels"][0], *[IGNORED] * (len(own) - 1)]
        labels = [[label, *one["labels"][1:]] for label, one in zip(first, own, strict=True)]
        assert row["labels"] == [label for part in labels for label in part]
        if len(own) > 1:
            assert all(len(one["input_ids"]) < 40 for one in own)
    short = [one for one in alone.values() if len(one["input_ids"]) < 40]
    together = sum(len(row["samples"]) for row in joined)
    assert 0.4 * len(short) < together < 0.8 * len(short)
    counts, before = manifest["counts"]["train"], plain["counts"]["train"]
    assert counts["joined"] == len(alone) - len(sets["joined"]) == before["rows"] - counts["rows"]
    assert counts | {"joined": 0, "rows": 0} == before | {"joined": 0, "rows": 0}
    held_out = datasets.load_from_disk(str(out / "data" / "validation"))
    assert all(row["samples"] == [row["id"]] for row in held_out)
    assert "joined" not in manifest["counts"]["validation"] | before
    assert "samples" not in sets["plain"].column_names
    again = run_tokenize("conversation", data, model, tmp_path / "again", **mixing)
    assert again["files"] == manifest["files"]


def test_no_group_is_in_two_splits_of_any_view(fetch, model, tmp_path):
    """Checklist 8. Ids of all views and splits lead back to root prompts; none is on both sides."""
    data = fetch()
    sides: dict[str, set[int]] = {"train": set(), "validation": set()}
    for view in VIEW_LENGTHS:
        run_tokenize(view, data, model, tmp_path / view)
        for split, roots in sides.items():
            opened = datasets.load_from_disk(str(tmp_path / view / "data" / split))
            roots |= {int(one[1:]) % 30 for one in opened["id"]}
    assert len(sides["train"] | sides["validation"]) == 30
    assert not sides["train"] & sides["validation"]


def test_stages_draw_from_parts_that_share_no_tree(fetch):
    parts = {"conversation": 2, "preference": 4, "prompt": 4}
    whole, parted = read_all(fetch("whole") / "rows"), fetch("parted", stage_split=parts)
    train, held = (read_all(parted / "rows", split) for split in ("train", "validation"))
    views = [train.conversations, train.preferences, train.prompts]
    groups = [{row.group for row in rows} for rows in views]
    assert all(groups)
    assert len(set().union(*groups)) == sum(map(len, groups)) < 30
    assert {row.group for row in held.prompts} == {row.group for row in held.conversations}
    counts = read_json(parted / "manifest.json")["counts"]
    gone = counts["left_to_other_stages"]
    assert gone["conversation"] + counts["rows"]["conversation"]["train"] + len(
        held.conversations
    ) == len(whole.conversations)
    assert set(train.preferences) < set(whole.preferences)


class TestFindDuplicates:
    @pytest.fixture
    def sets(self, tmp_path):
        """Two sets: copies within and between them, and a prompt that only one holds out."""
        long = " ".join(f"word{i}" for i in range(50))

        def talk(id_, question, answer):
            messages = (Message("user", question), Message("assistant", answer))
            return Conversation(id_, group_of(question), messages)

        rows = {
            "a": [
                (talk("1", "one?", "First."), "train"),
                (talk("2", "ONE?", "first."), "train"),
                (talk("3", "two?", long), "train"),
                (talk("4", "three?", "Third."), "validation"),
                (talk("5", "three?", "Third."), "validation"),
            ],
            "b": [
                (talk("1", "Two!", f"{long} end"), "train"),
                (talk("2", "Three?", "Something else."), "train"),
                (talk("3", "four?", "Fourth."), "train"),
                (talk("4", "one?", "first."), "train"),
            ],
        }
        for name, pairs in rows.items():
            (tmp_path / name / "rows").mkdir(parents=True)
            write_rows(tmp_path / name / "rows", pairs)
            write_json(tmp_path / name / "manifest.json", {"schema": 1})
        return [tmp_path / name / "manifest.json" for name in rows]

    def run(self, sets, out, remove):
        config = {"view": "conversation", "remove": remove, "threshold": 0.8, "words": 5}
        line = ["--name", "sft.chat", "--config", json.dumps(config)]
        line += ["--input", "rows", *map(str, sets)]
        line += ["--output", "duplicates", str(out / DUPLICATES)]
        line += ["--output", "manifest", f"{out}/manifest.json"]
        find_duplicates.run(parse(line)[0])
        return read_left_out(out / DUPLICATES), read_json(out / "manifest.json")["counts"]

    def test_exact(self, sets, tmp_path):
        left_out, counts = self.run(sets, tmp_path / "out", "exact")
        assert left_out == {"a": {"2"}, "b": {"2", "4"}}
        assert counts["a"] == {"rows": 3, "exact": 1, "near": 0, "held_out": 0}
        assert counts["b"] == {"rows": 4, "exact": 1, "near": 0, "held_out": 1}
        lines = (tmp_path / "out" / DUPLICATES).read_text().splitlines()
        assert [json.loads(line).get("of", {}).get("id") for line in lines] == ["1", None, "1"]

    def test_near(self, sets, tmp_path):
        left_out, counts = self.run(sets, tmp_path / "out", "near")
        assert left_out == {"a": {"2"}, "b": {"1", "2", "4"}}
        assert counts["b"]["near"] == 1
        assert not verify(tmp_path / "out")
        again = self.run(list(reversed(sets)), tmp_path / "again", "near")
        assert again == (left_out, counts)


class TestRefusals:
    def test_everything_too_long(self, fetch, model, tmp_path):
        with pytest.raises(DataError, match=r"rows of train were dropped: {'overlong': \d+}"):
            run_tokenize("conversation", fetch(), model, tmp_path / "out", max_length=8)
        assert not (tmp_path / "out" / "manifest.json").exists()
        assert not (tmp_path / "out" / "data").exists()

    def test_view_without_rows(self, fetch, model, tmp_path):
        data = fetch(lines=[tree(user("q", bot("a")))])
        with pytest.raises(DataError, match="no rows for the view 'preference'"):
            run_tokenize("preference", data, model, tmp_path / "out")

    def test_a_template_that_cuts_a_text(self, fetch, make_tokenizer, tmp_path):
        tokenizer = make_tokenizer("chatml")
        whole = "message.content + '<|im_end|>' -}}\n        {%- endgeneration"
        assert whole in tokenizer.chat_template
        tokenizer.chat_template = tokenizer.chat_template.replace(
            whole, whole.replace("content", "content.split('</think>')[-1]")
        )
        base = tmp_path / "thinking"
        tokenizer.save_pretrained(base / "model")
        write_json(base / "manifest.json", {"schema": 1, "facts": {}})
        assert run_tokenize("conversation", fetch(), base, tmp_path / "fine")["counts"]["train"][
            "rows"
        ]
        thought = tree(user("q", bot("odd", text="<think>1</think>2")))
        data = fetch("thoughts", lines=[*trees(20), thought])
        with pytest.raises(DataError, match="does not write a row's texts") as error:
            run_tokenize("conversation", data, base, tmp_path / "out")
        assert "odd" in str(error.value)
        assert "models.thinking.template" in str(error.value)
        assert not (tmp_path / "out" / "manifest.json").exists()

    def test_overlong_is_an_error(self, fetch, model, tmp_path):
        with pytest.raises(DataError, match="at most 20 tokens"):
            run_tokenize(
                "conversation", fetch(), model, tmp_path / "o", max_length=20, overlong="error"
            )

    @pytest.mark.parametrize("view", VIEW_LENGTHS)
    def test_rows_longer_than_the_models_context(self, fetch, model, tmp_path, view):
        from transformers import GPT2Config

        GPT2Config(n_positions=VIEW_LENGTHS[view]).save_pretrained(model / "model")
        run_tokenize(view, fetch(), model, tmp_path / "out")
        GPT2Config(n_positions=VIEW_LENGTHS[view] - 1).save_pretrained(model / "model")
        with pytest.raises(ConfigError, match=r"models\.base takes at most") as caught:
            run_tokenize(view, fetch("again"), model, tmp_path / "again")
        assert f"where:    tokenization.{view}.max_length" in str(caught.value)

    def test_missing_model_folder(self, fetch, model, tmp_path):
        (model / "model").rename(model / "moved")
        with pytest.raises(IntegrityError, match="folder is missing"):
            run_tokenize("conversation", fetch(), model, tmp_path / "out")

    def test_edited_tokenizer(self, fetch, model, tmp_path):
        facts = {"template_digest": "0" * 64}
        write_json(model / "manifest.json", {"schema": 1, "facts": facts})
        with pytest.raises(IntegrityError, match="template_digest"):
            run_tokenize("conversation", fetch(), model, tmp_path / "out")


def test_messages_of_prompts_whose_ids_recur_in_another_dataset(tmp_path):
    dialogues = {
        name: (Message("system", "Be kind."), Message("user", f"I am from {name}."))
        for name in ("a", "b")
    }
    for name, messages in dialogues.items():
        (tmp_path / name / "rows").mkdir(parents=True)
        write_rows(tmp_path / name / "rows", [(Prompt("1/1", "g", messages), "train")])
    line = ["--name", "x", "--config", "{}", "--output", "manifest", f"{tmp_path}/manifest.json"]
    line += ["--input", "rows", *(f"{tmp_path}/{name}/manifest.json" for name in dialogues)]
    found = messages_of(parse(line)[0], [{"dataset": name, "id": "1/1"} for name in "bab"])
    assert [messages[1]["content"] for messages in found] == [
        f"I am from {name}." for name in "bab"
    ]
    assert found[0][0] == {"role": "system", "content": "Be kind."}
