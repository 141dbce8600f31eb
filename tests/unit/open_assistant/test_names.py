"""Merging and options, as Open-Assistant's trainers do it."""

from pathlib import Path

import pytest
import yaml

from rlhf.errors import ConfigError
from rlhf.open_assistant.names import files_of, merge, override, read_files, trainer_of


def test_later_names_replace_whole_values_of_earlier_ones(collection):
    merged = merge(collection, ["oasst_export_eu", "galactica-125m"], "sft")
    assert merged["learning_rate"] == "5e-5"
    assert merged["max_length"] == 400
    assert [next(iter(one)) for one in merged["datasets"]] == ["oasst_export", "vicuna", "joke"]
    back = merge(collection, ["oasst_export_eu", "defaults"], "rm")
    assert back["datasets"][0] == "webgpt"


def test_names_may_be_joined_by_commas(collection):
    joined = merge(collection, ["oasst_export_eu,galactica-125m", "extra"], "sft")
    assert joined == merge(collection, ["oasst_export_eu", "galactica-125m", "extra"], "sft")


def test_only_sft_begins_with_defaults(collection):
    assert merge(collection, ["extra"], "sft")["max_length"] == 400
    assert merge(collection, ["extra"], "rm") == {"datasets_extra": ["minimath"]}
    assert merge(collection, ["extra"], "rl") == {"datasets_extra": ["minimath"]}


def test_an_unknown_name_gets_a_suggestion(collection):
    with pytest.raises(ConfigError) as error:
        merge(collection, ["galactica-125", "defaults", "oast_export_eu"], "sft")
    text = str(error.value)
    assert "galactica-125; did you mean 'galactica-125m'?" in text
    assert "oast_export_eu; did you mean 'oasst_export_eu'?" in text
    assert "ppo_config.yaml" in text
    assert "zero3" not in text


@pytest.mark.parametrize(
    ("names", "trainer"),
    [
        (["galactica-125m"], "sft"),
        (["defaults_rm", "rm-galactica"], "rm"),
        (["defaults", "defaults_rlhf", "rlhf-galactica"], "rl"),
    ],
)
def test_settings_show_their_trainer(collection, names, trainer):
    assert trainer_of(merge(collection, names, "rm")) == trainer


@pytest.fixture
def settings(collection):
    return merge(collection, ["galactica-125m"], "sft")


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("--max_length 100", "max_length", 100),
        ("--max_len 100", "max_length", 100),  # argparse lets people shorten
        ("--max_length=100", "max_length", 100),
        ("--max_grad_norm 1", "max_grad_norm", 1.0),
        ("--learning_rate 1e-4", "learning_rate", "1e-4"),  # YAML 1.1 reads 5e-5 as text
        ("--eval_size 20", "eval_size", "20"),  # empty in the YAML: text
        ("--use_custom_sampler true", "use_custom_sampler", True),
        ("--label_masking off", "label_masking", False),
        ("--no-system_prefix", "system_prefix", None),
        ("--rng_seed 7", "rng_seed", 7),
        ("--deepspeed", "deepspeed", True),
        ("--wandb_entity me/team", "wandb_entity", "me/team"),
    ],
)
def test_options_are_read_as_the_type_in_the_yaml(settings, line, key, value):
    found = override(settings, line.split(), "sft")
    assert found[key] == value
    assert type(found[key]) is type(value)
    assert {k: v for k, v in found.items() if k != key} == {
        k: v for k, v in settings.items() if k != key
    }


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--max_lenght 100", ["unknown key: --max_lenght", "did you mean 'max_length'?"]),
        ("--num_train_epochs 0.5", ["--num_train_epochs", "invalid int value: '0.5'"]),
        ("--label_masking perhaps", ["neither true nor false"]),
        ("--datasets webgpt", ["lists cannot be given", "name a configuration that has it"]),
        ("--max_length", ["expected one argument"]),
        ("stray", ["unknown key: stray"]),
    ],
)
def test_wrong_options(settings, line, words):
    with pytest.raises(ConfigError) as error:
        override(settings, line.split(), "sft")
    assert [word for word in words if word not in str(error.value)] == []


def test_only_sft_empties_keys(settings):
    with pytest.raises(ConfigError, match="unknown key: --no-dtype"):
        override(settings, ["--no-dtype"], "rm")


@pytest.mark.parametrize("inner", [".", "configs", "model/model_training/configs"])
def test_files_of_a_checkout(tmp_path, inner):
    folder = tmp_path / inner
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("a: {max_length: 1}")
    assert files_of(tmp_path) == [folder / "config.yaml"]


def test_a_folder_without_files(tmp_path):
    with pytest.raises(ConfigError, match="There are no YAML files"):
        files_of(tmp_path)


def test_two_files_with_one_name(tmp_path):
    for name, length in (("a", 1), ("b", 2)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"same": {"max_length": length}}))
    found = read_files([tmp_path / "a.yaml", tmp_path / "b.yaml"])
    assert found.named == {"same": {"max_length": 2}}
    assert found.disputed == ["same"]


def test_a_file_without_names(tmp_path):
    path = Path(tmp_path / "a.yaml")
    path.write_text("max_length: 3")
    with pytest.raises(ConfigError, match="No configuration has a name"):
        read_files([path])
