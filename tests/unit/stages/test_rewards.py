"""What a stage looks at before it trains with reward functions."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from support.tiny_online import rollout_of
from support.written import write_dataset, write_rows

from rlhf.config.rloo import RlooConfig
from rlhf.core.user_functions import content_of
from rlhf.data.rows import Message, Prompt
from rlhf.data.tokenizing import features_of
from rlhf.errors import ConfigError, IntegrityError
from rlhf.stages.rewards import build_reward, check_rewards
from rlhf.stages.stage import parse

SCORE = "def score(prompts, answer):\n    return [float(len(p[0]['content'])) for p in prompts]\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Tokenized prompts with and without what is kept, and a function."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name, kept in (("bare", ()), ("full", ("columns", "reply"))):
        sample = {"id": "1", "input_ids": [1], "columns": '{"answer":"4"}', "own_reply_ids": [2]}
        folder = Path("tokenized", name, "data", "train")
        write_dataset(folder, features_of("prompt", kept), [sample])
        rows = Path("datasets", name, "rows")
        rows.mkdir(parents=True)
        write_rows(rows, [(Prompt("1", "g", (Message("user", "2 + 2?"),)), "train")])
    Path("f.py").write_text(SCORE)
    return tmp_path


def stage(data, functions=None, **changes):
    term = {"function": "f.py:score", "columns": ["answer"]}
    values = {"sft": "s", "reward": term, "data": {data: {}}} | changes
    run = RlooConfig.model_validate(values)
    slice_ = run.model_dump(mode="json")
    slice_ |= {"functions": content_of("f.py") if functions is None else functions}
    made, _ = parse(
        ["--name", "x", "--config", json.dumps(slice_), "--output", "manifest", "manifest.json",
         "--input", "data", f"tokenized/{data}/manifest.json",
         "--input", "rows", f"datasets/{data}/manifest.json", "--input", "reward"]
    )  # fmt: skip
    return made, made.read(RlooConfig)


def test_a_run_whose_file_and_columns_are_there(project):
    made, config = stage("full", rewards={"relative_to": "reply"})
    check_rewards(made, config)


def test_a_file_that_has_changed_since_the_run_was_planned(project):
    made, config = stage("full")
    Path("f.py").write_text(SCORE + "\n")
    with pytest.raises(IntegrityError, match="is not the one that this run was planned with"):
        check_rewards(made, config)
    with pytest.raises(IntegrityError, match="no such file"):
        check_rewards(*stage("full", functions=content_of("f.py") | {"near.py": "0" * 64}))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, r"without the columns answer"),
        ({"reward": {"function": "exact_match"}, "rewards": {"relative_to": "reply"}},
         r"without the dataset's own replies"),
    ],
)  # fmt: skip
def test_prompts_without_what_the_reward_needs(project, changes, says):
    functions = {} if changes else None
    with pytest.raises(ConfigError, match=says) as error:
        check_rewards(*stage("bare", functions, **changes))
    assert "datasets.bare.options.keep" in str(error.value)


def test_a_function_of_a_file_is_given_messages_and_columns(project):
    class Tokenizer:
        eos_token_id = 2

        def decode(self, ids, skip_special_tokens):
            return ""

    made, config = stage("full")
    reward = build_reward(made, config, None, Tokenizer())
    rollout = rollout_of([torch.zeros(1)])
    row = {"dataset": "full", "id": "1", "columns": '{"answer":"4"}'}
    rollout.examples[:] = [row]
    (source,) = reward.sources
    assert source(rollout).tolist() == [6.0]
    assert reward.calibration == (0.0, 1.0)
