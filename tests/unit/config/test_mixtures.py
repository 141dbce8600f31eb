import pytest
from support.valid_config import put

from rlhf.config.load import load_config, load_config_file
from rlhf.errors import ConfigError

FILE = """\
models: {tiny: {source: {path: models/tiny}}}
datasets:
  demo: {path: demo.jsonl, format: oasst}
  more: {path: more.jsonl, format: messages}
sft:
  chat:
    model: tiny
    data: &base
      demo: {fraction: 0.5}
"""


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (
            "sft.chat.data.demo",
            {"fraction": 0.5, "size": 7},
            "sft.chat.data.demo: give `fraction` or `size`, not both",
        ),
        ("ppo.final.data.demo.fraction", 1.5, "should be less than or equal to 1"),
        ("reward.helpful.data.demo.size", 0, "should be greater than or equal to 1"),
        ("sft.chat.data.demo.weight", 0, "should be greater than 0"),
        (
            "datasets.demo.stage_split",
            {"conversation": 0, "preference": 0, "prompt": 0},
            "more than 0",
        ),
        (
            "datasets.demo.stage_split",
            {"conversation": 2, "preference": 4},
            "stage_split.prompt: this key is",
        ),
        (
            "datasets.demo.stage_split",
            {"sft": 2, "reward": 4, "prompt": 4},
            "datasets.demo.stage_split: these keys are called like the views: write "
            "`conversation` in place of `sft`, `preference` in place of `reward`",
        ),
        (
            "tokenization",
            {"sft": {"max_length": 64}},
            "tokenization: these keys are called like the views: write `conversation` in place "
            "of `sft`",
        ),
        ("sft.chat.duplicates.remove", "all", "sft.chat.duplicates.remove: should be 'none'"),
    ],
)
def test_refusals(valid, path, value, expected):
    with pytest.raises(ConfigError) as caught:
        load_config(put(valid, path, value))
    assert expected in str(caught.value)


def test_nothing_is_left_out_of_rows_that_hold_several_samples(valid):
    put(valid, "tokenization", {"conversation": {"samples_mixing": {}}})
    load_config(valid)
    put(valid, "sft.chat.duplicates", {"remove": "exact"})
    with pytest.raises(ConfigError, match=r"sft\.chat\.duplicates\.remove: with tokenization"):
        load_config(valid)
    put(valid, "tokenization", {"conversation": {}})
    load_config(valid)


def test_all_sets_of_a_run_are_weighed_or_none(valid):
    put(valid, "datasets.more", {"path": "more.jsonl", "format": "messages"})
    put(valid, "sft.chat.data", {"demo": {"weight": 2.0}, "more": {}})
    with pytest.raises(ConfigError, match="demo has a weight and more has none: weigh all or none"):
        load_config(valid)
    put(valid, "sft.chat.data.more.weight", 1.0)
    shares = load_config(valid).sft["chat"].data
    assert {name: share.weight for name, share in shares.items()} == {"demo": 2.0, "more": 1.0}


def test_a_second_file_adds_datasets_to_a_run(tmp_path):
    base, extra = tmp_path / "base.yaml", tmp_path / "extra.yaml"
    base.write_text(FILE)
    extra.write_text("sft: {chat: {data: {more: {size: 9}}, epochs: 3}}")
    run = load_config_file(base, extra).sft["chat"]
    assert (run.model, run.epochs) == ("tiny", 3)
    assert {name: (one.fraction, one.size) for name, one in run.data.items()} == {
        "demo": (0.5, None),
        "more": (1.0, 9),
    }
    extra.write_text("sft: {chat: {dta: {}}}")
    with pytest.raises(ConfigError, match=r"base\.yaml, .*extra\.yaml"):
        load_config_file(base, extra)


def test_an_anchor_adds_datasets_to_those_of_another_run(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(FILE + "  longer: {model: tiny, data: {<<: *base, more: {}}}\n")
    assert list(load_config_file(path).sft["longer"].data) == ["demo", "more"]
