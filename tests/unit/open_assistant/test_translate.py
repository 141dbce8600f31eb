"""What becomes of each key."""

from copy import deepcopy

import pytest

from rlhf.config.load import load_config, merge
from rlhf.errors import ConfigError
from rlhf.open_assistant.settings import TRAINERS

SFT = "oasst_export_eu galactica-125m"
RM = "defaults_rm rm-galactica"
RL = "defaults_rlhf rlhf-data rlhf-galactica"


def whole(*drafts):
    values = {}
    for draft in drafts:
        merge(values, deepcopy(draft.values))  # what is merged into is changed
    load_config(values)
    return values


def told(draft):
    """Every key that has a verdict."""
    dispositions = draft.dispositions
    lacking = {key.partition(": ")[0] for key in dispositions.lacking}
    return {
        *dispositions.carried,
        *(key for keys in dispositions.ignored.values() for key in keys),
        *lacking,
    }


@pytest.fixture
def sft(translate):
    return translate("sft", SFT)


@pytest.fixture
def rm(translate, sft):
    return translate("rm", RM, base=sft.values)


def test_sft(translate):
    draft = translate("sft", SFT, gpus=8, rows=6400)
    values = whole(draft)
    assert values["models"] == {
        "galactica-125m": {
            "source": {"hub": "facebook/galactica-125m", "revision": "c" * 40},
            "template": "oasst",
            "pad_vocab_to_multiple": 16,
        }
    }
    assert values["cluster"] == {"model_billions": 0.125}
    assert values["tokenization"] == {"conversation": {"max_length": 400, "random_offset": 0.8}}
    run = values["sft"]["galactica-125m"]
    assert run == {
        "model": "galactica-125m",
        "data": {
            "oasst_export": {"max_validation": 300},
            "vicuna": {"fraction": 0.4},
            "joke": {"size": 100},
        },
        "epochs": 2,
        "global_batch_size": 4 * 2 * 8,
        "optimizer": {
            "learning_rate": 5e-5,
            "beta1": 0.9,
            "beta2": 0.98,
            "eps": 1e-12,
            "weight_decay": 0.0,
            "max_grad_norm": 2.0,
            "schedule": "linear",
            "warmup": 0.5,  # 100 of 2 × 6400 / 64
        },
        "precision": "float32",
        "evaluations": 1,
        "seed": 17,
    }
    assert draft.dispositions.lacking == {}


def test_steps_from_the_sizes_of_the_registry(translate):
    draft = translate("sft", SFT)
    run = draft.values["sft"]["galactica-125m"]
    # 10k trees, two fifths of 94k chats, 100 jokes; 8 rows a step, 2 epochs
    steps = -(-(10_000 * 0.95 + 94_000 * 0.8 * 0.4 + 100) // 8) * 2
    assert run["optimizer"]["warmup"] == pytest.approx(100 / steps, rel=1e-2)
    assert run["evaluations"] == round(steps / 200)
    assert any("--train-rows" in note for note in draft.dispositions.notes)


def test_steps_of_datasets_that_nobody_has_counted(translate, collection, monkeypatch):
    unknown = [{"augment_oasst": {"input_file_path": "a.jsonl"}}]
    monkeypatch.setitem(collection.named, "unknown", {"datasets": unknown})
    draft = translate("rm", f"{RM} unknown")
    assert {key.partition(":")[0] for key in draft.dispositions.lacking} == {
        "warmup_steps",
        "eval_steps",
    }
    assert "warmup" not in draft.values["reward"]["galactica-125m"]["optimizer"]


def test_every_key_of_the_settings_has_a_verdict(translate, sft, rm, collection):
    for trainer, line, draft in (
        ("sft", f"defaults {SFT}", sft),
        ("rm", RM, rm),
        ("rl", f"defaults {RL}", translate("rl", f"defaults {RL}", base=whole(sft, rm))),
    ):
        wanted = {key for name in line.split() for key in collection.named[name]}
        wanted -= {"rank_config", "sft_config"}  # their keys have dispositions of their own
        assert wanted - told(draft) == set(), trainer


@pytest.mark.parametrize(("trainer", "line"), [("sft", SFT), ("rm", RM), ("rl", RL)])
def test_an_empty_key_has_a_verdict(translate, collection, monkeypatch, trainer, line):
    needed = {"datasets", "model_name", "sft_config"}
    names = ["defaults", *line.split()] if trainer == "sft" else line.split()
    keys = {key for name in names for key in collection.named[name]} - needed
    monkeypatch.setitem(collection.named, "empty", dict.fromkeys(keys))
    draft = translate(trainer, f"{line} empty")
    assert keys - {"rank_config"} - told(draft) == set()
    whole(draft)


def test_every_key_of_trlx_and_of_the_models_has_a_verdict(translate, collection):
    draft = translate("rl", RL)
    models = collection.named["rlhf-galactica"]
    named = {f"{one}.{key}" for one in ("sft_config", "rank_config") for key in models[one]}
    for section, values in collection.trlx.items():
        for key, value in values.items():
            inner = {f"{key}.{one}" for one in value} if isinstance(value, dict) else {key}
            named |= {f"{section}.{one}" for one in inner}
    assert named - told(draft) == set()


def test_every_key_that_a_trainer_reads_has_one_fate():
    for model in TRAINERS:
        assert model.dispositions().keys() == model.model_fields.keys()


def test_what_cannot_be_carried_over(translate):
    draft = translate("sft", f"{SFT} unlike")
    assert {key.partition(":")[0] for key in draft.dispositions.lacking} == {
        "peft_config.modules_to_save",
        "val_max_length",
    }
    whole(draft)


def test_what_supervised_fine_tuning_learns_by(translate, collection, monkeypatch):
    theirs = {
        "loss_fn": "Poly", "poly_eps": 0.5, "label_masking": False, "samples_mixing": True,
        "residual_dropout": 0.3, "residual_dropout_lima": True, "quantization": True,
        "superhot": True, "superhot_config": {"type": "linear", "scaling_factor": 2},
    }  # fmt: skip
    monkeypatch.setitem(collection.named, "all", theirs)
    draft = translate("sft", f"{SFT} all")
    assert draft.dispositions.lacking == {}
    assert theirs.keys() <= draft.dispositions.carried.keys()
    values = whole(draft)
    (run,) = values["sft"].values()
    assert run["loss"] == {"kind": "poly", "epsilon": 0.5, "tokens": "all"}
    assert run["residual_dropout"] == {"rate": 0.3, "ramp": "linear"}
    assert run["optimizer"]["kind"] == "adamw_8bit"
    assert values["cluster"] == {"model_billions": 0.125, "gpus_per_node": 1}
    assert any("moments of 8 bits need GPUs" in note for note in draft.dispositions.notes)
    assert values["tokenization"]["conversation"]["samples_mixing"] == {}
    (model,) = values["models"].values()
    assert model["rope_scaling"] == {"kind": "linear", "factor": 2.0}


@pytest.mark.parametrize(("theirs", "ours"), [
    ({"type": "ntk"}, {"kind": "ntk", "factor": 2.0}),
    ({"type": "ntk", "alpha": 4}, {"kind": "ntk", "factor": 4.0}),
    ({"type": "dynamic", "scaling_factor": 8}, {"kind": "dynamic", "factor": 8.0}),
    ({"type": "xpos", "scaling_factor": 8}, None),
    ({"type": "linear"}, None),
])  # fmt: skip
def test_positions(translate, collection, monkeypatch, theirs, ours):
    named = {"superhot": True, "superhot_config": theirs}
    monkeypatch.setitem(collection.named, "longer", named)
    draft = translate("sft", f"{SFT} longer")
    (model,) = whole(draft)["models"].values()
    assert model.get("rope_scaling") == ours
    lacking = {key.partition(":")[0] for key in draft.dispositions.lacking}
    assert lacking == (set() if ours else {"superhot_config"})


def test_a_reward_model_with_dropout_and_8_bit_adam(translate, sft, collection, monkeypatch):
    values = {"residual_dropout": 0.01, "quantization": True}
    monkeypatch.setitem(collection.named, "dropped", values)
    draft = translate("rm", f"{RM} dropped", base=sft.values)
    (run,) = draft.values["reward"].values()
    assert run["residual_dropout"] == {"rate": 0.01}
    assert run["optimizer"]["kind"] == "adamw_8bit"
    assert not {"residual_dropout", "quantization"} & {
        key.partition(":")[0] for key in draft.dispositions.lacking
    }


def test_lora(translate, collection, monkeypatch):
    draft = translate("sft", f"{SFT} unlike")
    (run,) = whole(draft)["sft"].values()
    assert run["adapter"] == {"rank": 16, "alpha": 32, "dropout": 0.05}
    own = {"r": 8, "lora_dropout": 0, "target_modules": ["q_proj"], "bias": "all",
           "modules_to_save": ["lm_head"], "task_type": "CAUSAL_LM"}  # fmt: skip
    for kind, config in (("lora", own), ("prefix-tuning", {})):
        values = {"peft_model": True, "peft_config": config | {"peft_type": kind}}
        monkeypatch.setitem(collection.named, kind, values)
    draft = translate("sft", f"{SFT} lora")
    (run,) = whole(draft)["sft"].values()
    assert run["adapter"] == {"rank": 8, "alpha": 32, "dropout": 0, "target_modules": ["q_proj"]}
    assert {key.partition(":")[0] for key in draft.dispositions.lacking} == {
        "peft_config.bias",
        "peft_config.modules_to_save",
    }
    draft = translate("sft", f"{SFT} prefix-tuning")
    assert "peft_model: true" in draft.dispositions.lacking
    assert "adapter" not in next(iter(draft.values["sft"].values()))


@pytest.mark.parametrize(
    ("theirs", "ours"), [("fp32", "float32"), ("bf16", "bfloat16"), ("fp16", "bfloat16")]
)
def test_precision(translate, theirs, ours):
    draft = translate("sft", f"{SFT} --dtype {theirs}")
    (run,) = draft.values["sft"].values()
    assert run["precision"] == ours
    assert any("fp16 became bfloat16" in note for note in draft.dispositions.notes) == (
        theirs == "fp16"
    )
    assert "dtype" in told(draft)


def test_a_precision_that_nobody_knows(translate):
    draft = translate("sft", f"{SFT} --dtype int4")
    assert "dtype: int4" in draft.dispositions.lacking


def test_unknown_keys(translate, collection, monkeypatch):
    wrong = {"max_lenght": 3, "xyzzy": 1}
    monkeypatch.setitem(collection.named, "wrong", wrong)
    with pytest.raises(ConfigError) as error:
        translate("sft", f"{SFT} wrong")
    assert "max_lenght: unknown key; did you mean 'max_length'?" in str(error.value)
    assert "xyzzy: unknown key; none is like it" in str(error.value)


def test_values_of_a_wrong_type(translate):
    with pytest.raises(ConfigError, match=r"learning_rate: should be a valid number.*got fast"):
        translate("sft", f"{SFT} --learning_rate fast")


def test_no_model(translate):
    with pytest.raises(ConfigError, match="No model is named"):
        translate("sft", "oasst_export_eu")


def test_a_model_in_a_folder_has_no_commit(translate):
    draft = translate("sft", "oasst_export_eu local-7b", revision=None)
    assert whole(draft)["models"]["7B"]["source"] == {"path": "/models/llama/7B"}
    assert draft.values["cluster"] == {"model_billions": 7.0}


def test_tags_prefix_and_digits(translate):
    line = f"{SFT} system_tag --use_system_prefix true --per_digit_tokens true"
    values = whole(translate("sft", line))
    assert values["models"]["galactica-125m"]["per_digit_tokens"] is True
    tokenization = values["tokenization"]
    assert tokenization["conversation"]["reply_tags"] == {"dropout": 0.25, "length": True}
    assert {view["system_prefix"] for view in tokenization.values()} == {"You are Joi."}
    assert tokenization.keys() == {"conversation", "preference", "prompt"}


def test_sorting_needs_the_sampler(translate):
    run = translate("sft", f"{SFT} --sort_by_length yes").values["sft"]["galactica-125m"]
    assert run["length_grouping"] == 100
    line = f"{SFT} --sort_by_length yes --use_custom_sampler no"
    assert "length_grouping" not in translate("sft", line).values["sft"]["galactica-125m"]


@pytest.mark.parametrize(("given", "epochs"), [(3, 3), (2.4, 2), (0.25, 1)])
def test_epochs(translate, collection, monkeypatch, given, epochs):
    monkeypatch.setitem(collection.named, "epochs", {"num_train_epochs": given})
    draft = translate("sft", f"{SFT} epochs")
    run = whole(draft)["sft"]["galactica-125m"]
    assert run["epochs"] == epochs
    whole_number = given in (3, 0.25)
    assert (f"num_train_epochs: {given}" in draft.dispositions.lacking) is not whole_number
    if given < 1:
        assert run["data"]["vicuna"] == {"fraction": 0.1}
        assert run["data"]["joke"] == {"size": 25}
        assert run["data"]["oasst_export"]["fraction"] == 0.25


def test_steps_of_a_part_of_an_epoch(translate, collection, monkeypatch):
    monkeypatch.setitem(collection.named, "epochs", {"num_train_epochs": 0.25})
    run = translate("sft", f"{SFT} epochs", rows=6400).values["sft"]["galactica-125m"]
    assert run["optimizer"]["warmup"] == 0.5  # 100 of 1600 / 8


def test_what_nobody_says_has_no_verdict(translate):
    draft = translate("rm", "rm-galactica")
    own = {key for key in told(draft) if not key.startswith("datasets.")}
    assert own == {"model_name", "datasets"}
    run = draft.values["reward"]["galactica-125m"]
    assert (run["epochs"], run["global_batch_size"]) == (3, 8)  # those of transformers


def test_digits_make_another_model(translate, sft):
    draft = translate("sft", f"{SFT} --per_digit_tokens yes", base=sft.values, name="digits")
    assert draft.values["models"]["galactica-125m-2"]["per_digit_tokens"] is True
    assert whole(sft, draft)["sft"]["digits"]["model"] == "galactica-125m-2"
    lost = translate("rm", f"{RM} --per_digit_tokens yes", base=sft.values).dispositions.lacking
    assert list(lost) == ["per_digit_tokens: true"]


def test_reward_model_on_an_sft_run(sft, rm):
    values = whole(sft, rm)
    assert "models" not in rm.values
    assert values["tokenization"]["preference"] == {"max_length": 512, "max_replies": 4}
    run = values["reward"]["galactica-125m"]
    assert run["sft"] == "galactica-125m"
    assert run["score_l2"] == 0.002
    assert run["data"]["anthropic_rlhf"] == {"fraction": 0.1, "max_validation": 1000}
    # SFT draws from the same set in another way, so it is declared twice.
    assert "oasst_export" not in run["data"]
    assert values["datasets"]["oasst_export-2"]["validation_fraction"] == 0.1
    assert values["datasets"]["oasst_export"]["validation_fraction"] == 0.05


def test_pooling_and_loss_of_a_reward_model(translate, sft, rm):
    plain = rm.values["reward"]["galactica-125m"]
    assert (plain["pooling"], "loss" in plain) == ("last", False)
    args = f"{RM} --pooling mean --loss_fn RMCLSLoss"
    other = translate("rm", args, base=sft.values, name="other")
    run = whole(sft, other)["reward"]["other"]
    assert (run["pooling"], run["loss"]) == ("mean", {"kind": "classification"})
    assert run["score_l2"] == 0
    assert other.dispositions.carried["pooling"] == "reward.other.pooling"
    assert not other.dispositions.lacking
    lost = translate("rm", f"{RM} --loss_fn Poly", base=sft.values).dispositions.lacking
    assert list(lost) == ["loss_fn: Poly"]


def test_reward_model_alone_gets_an_sft_run(translate):
    draft = translate("rm", RM, name="judge")
    values = whole(draft)
    assert values["reward"]["judge"]["sft"] == "judge"
    assert values["sft"]["judge"]["data"].keys() == values["reward"]["judge"]["data"].keys()
    assert any("sft.judge was made up" in note for note in draft.dispositions.notes)


def test_reward_model_of_another_base_model(translate, sft):
    draft = translate("rm", f"{RM} --model_name acme/other-1b", base=sft.values)
    assert list(draft.dispositions.lacking) == ["model_name: acme/other-1b"]
    whole(sft, draft)


def test_a_dataset_without_preferences(translate, collection, monkeypatch):
    monkeypatch.setitem(collection.named, "wrong", {"datasets": ["alpaca"]})
    with pytest.raises(ConfigError, match="alpaca has nothing for this stage"):
        translate("rm", f"{RM} wrong")


def test_ppo(translate, sft, rm):
    base = whole(sft, rm)
    draft = translate("rl", RL, base=base, gpus=6)
    values = whole(sft, rm, draft)
    assert draft.values.keys() == {"datasets", "tokenization", "ppo", "evaluation", "report"}
    assert values["tokenization"]["prompt"] == {"overlong": "truncate", "max_length": 500}
    assert values["ppo"]["galactica-125m"] == {
        "sft": "galactica-125m",
        "reward": "galactica-125m",
        "data": {"oasst_export-3": {"max_validation": 500}},
        "updates": 42,  # 1000 / (4 × 6 minibatches)
        "rollout_batch_size": 18 * 6,  # 16, in threes
        "minibatch_size": 3 * 6,
        "epochs": 4,
        "sampling": {"max_new_tokens": 100, "top_k": 0, "top_p": 0.7, "temperature": 0.9},
        "kl": {"coefficient": 0.1, "controller": "adaptive", "target": 6.0, "horizon": 10000},
        "rewards": {"clip": 4.0, "scaling": "none", "missing_eos_penalty": 0.0},
        "value": {"clip": 0.3, "coefficient": 1.0, "learning_rate": 1e-6},
        "clip": 0.4,
        "gamma": 1.0,
        "lam": 0.95,
        "optimizer": {
            "learning_rate": 1e-6,
            "beta1": 0.9,
            "beta2": 0.95,
            "eps": 1e-8,
            "weight_decay": 1e-6,
            "schedule": "constant",  # the floor is the peak
            "warmup": 0.0,
        },
        "freeze_layers": 3,
        "precision": "float32",
        "seed": 17,
    }
    assert values["datasets"]["oasst_export-3"]["path"] == "cache/lottery.jsonl.gz"
    assert values["evaluation"]["galactica-125m"]["max_prompts"] == 64
    assert values["evaluation"]["galactica-125m"]["top_p"] == 0.7
    lacking = {key.partition(":")[0] for key in draft.dispositions.lacking}
    assert lacking == {"sft_config.residual_dropout"}


def test_ppo_alone_gets_what_it_starts_from(translate):
    values = whole(translate("rl", RL))
    assert values["reward"]["galactica-125m"]["sft"] == "galactica-125m"
    assert values["sft"]["galactica-125m"]["model"] == "galactica-125m"


def test_ppo_without_preferences_to_learn_from(translate, collection, monkeypatch):
    monkeypatch.setitem(collection.named, "wrong", {"datasets": ["alpaca"]})
    with pytest.raises(ConfigError, match="A reward model cannot be made up"):
        translate("rl", f"{RL} wrong")


@pytest.mark.parametrize(
    ("floor", "schedule", "lost"), [(0, "cosine", False), (5e-7, "cosine", True)]
)
def test_schedules_of_ppo(translate, collection, monkeypatch, floor, schedule, lost):
    kwargs = {"T_max": 1000, "eta_min": floor}
    scheduler = {"name": "cosine_annealing", "kwargs": kwargs}
    monkeypatch.setitem(collection.trlx, "scheduler", scheduler)
    draft = translate("rl", RL)
    assert draft.values["ppo"]["galactica-125m"]["optimizer"]["schedule"] == schedule
    found = any(key.startswith("scheduler.kwargs.eta_min") for key in draft.dispositions.lacking)
    assert found is lost


def test_a_fixed_kl_coefficient(translate, collection, monkeypatch):
    method = collection.trlx["method"] | {"target": None}
    monkeypatch.setitem(collection.trlx, "method", method)
    assert translate("rl", RL).values["ppo"]["galactica-125m"]["kl"]["controller"] == "fixed"


def test_ppo_without_the_file_of_trlx(translate, collection, monkeypatch):
    for section in list(collection.trlx):
        monkeypatch.delitem(collection.trlx, section)
    with pytest.raises(ConfigError, match="There is no file of trlX"):
        translate("rl", RL)


def test_which_run_to_start_from(translate, sft):
    two = {"sft": {"a": sft.values["sft"]["galactica-125m"], **sft.values["sft"]}}
    base = sft.values | two
    with pytest.raises(ConfigError, match="several runs in sft"):
        translate("rm", RM, base=base)
    assert translate("rm", RM, base=base, sft="a").values["reward"]["galactica-125m"]["sft"] == "a"
    with pytest.raises(ConfigError, match=r"There is no sft\.b"):
        translate("rm", RM, base=base, sft="b")


def test_a_name_that_is_taken(translate, sft):
    with pytest.raises(ConfigError, match=r"sft\.galactica-125m already"):
        translate("sft", SFT, base=sft.values)
    more = translate("sft", SFT, base=sft.values, name="more")
    assert more.values["sft"].keys() == {"more"}
    assert "models" not in more.values
