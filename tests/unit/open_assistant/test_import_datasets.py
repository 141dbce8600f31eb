"""Lists of datasets with their options."""

import pytest

from rlhf.config.load import load_config
from rlhf.errors import ConfigError
from rlhf.open_assistant.datasets import OPTIONS, OWN_VALIDATION, translate_datasets
from rlhf.open_assistant.dispositions import Dispositions


def translate(*listed, view="conversation", declared=None, **given):
    dispositions = Dispositions()
    known = {"subsampled": True, "limit": None, "cache": ".cache"} | given
    mixture = translate_datasets(
        listed, view, "sft.chat", dispositions, declared=declared or {}, **known
    )
    models = {"tiny": {"source": {"path": "tiny"}}}
    runs = {"chat": {"model": "tiny", "data": mixture.shares}}
    datasets = {**(declared or {}), **mixture.datasets}
    load_config({"models": models, "datasets": datasets, "sft": runs})
    return mixture, dispositions


@pytest.mark.parametrize(
    ("item", "datasets", "shares"),
    [
        ("webgpt", {"webgpt": {"validation_fraction": 0.2}}, {"webgpt": {}}),
        ("squad_v2", {"squad_v2": {}}, {"squad_v2": {}}),  # it has validation rows of its own
        ("wmt2019_zh-en", {"wmt2019_zh-en": {}}, {"wmt2019_zh-en": {}}),
        (
            "ted_trans_nl-en",
            {"ted_trans_nl-en": {"validation_fraction": 0.2}},
            {"ted_trans_nl-en": {}},
        ),
        (
            "youtube_subs_howto100M",  # Open-Assistant ignores the case
            {"youtube_subs_howto100m": {"validation_fraction": 0.2}},
            {"youtube_subs_howto100m": {}},
        ),
        (
            "gpt4all",
            {
                "gpt4all": {"validation_fraction": 0.2},
                "gpt4all_multiround": {"validation_fraction": 0.2},
            },
            {"gpt4all": {}, "gpt4all_multiround": {}},
        ),
        (
            {"joke": {"fraction": 3, "val_split": 0}},
            {"joke": {"validation_fraction": 0.0}},
            {"joke": {}},
        ),
        (
            {"joke": {"size": 20, "max_val_set": 9}},
            {"joke": {"validation_fraction": 0.2}},
            {"joke": {"size": 20, "max_validation": 9}},
        ),
        (
            {"oasst_export": {"hf_dataset_name": "OpenAssistant/oasst2", "lang": "en, de"}},
            {
                "oasst_export": {
                    "registry": "oasst2",
                    "options": {"lang": ["en", "de"]},
                    "validation_fraction": 0.2,
                }
            },
            {"oasst_export": {}},
        ),
        (
            {"oasst_export": {"hf_dataset_name": "acme/trees", "top_k": 1}},
            {
                "oasst_export": {
                    "registry": "oasst_export",
                    "source": {"hub": "acme/trees", "revision": "main"},
                    "options": {"top_k": 1},
                    "validation_fraction": 0.2,
                }
            },
            {"oasst_export": {}},
        ),
        (
            {"oasst_export": {"input_file_path": "a.jsonl.gz", "hf_dataset_name": "x/y"}},
            {
                "oasst_export": {
                    "registry": "oasst_export",
                    "path": ".cache/a.jsonl.gz",
                    "validation_fraction": 0.2,
                }
            },
            {"oasst_export": {}},
        ),
        (
            {"oasst_export": {"input_file_path": "a.jsonl", "data_path": "/data"}},
            {
                "oasst_export": {
                    "registry": "oasst_export",
                    "path": "/data/a.jsonl",
                    "validation_fraction": 0.2,
                }
            },
            {"oasst_export": {}},
        ),
        (
            {
                "oig_file": {
                    "source_url": "https://huggingface.co/datasets/laion/OIG/raw/main/one.jsonl",
                    "max_count": 1000,
                    "val_split": 0.1,
                    "fraction": 0.5,
                }
            },
            {
                "oig_file": {
                    "registry": "oig_file",
                    "files": ["one.jsonl"],
                    "validation_fraction": 0.1,
                }
            },
            {"oig_file": {"size": 450}},
        ),
        (
            {"oig_file": {"source_url": "https://example.org/chip.jsonl"}},
            {
                "oig_file": {
                    "registry": "oig_file",
                    "source": {"url": "https://example.org/chip.jsonl"},
                    "validation_fraction": 0.2,
                }
            },
            {"oig_file": {}},
        ),
        (
            {"megacode": {"data_files": "a.json", "instruction_column": "q"}},
            {
                "megacode": {
                    "files": ["a.json"],
                    "options": {"question": "q"},
                    "validation_fraction": 0.2,
                }
            },
            {"megacode": {}},
        ),
    ],
)
def test_one_dataset(item, datasets, shares):
    mixture, _ = translate(item)
    assert mixture.datasets == datasets
    assert mixture.shares == shares


def test_shares_need_the_sampler():
    mixture, dispositions = translate({"joke": {"fraction": 0.5}}, subsampled=False)
    assert mixture.shares == {"joke": {}}
    assert dispositions.ignored == {
        "Open-Assistant heeds it with use_custom_sampler only": ["datasets.joke.fraction"]
    }


def test_limits_of_validation():
    mixture, _ = translate({"joke": {"max_val_set": 50}}, "webgpt", limit=20)
    assert mixture.shares == {"joke": {"max_validation": 20}, "webgpt": {"max_validation": 20}}


def test_a_dataset_that_is_there_twice():
    mixture, dispositions = translate("wmt2019_de-en", "wmt2019_de-en")
    assert list(mixture.shares) == ["wmt2019_de-en"]
    assert "datasets: wmt2019_de-en stands there twice and is drawn once" in dispositions.notes


def test_one_dataset_in_two_ways():
    url = "https://huggingface.co/datasets/laion/OIG/resolve/main/{}.jsonl"
    mixture, dispositions = translate(
        {"oig_file": {"source_url": url.format("a"), "min_length": 5}},
        {"oig_file": {"source_url": url.format("b")}},
    )
    assert mixture.datasets["oig_file-2"]["files"] == ["b.jsonl"]
    assert dispositions.carried["datasets.oig_file-2.source_url"] == "datasets.oig_file-2.files"
    assert dispositions.carried["datasets.oig_file.source_url"] == "datasets.oig_file.files"
    assert list(dispositions.lacking) == ["datasets.oig_file.min_length: 5"]


def test_a_dataset_that_is_declared_already():
    declared = {"webgpt": {"validation_fraction": 0.2}, "joke": {"validation_fraction": 0.5}}
    mixture, _ = translate("webgpt", "joke", declared=declared)
    assert list(mixture.shares) == ["webgpt", "joke-2"]
    assert mixture.datasets == {"joke-2": {"registry": "joke", "validation_fraction": 0.2}}


def test_one_size_for_two_datasets():
    mixture, dispositions = translate({"gpt4all": {"size": 9}})
    assert mixture.shares == {"gpt4all": {"size": 9}}
    assert "gpt4all alone" in dispositions.notes[0]


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("webgtp", ["no dataset 'webgtp'", "did you mean 'webgpt'"]),
        ({"webgpt": {"fractoin": 1}}, ["no option 'fractoin'", "did you mean 'fraction'?"]),
        ({"webgpt": {"top_k": 1}}, ["no option 'top_k'", "val_split"]),
        ({"webgpt": {"fraction": 0}}, ["fraction is 0", "more than 0"]),
        ({"webgpt": {"val_split": "half"}}, ["val_split is 'half'", "a number"]),
        ({"webgpt": None, "fraction": 0.5}, ["cannot be read", "indented below it"]),
        ({"webgpt": 0.5}, ["cannot be read"]),
        (7, ["cannot be read"]),
    ],
)
def test_wrong_items(item, words):
    with pytest.raises(ConfigError) as error:
        translate(item)
    assert [word for word in words if word not in str(error.value)] == []


def test_no_dataset():
    with pytest.raises(ConfigError, match="No dataset is named"):
        translate()


@pytest.mark.parametrize("name", [name for name in OPTIONS if name not in ("oasst_export",)])
def test_names_that_have_options_are_in_the_registry(name):
    view = "preference" if name == "augment_oasst" else "conversation"
    mixture, _ = translate(name, view=view)
    assert name in mixture.shares
    held_out = mixture.datasets[name].get("validation_fraction")
    assert (held_out is None) == bool(OWN_VALIDATION.fullmatch(name))
