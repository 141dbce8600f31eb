from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from rlhf.algorithms.reward import score_rows
from rlhf.cli import main
from rlhf.core.files import write_json
from rlhf.data.encoding import encode_prompt, encode_reply
from rlhf.data.rows import Message
from rlhf.evaluation.sampling_report import SamplingResult, sampling_report
from rlhf.models.load import load_tokenizer
from rlhf.models.publish import save_model
from rlhf.models.reward import load_reply_scorer, new_reply_scorer, save_calibration

PAIRS = [
    {"prompt": f"How many legs have {what}?", "chosen": good, "rejected": bad}
    for what, good, bad in (
        ("spiders", "They have eight legs.", "Legs."),
        ("dogs", "Four.", "They have eight legs. How many? They have eight legs."),
        ("they", "How?", "Spiders!"),
    )
]


@pytest.fixture(scope="module")
def reward(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a reward run of the tiny model."""
    folder = tmp_path_factory.mktemp("project") / "results/reward/helpful"
    scorer = new_reply_scorer(model, seed=2)
    (folder / "model").mkdir(parents=True)
    weights = scorer.model.named_parameters()
    save_model(scorer, weights, load_tokenizer(model), folder / "model")
    save_calibration(folder / "model", 0.5, 2.0)
    return folder


def expected(reward: Path) -> list[list[float]]:
    tokenizer, scorer = load_tokenizer(reward / "model"), load_reply_scorer(reward / "model")
    rows = []
    for pair in PAIRS:
        history = [Message("user", pair["prompt"])]
        replies = [encode_reply(tokenizer, history, pair[key]) for key in ("chosen", "rejected")]
        rows.append({"history_ids": encode_prompt(tokenizer, history), "reply_ids": replies})
    with torch.no_grad():
        return [scores.tolist() for scores in score_rows(scorer, rows)]


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def test_pairs(reward, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(reward.parents[2])
    file, known = write(tmp_path / "pairs.jsonl", PAIRS), expected(reward)
    assert main(["score", "reward.helpful", str(file), "--max-tokens", "64"]) == 0
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["row"] for line in lines] == ["1", "2", "3"]
    for line, scores in zip(lines, known, strict=True):
        assert line["scores"] == pytest.approx(scores, abs=1e-5)
        assert line["rewards"] == pytest.approx([(s - 0.5) / 2 for s in scores], abs=1e-5)
    right = sum(better > worse for better, worse in known)
    assert f"accuracy {right / 3:.1%} [" in err
    assert "on 3 pairs: pairs" in err
    assert err.startswith("3 rows, 6 replies, mean reward ")
    assert "spearman" in err

    # A folder, and what pairs are reversed, in a file.
    turned = [pair | {"chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in PAIRS]
    file = write(tmp_path / "turned.jsonl", turned)
    assert main(["score", str(reward), str(file), "--output", str(tmp_path / "scores")]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert f"accuracy {1 - right / 3:.1%} [" in err
    lines = [json.loads(line) for line in (tmp_path / "scores").read_text().splitlines()]
    assert [line["tokens"][::-1] for line in lines] == [len_of(reward, pair) for pair in PAIRS]


def len_of(reward: Path, pair: dict) -> list[int]:
    tokenizer, history = load_tokenizer(reward / "model"), [Message("user", pair["prompt"])]
    return [len(encode_reply(tokenizer, history, pair[key])) for key in ("chosen", "rejected")]


def test_conversations_and_options(reward, tmp_path, capsys):
    rows = [
        {"talk": [{"role": "user", "content": pair["prompt"]},
                  {"role": "assistant", "content": pair["chosen"]}]}
        for pair in PAIRS
    ]  # fmt: skip
    file = write(tmp_path / "talks.jsonl", rows)
    argv = ["score", str(reward / "model"), str(file), "--format", "messages"]
    assert main([*argv, "--option", "column=talk"]) == 0
    out, err = capsys.readouterr()
    found = [json.loads(line)["scores"] for line in out.splitlines()]
    assert [one for (one,) in found] == pytest.approx([a for a, _ in expected(reward)], abs=1e-5)
    assert "accuracy" not in err


def test_a_sampling_report(reward, tmp_path, capsys):
    """Open-Assistant's form, as evaluations write it: a mean for each configuration."""
    prompts = [
        (pair["prompt"], [SamplingResult("sft", {}, [pair["rejected"]]),
                          SamplingResult("ppo", {}, [pair["chosen"], pair["rejected"]])])
        for pair in PAIRS
    ]  # fmt: skip
    write_json(tmp_path / "report.json", sampling_report("m", {}, prompts))
    argv = ["score", str(reward), str(tmp_path / "report.json"), "--format", "sampling-report"]
    assert main(argv) == 0
    out, err = capsys.readouterr()
    found = {line["row"]: line["scores"] for line in map(json.loads, out.splitlines())}
    known = expected(reward)
    for number, (good, bad) in enumerate(known, start=1):
        assert found[f"{number} sft"] == pytest.approx([bad], abs=1e-5)
        assert found[f"{number} ppo"] == pytest.approx([good, bad], abs=1e-5)
    means = {"sft": [b for _, b in known], "ppo": [s for pair in known for s in pair]}
    for name, scores in means.items():
        said = re.search(rf"{name}: {len(scores)} replies, mean reward (\S+)\n", err)
        mean = sum((s - 0.5) / 2 for s in scores) / len(scores)
        assert float(said[1]) == pytest.approx(mean, abs=1e-3)
    (tmp_path / "report.json").write_text('{"prompts": [{"prompt": "p"}]}')
    assert main(argv) == 2
    assert "no sampling report: KeyError: 'results'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "argv", "message"),
    [
        ([*PAIRS, PAIRS[0] | {"rejected": "legs " * 3000}], [], "more than the model takes"),
        ([*PAIRS, {"prompt": "p", "chosen": "a"}], [], "pairs.jsonl:4"),
        (PAIRS, ["--format", "pairs"], "'pairs' is not known"),
        (PAIRS, ["--option", "chosen"], "This option can't be read: 'chosen'"),
    ],
)
def test_errors_name_what_is_wrong(reward, tmp_path, capsys, rows, argv, message):
    file = write(tmp_path / "pairs.jsonl", rows)
    assert main(["score", str(reward), str(file), *argv]) == 2
    error = capsys.readouterr().err
    assert message in error
    if "takes" in message:
        assert "row 4" in error


def test_a_model_that_is_none(model, reward, tmp_path, capsys):
    file = write(tmp_path / "pairs.jsonl", PAIRS)
    for given, message in (
        (str(model), "This is no reward model"),
        ("reward.other", "There is no model here"),
        (str(tmp_path), "There is no model here"),
    ):
        assert main(["score", given, str(file)]) == 2
        assert message in capsys.readouterr().err
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in (reward / "model").iterdir():
        (broken / path.name).symlink_to(path)
    (broken / "calibration.json").unlink()
    write_json(broken / "calibration.json", {"mean": 0.0, "std": 0.0})
    assert main(["score", str(broken), str(file)]) == 2
    assert "calibration is unusable" in capsys.readouterr().err
