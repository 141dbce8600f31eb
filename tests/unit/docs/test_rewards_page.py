"""The keys of a term on docs/rewards.md are the configuration's, and so are the functions."""

from __future__ import annotations

import inspect

import yaml
from support.page_tables import names, tables

from rlhf.config.reward_terms import GIVEN, RewardTermConfig
from rlhf.online.verifiers import VERIFIERS


def test_keys_of_a_term():
    rows = tables("rewards.md", "key")["Terms"]
    defaults = [yaml.safe_load(row[1].strip("`")) for row in rows]
    expected = {name: field.default for name, field in RewardTermConfig.model_fields.items()}
    assert dict(zip(names(rows), defaults, strict=True)) == expected


def test_what_functions_are_given():
    rows = tables("rewards.md", "parameter")["Functions"]
    assert tuple(names(rows[: len(GIVEN)])) == GIVEN


def test_functions_that_are_there():
    rows = tables("rewards.md", "name")["Functions"]
    assert names(rows) == list(VERIFIERS)
    for row, function in zip(rows, VERIFIERS.values(), strict=True):
        optional = {
            name: parameter.default
            for name, parameter in inspect.signature(function).parameters.items()
            if parameter.default is not parameter.empty
        }
        for name, default in optional.items():
            assert f"`{name}` (`{str(default).lower()}`)" in row[2]
