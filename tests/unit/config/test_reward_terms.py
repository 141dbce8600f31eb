"""`reward` of an on-policy run: a name, a term, or a list of them."""

from __future__ import annotations

import copy
import json

import pytest
from support.valid_config import VALID

from rlhf.config.load import load_config
from rlhf.config.ppo import PpoConfig
from rlhf.config.reward_terms import VERIFIERS
from rlhf.errors import ConfigError
from rlhf.online import verifiers


def load(reward, **changes):
    values = copy.deepcopy(VALID)
    values["reward"] |= dict.fromkeys(("b", "c"), values["reward"]["helpful"])
    values["ppo"]["final"] |= {"reward": reward} | changes
    values["evaluation"]["final"]["reward"] = "helpful"
    return load_config(values)


@pytest.mark.parametrize(
    ("reward", "labels", "models"),
    [
        ("helpful", ["helpful"], ["helpful"]),
        ({"model": "helpful", "weight": 2}, ["helpful"], ["helpful"]),
        ({"ensemble": ["b", "c"]}, ["ensemble"], ["b", "c"]),
        (
            [{"ensemble": ["c", "b"], "name": "both"}, "b", {"function": "some/file.py:score"}],
            ["both", "b", "score"],
            ["c", "b"],
        ),
        ({"function": "exact_match", "options": {"answer": "x"}}, ["exact_match"], []),
    ],
)
def test_what_a_reward_may_be(reward, labels, models):
    config = load(reward)
    run = config.ppo["final"]
    assert [term.label for term in run.reward] == labels
    assert config.parents("ppo", "final", "reward") == [("reward", name) for name in models]
    written = json.loads(json.dumps(run.model_dump(mode="json")))
    assert PpoConfig.from_slice(written) == run
    assert (written["reward"] == reward) == isinstance(reward, str), "a name is written as one"


@pytest.mark.parametrize(
    ("reward", "says"),
    [
        ("hepful", "there is no reward.hepful; did you mean 'helpful'"),
        (["helpful", {"ensemble": ["b", "d"]}], "there is no reward.d"),
        (5, "should be the name of a reward model, or a term"),
        ([], "there is no term"),
        ({"mdel": "b"}, "unknown key; did you mean 'model'"),
        ({"weight": 2}, "give exactly one of model, ensemble, function"),
        ({"model": "b", "function": "exact_match"}, "give exactly one of"),
        ({"ensemble": ["b"]}, "at least 2 items"),
        ({"ensemble": ["b", "b"]}, "names a reward model twice"),
        ({"ensemble": ["b", "c"], "coefficient": 0.2}, "needs `combine: uncertainty`"),
        ({"model": "b", "combine": "minimum"}, "`combine` is of a term with `ensemble`"),
        ({"model": "b", "columns": ["answer"]}, "`columns` is of a term with `function`"),
        ({"model": "b", "dense": True}, "`dense` is of a term with `function`"),
        ({"function": "score"}, "should be FILE.py:NAME"),
        ({"function": "a.py"}, "should be FILE.py:NAME"),
        ({"function": "$NOWHERE_AT_ALL/a.py:f"}, "NOWHERE_AT_ALL is not set"),
        ({"function": "a.py:f", "columns": ["responses"]}, "responses would be given twice"),
        ({"function": "a.py:f", "columns": ["answer"]}, "which demo does not keep; write "
         "datasets.demo.options.keep: [answer]"),
        (["b", "b"], "two terms are called b: give one another `name`"),
    ],
)  # fmt: skip
def test_what_it_may_not_be(reward, says):
    with pytest.raises(ConfigError) as error:
        load(reward)
    assert says in str(error.value)
    assert "ppo.final.reward" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"value": {"kind": "critic"}}, "a critic starts from a reward model"),
        ({"rewards": {"relative_to": "reply"}}, "write datasets.demo.options.keep_reply: true"),
    ],
)
def test_what_does_not_go_with_functions_alone(changes, says):
    with pytest.raises(ConfigError) as error:
        load({"function": "a.py:f"}, **changes)
    assert says in str(error.value)


def test_dense_rewards_are_relative_to_nothing():
    with pytest.raises(ConfigError) as error:
        load({"function": "a.py:f", "dense": True}, rewards={"relative_to": "reply"})
    assert "a dense term has no score of a whole reply" in str(error.value)


def test_an_evaluation_has_to_say_which_of_several_reward_models_it_means():
    values = copy.deepcopy(VALID)
    values["reward"]["b"] = values["reward"]["helpful"]
    values["ppo"]["final"]["reward"] = ["helpful", "b"]
    with pytest.raises(ConfigError) as error:
        load_config(values)
    assert "ppo.final has several reward models (helpful, b), so name one here" in str(error.value)
    values["evaluation"]["final"]["reward"] = "b"
    assert load_config(values).parents("evaluation", "final", "reward") == [("reward", "b")]


def test_the_configuration_names_the_functions_that_are_there():
    assert tuple(verifiers.VERIFIERS) == VERIFIERS
