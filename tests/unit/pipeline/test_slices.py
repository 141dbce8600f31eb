import copy

import pytest
import yaml
from support.valid_config import VALID, put

from rlhf.catalog import RULES
from rlhf.config.load import load_config
from rlhf.core.files import write_json
from rlhf.pipeline.slices import canonical_slice, config_slice
from rlhf.sources.locks import Lock, lock_path

ARTIFACTS = {
    "fetch_model": ["tiny"],
    "fetch_data": ["demo"],
    "tokenize": ["conversation", "preference", "feedback", "prompt"],
    "find_duplicates": ["sft.chat", "reward.helpful", "ppo.final"],
    "check_rows": ["sft.chat", "reward.helpful", "ppo.final"],
    "train_sft": ["chat"],
    "train_reward": ["helpful"],
    "export_store": ["reward helpful", "reference chat"],
    "train_dpo": ["direct"],
    "train_kto": ["yes"],
    "train_orpo": ["alone"],
    "train_simpo": ["simple"],
    "train_cpo": ["contrast"],
    "train_ilql": ["values"],
    "train_ppo": ["final"],
    "train_rloo": ["groups"],
    "train_grpo": ["groups"],
    "train_reinforce": ["groups"],
    "evaluate": ["final"],
    "report": ["final"],
}
GROUPS = {
    section: {"groups": {"sft": "chat", "reward": "helpful", "data": {"demo": {}}}}
    for section in ("rloo", "grpo", "reinforce")
}
DIRECT = {"dpo": {"direct": {"sft": "chat", "data": {"demo": {}}}}}
OTHERS = {
    "kto": {"yes": {"sft": "chat", "data": {"demo": {}}}},
    "orpo": {"alone": {"model": "tiny", "data": {"demo": {}}}},
    "simpo": {"simple": {"sft": "chat", "data": {"demo": {}}}},
    "cpo": {"contrast": {"sft": "chat", "data": {"demo": {}}}},
}
VALUES = {"ilql": {"values": {"sft": "chat", "data": {"demo": {}}}}}
STORES = {"export_store reward helpful", "export_store reference chat"}


def slices(values):
    config = load_config(DIRECT | OTHERS | VALUES | values | GROUPS)
    return {
        f"{stage} {name}": canonical_slice(config, stage, *name.split())
        for stage, names in ARTIFACTS.items()
        for name in names
    }


@pytest.mark.parametrize(
    ("path", "value", "changed"),
    [
        ("models.tiny.template", "chatml", {"fetch_model tiny"}),
        ("models.tiny.per_digit_tokens", True, {"fetch_model tiny"}),
        ("models.tiny.source", {"package": "x"}, {"fetch_model tiny"}),
        ("datasets.demo.validation_fraction", 0.3, {"fetch_data demo"}),
        ("datasets.demo.options", {"top_k": 2}, {"fetch_data demo"}),
        ("tokenization.conversation.max_length", 64, {"tokenize conversation"}),
        ("tokenization.conversation.reply_tags", {"length": True}, {"tokenize conversation"}),
        ("tokenization.preference.max_replies", 3, {"tokenize preference"}),
        ("tokenization.prompt", {"max_length": 256, "overlong": "error"}, {"tokenize prompt"}),
        ("tokenization.prompt.max_length", 900, {"tokenize prompt"} | STORES),
        ("ppo.final.sampling.max_new_tokens", 65, {"train_ppo final"}),
        ("ppo.final.sampling.max_new_tokens", 900, {"train_ppo final"} | STORES),
        ("sft.chat.optimizer.learning_rate", 1e-3, {"train_sft chat"}),
        ("sft.chat.data.demo.fraction", 0.5, {"train_sft chat"}),
        ("sft.chat.data.demo.max_validation", 5, {"train_sft chat"}),
        (
            "datasets.demo.stage_split",
            {"conversation": 2, "preference": 4, "prompt": 4},
            {"fetch_data demo"},
        ),
        (
            "ppo.final.duplicates.remove",
            "near",
            {"find_duplicates ppo.final", "train_ppo final"},
        ),
        ("reward.helpful.score_l2", 0.1, {"train_reward helpful"}),
        ("dpo.direct", DIRECT["dpo"]["direct"] | {"beta": 0.3}, {"train_dpo direct"}),
        ("tokenization.feedback", {"max_length": 64}, {"tokenize feedback"}),
        ("kto", {"yes": OTHERS["kto"]["yes"] | {"beta": 0.3}}, {"train_kto yes"}),
        ("orpo", {"alone": OTHERS["orpo"]["alone"] | {"epochs": 2}}, {"train_orpo alone"}),
        ("simpo", {"simple": OTHERS["simpo"]["simple"] | {"margin": 0}}, {"train_simpo simple"}),
        ("cpo", {"contrast": OTHERS["cpo"]["contrast"] | {"beta": 1}}, {"train_cpo contrast"}),
        ("ilql.values", VALUES["ilql"]["values"] | {"tau": 0.9}, {"train_ilql values"}),
        ("store.max_batch_size", 8, STORES),
        ("ppo.final.kl.coefficient", 0.7, {"train_ppo final"}),
        ("ppo.final.kl.controller", "adaptive", {"train_ppo final"}),
        ("ppo.final.value.kind", "critic", {"train_ppo final"}),
        ("ppo.final.scoring", "local", {"train_ppo final"}),
        ("evaluation.final.seed", 9, {"evaluate final"}),
        ("report.final.title", "Other", {"report final"}),
        ("runtime.threads", 1, set()),
        ("runtime.save_seconds", 9, set()),
        ("runtime.micro_batch_tokens", 64, set()),
        ("runtime.track_code", False, set()),
        ("runtime.containers", "apptainer", set()),
        ("cluster.nodes", 2, set()),
        ("cluster.stages.train_ppo.hours", 2, set()),
        # What comes before a new run stays; whether there are rows for it is looked at again.
        (
            "ppo.second",
            VALID["ppo"]["final"],
            {"check_rows sft.chat", "check_rows reward.helpful"},
        ),
    ],
)
def test_a_key_changes_only_its_own_stage(path, value, changed):
    before = slices(VALID)
    after = slices(put(copy.deepcopy(VALID), path, value))
    assert {name for name in before if before[name] != after[name]} == changed


def test_every_stage_is_covered():
    assert set(ARTIFACTS) == set(RULES)


def turned(value):
    if isinstance(value, dict):
        return {key: turned(value[key]) for key in reversed(list(value))}
    return value


def test_order_of_keys_is_irrelevant():
    values = put(copy.deepcopy(VALID), "ppo.final.kl", {"coefficient": 0.2, "target": 3.0})
    assert slices(values) == slices(turned(values))


def test_defaults_and_their_spelling_are_irrelevant():
    values = put(copy.deepcopy(VALID), "ppo.final.kl", {"coefficient": 0.1, "horizon": 10000})
    assert slices(values) == slices(VALID)
    spelt = put(copy.deepcopy(VALID), "sft.chat.optimizer", {"learning_rate": "1e-5"})
    assert slices(spelt) == slices(VALID)


def test_local_sources_count_by_content(tmp_path):
    def content(text):
        folder = tmp_path / text
        folder.mkdir()
        path = folder / "rows.jsonl"
        path.write_text(text)
        config = load_config(put(copy.deepcopy(VALID), "datasets.demo.path", str(path)))
        return config_slice(config, "fetch_data", "demo")["content"]

    assert content("one") != content("two")


def test_a_change_of_a_lock_changes_only_the_stage_that_fetches_it(tmp_path):
    values = copy.deepcopy(VALID)
    hub = {"hub": "acme/tiny", "revision": "a" * 40}
    put(values, "models.tiny.source", hub)
    put(values, "datasets.demo", {"source": hub, "format": "oasst"})
    put(values, "datasets.local", {"path": "local.jsonl", "format": "oasst"})
    config = load_config(DIRECT | OTHERS | VALUES | values | GROUPS)
    entry = {**hub, "commit": "a" * 40, "files": {"x": {"sha256": "0" * 64, "size": 1}}}

    def cut(**datasets):
        locked = {"version": 1, "models": {"tiny": entry}, "datasets": datasets}
        write_json(lock_path(tmp_path / "config.yaml"), locked)
        lock = Lock([tmp_path / "config.yaml"])
        artifacts = ARTIFACTS | {"fetch_data": ["demo", "local"]}
        return {
            f"{stage} {name}": config_slice(config, stage, *name.split(), lock=lock)
            for stage, names in artifacts.items()
            for name in names
        }

    first, other = cut(demo=entry), cut(demo=entry | {"commit": "b" * 40})
    assert {name for name in first if first[name] != other[name]} == {"fetch_data demo"}
    assert cut(demo=entry, more=entry, local=entry) == first
    unlocked = {key: value for key, value in first["fetch_data demo"].items() if key != "lock"}
    assert cut()["fetch_data demo"] == config_slice(config, "fetch_data", "demo") == unlocked


@pytest.mark.parametrize("written", ["2024-07-26", "'2024-07-26'"])
def test_a_date_is_the_same_with_and_without_quotes(valid, written):
    valid["models"]["tiny"] |= yaml.safe_load(f"{{template: own, template_date: {written}}}")
    assert config_slice(load_config(valid), "fetch_model", "tiny")["template_date"] == "2024-07-26"
