"""Reward functions: what they are given, and what they may return."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.tiny_online import rollout_of

from rlhf.errors import ConfigError, NumericsError, RlhfError
from rlhf.online.functions import RewardFunction

EXAMPLES = [
    {"dataset": "sums", "id": "a", "columns": '{"answer":"4","level":1}'},
    {"dataset": "sums", "id": "b", "columns": '{"answer":"9","level":2}'},
]
WHERE = "ppo.final.reward"


def rollout():
    """Two responses, of two and of three tokens."""
    made = rollout_of([torch.zeros(2), torch.zeros(3)], torch.tensor([True, False]))
    sequences = [torch.tensor([7, 1, 2]), torch.tensor([7, 3, 4, 5])]
    return replace(made, examples=EXAMPLES, sequences=sequences)


def reward(function, columns=(), dense=False, **options):
    return RewardFunction(
        function, "f.py:score", columns, options, dense,
        decode=lambda ids: " ".join(map(str, ids.tolist())),
        messages=lambda rows: [[{"role": "user", "content": row["id"]}] for row in rows],
        where=WHERE,
    )  # fmt: skip


def test_a_function_gets_what_its_parameters_name():
    seen = {}

    def score(prompts, responses, token_ids, ended, answer, scale=1.0):
        seen.update(locals())
        return [scale * len(response) for response in responses]

    found = reward(score, ["answer"], scale=0.5)(rollout())
    assert found.tolist() == [1.5, 2.5]
    assert seen["prompts"] == [[{"role": "user", "content": "a"}],
                               [{"role": "user", "content": "b"}]]  # fmt: skip
    assert seen["responses"] == ["1 2", "3 4 5"]
    assert seen["token_ids"] == [[1, 2], [3, 4, 5]]
    assert seen["ended"] == [True, False]
    assert seen["answer"] == ["4", "9"]


def test_a_function_that_takes_everything_gets_everything():
    def score(**given):
        assert set(given) == {"prompts", "responses", "token_ids", "ended", "level", "x"}
        return given["level"]

    assert reward(score, ["level"], x=1)(rollout()).tolist() == [1.0, 2.0]


def test_numbers_of_all_kinds():
    kinds = [True, np.float32(0.5), np.int64(3), torch.tensor(2.0), 1, np.bool_(True)]
    for value in kinds:
        found = reward(lambda ended, value=value: [value] * 2)(rollout())
        assert found.tolist() == [float(value)] * 2
    assert reward(lambda ended: np.array([1.0, 2.0]))(rollout()).tolist() == [1.0, 2.0]


def test_dense_rewards():
    def score(token_ids):
        return [[float(one) for one in ids] for ids in token_ids]

    found = reward(score, dense=True)(rollout())
    assert [one.tolist() for one in found] == [[1, 2], [3, 4, 5]]
    for wrong in ([[1.0], [1.0, 2.0, 3.0]], [1.0, 2.0]):
        with pytest.raises(RlhfError, match="for a response of 2 tokens") as error:
            reward(lambda ended, wrong=wrong: wrong, dense=True)(rollout())
        assert "row sums a" in str(error.value)


@pytest.mark.parametrize(
    ("answers", "error", "says"),
    [
        ([1.0], RlhfError, "1 scores of 2 responses"),
        ([1.0, None], RlhfError, "None, which is no number"),
        ([1.0, "2"], RlhfError, "'2', which is no number"),
        ([1.0, 2j], RlhfError, "2j, which is no number"),
        ([1.0, float("nan")], NumericsError, "returned nan"),
        ([1.0, -float("inf")], NumericsError, "returned -inf"),
        (None, RlhfError, "raised TypeError"),
    ],
)
def test_what_is_no_score_is_an_error_and_never_a_zero(answers, error, says):
    with pytest.raises(error) as raised:
        reward(lambda ended: answers)(rollout())
    text = str(raised.value)
    assert says in text
    assert "f.py:score" in text
    assert WHERE in text
    if answers and len(answers) == 2:
        assert "row sums b" in text
        assert "sums a" not in text


def test_an_exception_names_the_row_and_the_line():
    def score(answer):
        return [1 / (int(one) - 9) for one in answer]

    with pytest.raises(RlhfError) as error:
        reward(score, ["answer"])(rollout())
    text = str(error.value)
    assert "f.py:score raised ZeroDivisionError: division by zero" in text
    assert "row sums b" in text
    assert "sums a" not in text
    assert "return [1 / (int(one) - 9) for one in answer]" in text


def test_an_exception_that_is_about_all_rows_together_names_them():
    def score(ended):
        if len(ended) > 1:
            raise ValueError("too many")
        return [0.0]

    with pytest.raises(RlhfError, match="too many") as error:
        reward(score)(rollout())
    assert "rows sums a, sums b" in str(error.value)


@pytest.mark.parametrize(
    ("function", "columns", "options", "says"),
    [
        (lambda responses, answer: [], [], {}, "needs `answer`, which it is not given"),
        (lambda responses: [], ["answer"], {}, "has no parameter `answer`"),
        (lambda responses: [], [], {"scale": 1}, "has no parameter `scale`"),
    ],
)
def test_parameters_are_looked_at_before_training(function, columns, options, says):
    with pytest.raises(ConfigError, match=says) as error:
        reward(function, columns, **options)
    assert WHERE in str(error.value)
