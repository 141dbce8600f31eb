import pytest
from support.valid_config import put

from rlhf.config.load import load_config, load_config_file
from rlhf.errors import ConfigError
from rlhf.pipeline import parents


def message(values):
    with pytest.raises(ConfigError) as caught:
        load_config(values, "mine.yaml")
    text = str(caught.value)
    assert "where:    mine.yaml" in text
    return text


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("sfft", {}, "sfft: unknown key; did you mean 'sft'?"),
        ("runtime.thread", 1, "runtime.thread: unknown key; did you mean 'threads'?"),
        (
            "tokenization.prompt.max_lenght",
            1,
            "tokenization.prompt.max_lenght: unknown key; did you mean 'max_length'?",
        ),
        (
            "tokenization.conversation.reply_tags.dropot",
            1,
            "tokenization.conversation.reply_tags.dropot: unknown key; did you mean 'dropout'?",
        ),
        ("sft.chat.epoch", 1, "sft.chat.epoch: unknown key; did you mean 'epochs'?"),
        (
            "sft.chat.data.demo.fracton",
            1,
            "sft.chat.data.demo.fracton: unknown key; did you mean 'fraction'?",
        ),
        (
            "sft.chat.optimizer.learning_rat",
            1,
            "sft.chat.optimizer.learning_rat: unknown key; did you mean 'learning_rate'?",
        ),
        (
            "ppo.final.kl.coeficient",
            1,
            "ppo.final.kl.coeficient: unknown key; did you mean 'coefficient'?",
        ),
        (
            "models.tiny.source.pth",
            "x",
            "models.tiny.source.pth: unknown key; did you mean 'path'?",
        ),
        (
            "models.random.source.random.hiden_size",
            8,
            "models.random.source.random.hiden_size: unknown key; did you mean 'hidden_size'?",
        ),
        ("runtime.zzz", 1, "runtime.zzz: unknown key; known: containers, deterministic"),
    ],
)
def test_unknown_keys(valid, path, value, expected):
    assert expected in message(put(valid, path, value))


def test_a_run_that_is_called_like_a_key(valid):
    """`kl` is a user's name here, not the section of a PPO run."""
    valid["ppo"]["kl"] = dict(valid["ppo"]["final"], clipp=0.1)
    assert "ppo.kl.clipp: unknown key; did you mean 'clip'?" in message(valid)


def test_a_misspelt_required_key_is_one_mistake(valid):
    valid["sft"]["chat"]["modle"] = valid["sft"]["chat"].pop("model")
    text = message(valid)
    assert "sft.chat.modle: unknown key; did you mean 'model'?" in text
    assert "required" not in text


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("sft.chat.epochs", "two", "sft.chat.epochs: should be a valid integer"),
        ("sft.chat.epochs", 0, "sft.chat.epochs: should be greater than or equal to 1 (got 0)"),
        ("sft.chat.epochs", 1.5, "sft.chat.epochs: should be a valid integer"),
        ("sft.chat.epochs", None, "sft.chat.epochs: should be a valid integer (got nothing)"),
        ("ppo.final.kl.coefficient", float("nan"), "ppo.final.kl.coefficient: should be a finite"),
        ("ppo.final.kl.controller", "adaptve", "should be 'fixed' or 'adaptive' (got 'adaptve')"),
        (
            "tokenization.conversation",
            {"random_offset": 0.8, "overlong": "drop"},
            "tokenization.conversation: random_offset says how dialogues are cut, but overlong is",
        ),
        (
            "tokenization.prompt",
            {"min_prefix": 8, "overlong": "drop"},
            "tokenization.prompt: min_prefix says how questions are cut, but overlong is 'drop'",
        ),
        ("models.tiny.template_date", 20240726, "tiny.template_date: a date is written 2024-07-26"),
        ("models.tiny.template_date", "26 Jul 2024", "2024-07-26 (got '26 Jul 2024')"),
        ("models.tiny.template_date", "2024-02-30", "2024-07-26 (got '2024-02-30')"),
        (
            "models.tiny",
            {"source": {"path": "m"}, "template": "hh", "template_date": "2024-07-26"},
            "models.tiny: template_date is for a template that reads a clock; 'hh' has none",
        ),
        ("models.tiny.pad_vocab_to_multiple", 0, "should be greater than or equal to 1 (got 0)"),
        ("sft", ["chat"], "sft: should be a section with keys (got ['chat'])"),
        ("sft.chat.data.demo", None, "sft.chat.data.demo: nothing is given; write {}"),
        ("runtime", None, "runtime: nothing is given; write {}"),
        ("sft.chat.data", {}, "sft.chat.data: "),
        ("report.final.evaluations", [], "report.final.evaluations: "),
        ("sft.chat.model", "../tiny", "sft.chat.model: names are letters, digits, '_' and '-'"),
    ],
)
def test_wrong_values(valid, path, value, expected):
    assert expected in message(put(valid, path, value))


@pytest.mark.parametrize("path", ["models", "datasets", "sft.chat.data", "datasets.demo.format"])
def test_missing_keys(valid, path):
    *sections, last = path.split(".")
    inner = valid
    for section in sections:
        inner = inner[section]
    del inner[last]
    assert f"{path}: this key is required" in message(valid)


@pytest.mark.parametrize("start", [{}, {"model": "tiny", "sft": "chat"}])
def test_a_run_starts_from_one_thing(valid, start):
    valid["reward"]["helpful"] = {"data": {"demo": {}}} | start
    assert "reward.helpful: give exactly one of model, sft" in message(valid)


def test_runs_that_start_from_one_another(valid):
    data = {"demo": {}}
    valid["sft"] |= {"one": {"sft": "two", "data": data}, "two": {"sft": "one", "data": data}}
    text = message(valid)
    assert "sft.one: starts from itself (one ← two ← one)" in text
    assert "sft.chat:" not in text


def test_a_chain_of_runs_goes_back_to_one_base_model(valid):
    valid["sft"]["more"] = {"sft": "chat", "data": {"demo": {}}}
    valid["reward"]["helpful"] = {"model": "tiny", "data": {"demo": {}}}
    valid["ppo"]["final"]["sft"] = "more"
    config = load_config(valid)
    assert config.start("sft", "more") == ("sft", "chat")
    assert config.start("reward", "helpful") == ("models", "tiny")
    assert config.base_model("ppo", "final") == config.base_model("sft", "more") == "tiny"


def test_all_problems_at_once(valid):
    put(put(valid, "sft.chat.epochs", "x"), "ppo.final.gama", 1)
    text = message(valid)
    assert "sft.chat.epochs" in text
    assert "did you mean 'gamma'?" in text


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (
            "sft.chat.model",
            "tinny",
            "sft.chat.model: there is no models.tinny; did you mean 'tiny'",
        ),
        ("reward.helpful.sft", "chta", "there is no sft.chta; did you mean 'chat'?"),
        ("ppo.final.sft", "caht", "ppo.final.sft: there is no sft.caht; did you mean 'chat'?"),
        ("ppo.final.reward", "xyz", "there is no reward.xyz; known: helpful"),
        ("evaluation.final.ppo", "finale", "there is no ppo.finale; did you mean 'final'?"),
        ("report.final.evaluations", ["fnal"], "there is no evaluation.fnal; did you mean 'final'"),
        ("sft.chat.data", {"dmeo": {}}, "sft.chat.data: there is no datasets.dmeo; did you mean"),
    ],
)
def test_unknown_references(valid, path, value, expected):
    assert expected in message(put(valid, path, value))


def test_reference_into_an_empty_section(valid):
    text = message({k: v for k, v in valid.items() if k != "reward"})
    assert "ppo.final.reward: there is no reward.helpful; none is declared" in text


@pytest.mark.parametrize("section", ["models", "datasets", "sft", "reward", "ppo", "evaluation"])
@pytest.mark.parametrize("name", ["a/b", "..", "-x", "a b", "a.b", "ä", "", "a\n", "_x"])
def test_names_that_can_not_stand_in_a_path(valid, section, name):
    entry = next(iter(valid[section].values()))
    valid[section][name] = entry
    text = message(valid)
    assert f"{section}.{name}: names are letters, digits, '_' and '-'".splitlines()[0] in text


def test_a_name_that_is_not_text(valid):
    valid["sft"][1] = valid["sft"]["chat"]
    text = message(valid)
    assert "sft.1: a name has to be text (write '1' in quotes)" in text


@pytest.mark.parametrize("path", ["data/demo.jsonl", "/data/demo.jsonl", "../shared/demo.jsonl"])
def test_data_may_lie_anywhere(valid, path):
    put(valid, "datasets.demo.path", path)
    assert load_config(valid).datasets["demo"].path == path


def test_minibatches_divide_rollouts(valid):
    put(put(valid, "ppo.final.rollout_batch_size", 10), "ppo.final.minibatch_size", 4)
    assert "ppo.final: minibatch_size 4 must divide rollout_batch_size 10" in message(valid)


def test_several_responses_to_each_prompt_make_a_rollout(valid):
    put(put(valid, "ppo.final.rollout_batch_size", 64), "ppo.final.responses_per_prompt", 6)
    text = "ppo.final: responses_per_prompt 6 must divide rollout_batch_size 64"
    assert text in message(valid)
    put(valid, "ppo.final.responses_per_prompt", 1)
    put(valid, "ppo.final.rewards", {"baseline": "leave_one_out"})
    assert "ppo.final.rewards: " in message(valid)
    assert "write the run under `rloo:`, without `value`" in message(valid)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"responses_per_prompt": 1}, "rloo.other.responses_per_prompt: "),
        ({"epochs": 2}, "rloo.other: epochs 2 needs `clip`"),
        ({"value": {"kind": "head"}}, "rloo.other.value: "),
        ({"reward": "nobody"}, "rloo.other.reward: there is no reward.nobody"),
    ],
)
def test_rloo_runs(valid, changes, expected):
    run = {"sft": "chat", "reward": "helpful", "data": {"demo": {}}}
    put(valid, "rloo.other", run)
    put(valid, "evaluation.other", {"rloo": "other"})
    assert load_config(valid).start("evaluation", "other") == ("rloo", "other")
    put(valid, "rloo.other", run | changes)
    assert expected in message(valid)


@pytest.mark.parametrize(
    ("section", "changes", "expected"),
    [
        ("grpo", {"responses_per_prompt": 1}, "responses_per_prompt: "),
        ("grpo", {"clip": None, "epochs": 2}, "epochs 2 needs `clip`"),
        ("grpo", {"kl": {"estimator": "k1"}}, "kl: where: loss needs estimator k2 or k3"),
        ("ppo", {"kl": {"where": "loss"}}, "kl: where: loss needs estimator k2 or k3"),
        ("ppo", {"clip": None}, "clip: "),
        ("rloo", {"loss": {"ratio": "sequence"}}, "loss.ratio, loss.clip_high and loss.dual_clip"),
        ("rloo", {"loss": {"clip_high": 0.3}}, "loss.ratio, loss.clip_high and loss.dual_clip"),
        ("ppo", {"loss": {"dual_clip": 0.9}}, "loss.dual_clip: "),
        ("ppo", {"overlong": {"buffer": 65}}, "overlong.buffer 65 is longer than a response"),
        ("ppo", {"dynamic_sampling": {"max_rounds": 2}}, "dynamic_sampling.max_rounds compares"),
        ("reinforce", {"baseline": "group"}, "baseline: group compares the responses to a prompt"),
    ],
)
def test_on_policy_runs(valid, section, changes, expected):
    run = {"sft": "chat", "reward": "helpful", "data": {"demo": {}}}
    put(valid, f"{section}.other", run)
    load_config(valid)
    put(valid, f"{section}.other", run | changes)
    assert f"{section}.other" in message(valid)
    assert expected in message(valid)


def test_an_evaluation_of_a_run_without_a_reward_model_names_one(valid):
    put(valid, "dpo.direct", {"sft": "chat", "data": {"demo": {}}})
    put(valid, "evaluation.other", {"dpo": "direct"})
    expected = "evaluation.other.reward: dpo.direct has no reward model, so name one here"
    assert expected in message(valid)
    put(valid, "evaluation.other.reward", "helpful")
    config = load_config(valid)
    assert config.parent("evaluation", "other", "reward") == ("reward", "helpful")
    assert config.parent("evaluation", "other", "sft") == ("sft", "chat")
    put(valid, "models.small", {"source": {"path": "models/small"}, "template": "oasst"})
    put(valid, "sft.judge", {"model": "small", "data": {"demo": {}}})
    put(valid, "reward.second", {"sft": "judge", "data": {"demo": {}}})
    put(valid, "evaluation.other.reward", "second")
    differ = "evaluation.other: policy (tiny) and reward model (small) come from base models"
    assert differ in message(valid)


def test_orpo_from_a_base_model_is_evaluated_without_an_sft_run(valid):
    put(valid, "orpo.alone", {"model": "tiny", "data": {"demo": {}}})
    put(valid, "evaluation.other", {"orpo": "alone", "reward": "helpful"})
    config = load_config(valid)
    assert config.start("orpo", "alone") == ("models", "tiny")
    assert config.parent("evaluation", "other", "sft") is None
    assert parents.parent(config, "evaluation", "other", "sft") == []
    put(valid, "orpo.alone", {"sft": "chat", "data": {"demo": {}}})
    config = load_config(valid)
    assert config.parent("evaluation", "other", "sft") == ("sft", "chat")


def test_advantages_are_of_an_ilql_run(valid):
    put(valid, "ilql.values", {"sft": "chat", "data": {"demo": {}}})
    put(valid, "evaluation.other", {"ilql": "values", "reward": "helpful"})
    put(valid, "evaluation.other.advantage", {"beta": 4, "top_k": 20})
    assert load_config(valid).evaluation["other"].advantage.top_k == 20
    put(valid, "evaluation.other", {"ppo": "final", "advantage": {"beta": 4}})
    assert "evaluation.other: advantage: an ILQL run alone" in message(valid)


def test_ilql_and_the_engines_that_do_not_keep_its_targets(valid):
    put(valid, "cluster.engine", "zero2")
    load_config(valid)  # nothing is said where there is no such run
    put(valid, "ilql.values", {"sft": "chat", "data": {"demo": {}}})
    assert "cluster.engine: zero2 does not keep what follows" in message(valid)
    put(valid, "cluster.stages", {"train_ilql": {"engine": "fsdp"}})
    load_config(valid)


@pytest.mark.parametrize("evaluated", [{}, {"ppo": "final", "rloo": "final"}])
def test_an_evaluation_is_of_one_run(valid, evaluated):
    put(valid, "evaluation.other", evaluated)
    assert (
        "evaluation.other: give exactly one of ppo, rloo, grpo, reinforce, dpo, kto, orpo, simpo, "
        "cpo, ilql: " in message(valid)
    )


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"path": "x", "hub": "org/name"}, "exactly one of package, path, hub, random"),
        ({}, "exactly one of package, path, hub, random"),
        ({"hub": "org/name"}, "`hub` needs `revision`"),
        ({"hub": "org/name", "revision": "main"}, "not a branch or tag: found 'main'"),
        ({"hub": "org/name", "revision": "A" * 40}, "must be a commit of 40 hex digits"),
    ],
)
def test_model_sources(valid, source, expected):
    put(valid, "models.tiny.source", source)
    text = message(valid)
    assert "models.tiny.source: " in text
    assert expected in text


def test_a_judge_from_another_base_model_has_to_have_its_tokenizer(valid):
    """Of one family, and set up alike; PPO compares the tokenizers themselves."""
    put(valid, "models.small", {"source": {"path": "models/small"}})
    put(valid, "sft.judge", {"model": "small", "data": {"demo": {}}})
    put(valid, "reward.helpful.sft", "judge")
    load_config(valid)
    put(valid, "models.small.template", "oasst")
    put(valid, "models.small.new_tokens", ["<|endoftext|>"])
    assert (
        "ppo.final: policy (tiny) and reward model (small) come from base models that differ in "
        "template, new_tokens, so their token ids do not match"
    ) in message(valid)


def test_bad_yaml_names_line_and_column(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("models:\n  tiny: {source: {path: x}\nsft: [\n")
    with pytest.raises(ConfigError, match=r"bad.yaml:\d+:\d+"):
        load_config_file(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"", "is empty"), (b"- a\n", "is a list"), (b"\xff\xfe\xff", "Not UTF-8")],
)
def test_files_that_hold_no_configuration(tmp_path, content, expected):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=expected):
        load_config_file(path)


def test_no_file(tmp_path):
    with pytest.raises(ConfigError, match="no such configuration file"):
        load_config_file(tmp_path / "absent.yaml")
