"""Datasets of the configuration: from the registry, from the hub, or local."""

import pytest
from support.valid_config import put

from rlhf.config.load import load_config
from rlhf.errors import ConfigError
from rlhf.pipeline.slices import config_slice


def message(values):
    with pytest.raises(ConfigError) as caught:
        load_config(values)
    return str(caught.value)


def test_entries_of_the_registry_are_filled_in(valid):
    put(valid, "datasets.webgpt", {})
    put(valid, "datasets.chinese", {"registry": "wmt2019_zh-en", "validation_fraction": 0.5})
    put(valid, "sft.chat.data", {"webgpt": {}, "chinese": {}})
    config = load_config(valid)
    assert config.datasets["webgpt"].source.hub == "openai/webgpt_comparisons"
    assert config.datasets["chinese"].options["pair"] == "zh-en"
    assert config.datasets["chinese"].validation_fraction == 0.5


def test_the_slice_says_what_is_read_and_not_where_that_was_written(valid):
    put(valid, "datasets.mine", {"registry": "gsm8k"})
    by_name = config_slice(load_config(valid), "fetch_data", "mine")
    entry = {
        "source": {"hub": "openai/gsm8k", "revision": "main"},
        "files": ["main/train-*.parquet"],
        "format": "qa",
    }
    put(valid, "datasets.mine", entry)
    assert config_slice(load_config(valid), "fetch_data", "mine") == by_name
    assert "registry" not in by_name


def test_the_slice_of_a_local_file_is_what_it_was(valid):
    assert config_slice(load_config(valid), "fetch_data", "demo") == {
        "path": "demo.jsonl",
        "format": "oasst",
        "options": {},
        "validation_fraction": 0.1,
        "split_salt": "",
    }


@pytest.mark.parametrize(
    ("name", "entry", "expected"),
    [
        (
            "webgtp",
            {},
            "datasets.webgtp: The registry has no dataset 'webgtp'; did you mean 'webgpt'",
        ),
        ("x", {"registry": "hellaswg"}, "datasets.x.registry: The registry has no dataset"),
        ("x", {"registry": "wmt2019_<src>-<tgt>"}, "datasets.x.registry: put values in the place"),
        ("x", {"format": "qa"}, "datasets.x: give exactly one of path, source"),
        ("x", {"path": "x"}, "datasets.x.format: this key is required\n"),
        ("hh", {"path": "x"}, "datasets.hh.format: this key is required; or write `registry: hh`"),
        (
            "x",
            {"path": "x", "source": {"url": "http://x/y.jsonl"}, "format": "qa"},
            "datasets.x: give exactly one of path, source",
        ),
        ("x", {"source": {}, "format": "qa"}, "datasets.x.source: give exactly one of hub, url"),
        (
            "x",
            {"source": {"hub": "a/b"}, "format": "qa"},
            "datasets.x.source: `hub` and `revision` go together",
        ),
        (
            "x",
            {"source": {"url": "u", "revision": "main"}, "format": "qa"},
            "datasets.x.source: `hub` and `revision` go together",
        ),
        (
            "x",
            {"source": {"hub": "a/b", "revison": "main"}, "format": "qa"},
            "datasets.x.source.revison: unknown key; did you mean 'revision'?",
        ),
        ("webgpt", {"optoins": {}}, "datasets.webgpt.optoins: unknown key; did you mean 'options'"),
        ("webgpt", {"options": ["x"]}, "datasets.webgpt.options: should be a"),
        ("webgpt", None, "datasets.webgpt: nothing is given; write {}"),
        ("webgpt", "main", "datasets.webgpt: should be a section with keys (got 'main')"),
        ("webgpt", {"files": "x"}, "datasets.webgpt.files: should be a valid list (got 'x')"),
    ],
)
def test_problems(valid, name, entry, expected):
    assert expected in message(put(valid, f"datasets.{name}", entry))


def test_all_misspelt_names_at_once(valid):
    put(put(valid, "datasets.webgtp", {}), "datasets.x", {"registry": "soad"})
    text = message(valid)
    assert "'webgpt'" in text
    assert "'soda'" in text
