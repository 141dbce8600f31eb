"""Too few rows are found before anything trains, with advice that is right."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest
from support.oasst_trees import bot, tree, user

from rlhf.config.load import load_config
from rlhf.core.files import read_json, write_json
from rlhf.data.enough import demonstrations, require_training
from rlhf.data.mixture import Mixture, Share
from rlhf.errors import DataError
from rlhf.pipeline.following import rows_needed
from rlhf.stages import check_rows, fetch_data, find_duplicates, tokenize
from rlhf.stages.stage import parse

CONFIG = {
    "models": {"tiny": {"source": {"path": "x"}}},
    "datasets": {"toy": {"path": "x", "format": "oasst"}},
    "sft": {"chat": {"model": "tiny", "data": {"toy": {}}}},
    "reward": {"helpful": {"sft": "chat", "data": {"toy": {}}}},
    "ppo": {"final": {"sft": "chat", "reward": "helpful", "data": {"toy": {}}}},
    "evaluation": {"final": {"ppo": "final"}},
}
RUNS = ["sft.chat", "reward.helpful", "ppo.final", "evaluation.final"]


def stage(name, config, outputs, *inputs):
    line = ["--name", name, "--config", json.dumps(config)]
    for role, path in outputs.items():
        line += ["--output", role, str(path)]
    for role, path in inputs:
        line += ["--input", role, str(path)]
    return parse(line)[0]


@pytest.fixture
def build(tmp_path, make_tokenizer):
    """Everything up to the tokenized views, by the real stages, of trees with these prompts."""

    def build(prompts, replies=lambda i: (f"good {i}", f"bad {i}"), remove="none", **dataset):
        root = tmp_path / "results"
        source = tmp_path / "trees.jsonl"
        lines = [
            tree(user(f"q{i}", *(bot(f"{r}{i}", r, text=text)
                                 for r, text in enumerate(replies(i))), text=prompt))
            for i, prompt in enumerate(prompts)
        ]  # fmt: skip
        source.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        data = root / "datasets/toy"
        config = {"format": "oasst", "path": str(source), "options": {"top_k": 1}}
        config |= {"validation_fraction": 0.2, "split_salt": "", "stage_split": None} | dataset
        made = {"rows": "rows", "statistics": "statistics.json", "manifest": "manifest.json"}
        fetch_data.run(stage("toy", config, {role: data / name for role, name in made.items()}))
        make_tokenizer("chatml").save_pretrained(root / "models/tiny/model")
        base = root / "models/tiny/manifest.json"
        write_json(base, {"schema": 1, "facts": {}})
        inputs = []
        for view in ("conversation", "preference", "prompt"):
            out = root / "tokenized" / view / "tiny/toy"
            config = {"view": view, "max_length": 90, "overlong": "truncate", "max_replies": 2}
            tokenize.run(
                stage("toy", config, {"data": out / "data", "manifest": out / "manifest.json"},
                      ("model", base), ("data", data / "manifest.json"))
            )  # fmt: skip
            inputs.append(("tokenized", out / "manifest.json"))
        if remove != "none":
            out = root / "duplicates/sft.chat"
            find_duplicates.run(
                stage("sft.chat",
                      {"view": "conversation", "remove": remove, "threshold": 1, "words": 5},
                      {"duplicates": out / "duplicates.jsonl", "manifest": out / "manifest.json"},
                      ("rows", data / "manifest.json"))
            )  # fmt: skip
            inputs.append(("duplicates", out / "manifest.json"))
        return root, inputs

    return build


def check(built, run="sft.chat", **changes):
    root, inputs = built
    config = load_config({**CONFIG, **changes})
    out = root / "rows" / run
    needs = {"runs": rows_needed(config, *run.split("."))}
    outputs = {"rows": out / "rows.json", "manifest": out / "manifest.json"}
    check_rows.run(stage(run, needs, outputs, *inputs))
    return read_json(out / "rows.json")


@pytest.mark.parametrize(("label", "known"), [(True, "desirable"), (False, "undesirable")])
def test_feedback_of_one_label_is_refused(tmp_path, label, known):
    """Before anything trains, by ``check_rows`` too; a set may have one label beside another."""
    rows = [{"id": str(i), "history_ids": [1], "reply_ids": [[2]]} for i in range(4)]
    for name, labels in (("one", [label] * 4), ("other", [not label] * 3 + [label])):
        marked = [row | {"desirable": own} for row, own in zip(rows, labels, strict=True)]
        datasets.Dataset.from_list(marked).save_to_disk(str(tmp_path / name / "train"))
    one = Mixture({"one": tmp_path / "one"}, {}, "train")
    expected = rf"All 4 replies to train on are {known}\.(.|\n)*options\.feedback: best"
    with pytest.raises(DataError, match=expected):
        require_training("kto.yes", [], one)
    folders = {name: tmp_path / name for name in ("one", "other")}
    require_training("kto.yes", [], Mixture(folders, {}, "train"))
    # Rows that are left out are not there: the other set's good or bad ones are none of these.
    left = {"other": {"0", "1", "2"}}
    with pytest.raises(DataError, match="All 5 replies"):
        require_training("kto.yes", [], Mixture(folders, {}, "train", left))
    weighed = Mixture(folders, {"one": Share(weight=1), "other": Share(weight=3)}, "train")
    share = 1 / 4 + 3 / 4 * 1 / 4
    assert weighed.true_share("desirable") == pytest.approx(share if label else 1 - share)
    assert weighed.true_share("another") is None


PROMPTS = [f"Question number {i}?" for i in range(40)]


def test_what_is_needed_follows_the_runs_that_build_on_one():
    config = load_config(CONFIG)
    assert list(rows_needed(config, "sft", "chat")) == RUNS
    assert list(rows_needed(config, "reward", "helpful")) == RUNS[1:]
    assert list(rows_needed(config, "ppo", "final")) == RUNS[2:]
    again = {"chat": CONFIG["sft"]["chat"], "more": {"sft": "chat", "data": {"toy": {}}}}
    more = load_config({**CONFIG, "sft": again})
    assert set(rows_needed(more, "sft", "chat")) == {*RUNS, "sft.more"}
    assert list(rows_needed(more, "sft", "more")) == ["sft.more"]


def test_enough_rows_are_counted(build):
    found = check(build(PROMPTS))
    held_out = found["reward.helpful"]["demonstrations"]
    assert 2 <= held_out < 40
    assert found == {
        "sft.chat": {"train": 40 - held_out},
        "reward.helpful": {"train": 40 - held_out, "demonstrations": held_out},
        "ppo.final": {"train": 40 - held_out},
        "evaluation.final": {"prompts": held_out},
    }


def test_a_reward_model_without_held_out_demonstrations_is_refused_before_sft(build):
    built = build(PROMPTS[:5], validation_fraction=0.0)
    with pytest.raises(DataError, match="no held-out demonstrations") as caught:
        check(built)
    assert "reward.helpful.data: toy" in str(caught.value)
    for advice in ("validation_fraction", "split_salt", "prompts"):
        assert advice in caught.value.hint
    assert not (built[0] / "rows/sft.chat/manifest.json").exists()
    alone = {section: {} for section in ("reward", "ppo", "evaluation")}
    assert check(built, **alone) == {"sft.chat": {"train": 5}}  # SFT by itself needs none


def test_a_reward_model_without_scores_of_replies_is_refused_before_sft(build):
    judge = {"sft": "chat", "data": {"toy": {}}, "loss": {"kind": "regression"}}
    with pytest.raises(DataError, match=r"have no scores, which `loss.kind: regression`") as caught:
        check(build(PROMPTS), reward={"helpful": judge})
    assert "reward.helpful.data" in str(caught.value)


def test_an_evaluation_without_held_out_prompts_is_refused_before_ppo(build):
    with pytest.raises(DataError, match="no held-out prompts") as caught:
        check(build(PROMPTS[:5], validation_fraction=0.0), "ppo.final")
    assert "evaluation.final.data: toy" in str(caught.value)
    assert "validation_fraction" in caught.value.hint


def test_held_out_demonstrations_that_are_all_alike(build):
    salt = next(
        s for s in map(str, range(99))
        if _held_out(["hi"], 0.2, s) and not any(_held_out([p], 0.2, s) for p in PROMPTS[:4])
    )  # fmt: skip
    built = build(["Hi", "Hi", *PROMPTS[:4]], lambda i: (f"Hi {i}.", f"no {i}"), split_salt=salt)
    with pytest.raises(DataError, match=r"The 2 held-out demonstrations .* one prompt") as caught:
        check(built)
    assert "prompts" in caught.value.hint
    built = build(["Hi", "Hi", *PROMPTS[:4]], lambda i: ("Hello.", f"no {i}"), split_salt=salt)
    with pytest.raises(DataError, match=r"The 2 held-out demonstrations .* all alike"):
        check(built)


def _held_out(prompts, fraction, salt):
    from rlhf.data.split import group_of, split_of

    return any(split_of(group_of(p), fraction, salt) == "validation" for p in prompts)


def test_all_rows_are_held_out_for_what_they_are(build):
    salt = next(s for s in map(str, range(99)) if _held_out(["One prompt"], 0.2, s))
    built = build(["One prompt"] * 6, split_salt=salt)
    with pytest.raises(DataError, match="no rows to train on: all 6 rows are held out") as caught:
        check(built)
    assert "validation_fraction" in caught.value.hint
    assert "stage_split" not in str(caught.value)
    assert "duplicates" not in str(caught.value)


def test_all_rows_are_left_to_other_stages(build):
    built = build(PROMPTS, stage_split={"conversation": 0, "preference": 1, "prompt": 1})
    with pytest.raises(DataError, match=r"`stage_split` left \d+ rows to other stages") as caught:
        check(built)
    assert "raise this stage's part" in caught.value.hint
    assert "duplicates" not in str(caught.value)


def test_all_rows_are_copies(build):
    salt = next(s for s in map(str, range(99)) if _held_out(["One?"], 0.5, s)
                and not _held_out(["One!"], 0.5, s))  # fmt: skip
    built = build(["One?", *["One!"] * 3], lambda i: ("Yes.", f"no {i}"), "near",
                  validation_fraction=0.5, split_salt=salt)  # fmt: skip
    with pytest.raises(DataError, match="are copies of others or of held-out rows") as caught:
        check(built)
    assert "sft.chat.duplicates" in caught.value.hint
    assert "stage_split" not in str(caught.value)


def save(folder: Path, name: str, count: int, reply: int = 7) -> Path:
    rows = [
        {"id": str(i), "input_ids": [5, 10 + i, 6, reply, 2], "labels": [-100] * 3 + [reply, 2]}
        for i in range(count)
    ]
    datasets.Dataset.from_list(rows).save_to_disk(str(folder / name / "validation"))
    return folder / name


def test_demonstrations_are_chosen_over_the_whole_mixture(tmp_path):
    """By hash: the first by name would be all of one set."""
    folders = {name: save(tmp_path, name, 300) for name in ("a", "b")}
    found = demonstrations("reward.r", Mixture(folders, {}, "validation"), 256)
    of = [row["dataset"] for row in found.rows]
    assert len(of) == 256
    assert 90 < of.count("a") < 166
    again = demonstrations("reward.r", Mixture(folders, {}, "validation"), 64)
    assert again.rows == found.rows[:64]
    assert found.warning is None


def test_few_demonstrations_are_told_of(tmp_path):
    folders = {"a": save(tmp_path, "a", 2)}
    found = demonstrations("reward.r", Mixture(folders, {}, "validation"), 256)
    assert (found.different, found.prompts) == (2, 2)
    assert "calibrated on 2 different held-out demonstrations of 2 prompts" in found.warning
    folders["b"] = save(tmp_path, "b", 9)
    assert demonstrations("r", Mixture(folders, {}, "validation"), 256).warning is not None
    folders["b"] = save(tmp_path, "b", 10)
    assert demonstrations("r", Mixture(folders, {}, "validation"), 256).warning is None
