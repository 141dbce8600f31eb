"""Adapters: what they compute, what they train, what becomes of them on the disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.adapted import NoTokenizer, moved
from support.architectures import OWN, PLAIN
from support.programs import adapter_ranks
from support.tiny_models import gradients, reply_scorer, run_ranks, token_scorer
from support.tiny_models import token_sequences as tokens
from support.tiny_settings import lora
from support.tolerances import assert_near

from rlhf.config.training import OptimizerConfig
from rlhf.errors import ConfigError
from rlhf.models.adapter_weights import merged
from rlhf.models.adapters import add_adapter, switched_off
from rlhf.models.generate import generate
from rlhf.models.head import find_head
from rlhf.models.load import disable_dropout
from rlhf.models.publish import below, save_model
from rlhf.models.replica import replica
from rlhf.models.reward import load_reply_scorer
from rlhf.models.roots import TokenScorer
from rlhf.training.engine.replicated import Replicated

SEQUENCES = tokens([9, 6, 12], seed=1)
KINDS = {
    "lora": {},
    "rslora": {"rank_stabilized": True},
    "dora": {"dora": True},
    "dora of some": {"dora": True, "target_modules": ["q_proj", "layers.1.mlp.down_proj"]},
    "head too": {"modules_to_save": ["lm_head", "norm"]},
}


def logprobs(scorer: TokenScorer) -> torch.Tensor:
    return scorer(SEQUENCES, [torch.arange(1, len(ids)) for ids in SEQUENCES])[0]


def scores(scorer: torch.nn.Module) -> torch.Tensor:
    return torch.cat(scorer([ids[:3] for ids in SEQUENCES], [[ids[3:]] for ids in SEQUENCES]))


def trained(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def adapted(seed: int = 0, **settings: object) -> TokenScorer:
    scorer = token_scorer(0)
    add_adapter(scorer.model, lora(**settings), seed, "sft.x.adapter")
    return scorer


@pytest.mark.parametrize("kind", KINDS)
def test_it_begins_as_the_model_that_it_is_added_to(kind):
    assert_near(logprobs(adapted(**KINDS[kind])), logprobs(token_scorer(0)))


@pytest.mark.parametrize("kind", KINDS)
def test_it_alone_is_trained(kind):
    scorer = adapted(**KINDS[kind])
    engine = Replicated(scorer, {"": 1e-2}, OptimizerConfig())
    frozen = {n: p.detach().clone() for n, p in scorer.named_parameters() if not p.requires_grad}
    before = trained(scorer)
    for last in (False, True):  # A has gradients once B is not zero
        engine.backward(-logprobs(scorer).sum(), last=True)
        if last:
            assert gradients(scorer).keys() == before.keys()
        engine.step(1.0)
    for name, tensor in frozen.items():
        assert torch.equal(scorer.get_parameter(name), tensor), name
    for name, tensor in before.items():
        assert not torch.equal(scorer.get_parameter(name), tensor), name
        assert "lora_" in name or name.startswith(("model.lm_head", "model.model.norm."))
    plain = {name for name, _ in token_scorer(0).named_parameters()}
    assert {name.replace(".base_layer", "").replace(".original_module", "") for name in frozen} == (
        plain
    )


def test_a_reward_models_score_is_trained_too():
    scorer = reply_scorer(0)
    add_adapter(scorer.model, lora(), 0, "reward.x.adapter")
    engine = Replicated(scorer, {"": 1e-2}, OptimizerConfig())
    before = trained(scorer)
    engine.backward(scores(scorer).sum(), last=True)
    engine.step(1.0)
    assert "model.score.modules_to_save.default.weight" in before
    assert not torch.equal(trained(scorer)["model.score.modules_to_save.default.weight"],
                           before["model.score.modules_to_save.default.weight"])  # fmt: skip


def test_its_state_holds_what_is_trained(tmp_path):
    scorer = adapted(dora=True)
    engine = Replicated(scorer, {"": 1e-2}, OptimizerConfig())
    engine.backward(-logprobs(scorer).sum(), last=True)
    engine.step(1.0)
    engine.save(tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    saved = {name.partition("/")[2] for name in load_file(path)}
    assert saved == trained(scorer).keys()
    other = adapted(seed=1, dora=True)
    Replicated(other, {"": 1e-2}, OptimizerConfig()).load(tmp_path)
    assert torch.equal(logprobs(other), logprobs(scorer))


def test_weights_come_from_a_stream_of_their_own():
    state = torch.get_rng_state()
    first, again, other = (trained(adapted(seed)) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    down = [name for name in first if ".lora_A." in name]
    assert not any(torch.equal(first[name], other[name]) for name in down)
    assert not torch.equal(first[down[0]], first[down[1]])
    for name in down:
        tensor = first[name]
        bound = tensor.shape[1] ** -0.5
        assert 0.8 * bound < tensor.abs().max() <= bound
    torch.manual_seed(5)
    expected = torch.get_rng_state()
    adapted()  # making the model draws
    torch.manual_seed(5)
    scorer = token_scorer(0)
    torch.manual_seed(5)
    add_adapter(scorer.model, lora(), 0, "x")
    assert torch.equal(torch.get_rng_state(), expected)
    torch.set_rng_state(state)


def test_narrow_weights_get_a_wide_adapter():
    scorer = token_scorer(0)
    scorer.model.to(torch.bfloat16)
    add_adapter(scorer.model, lora(dora=True), 0, "x")
    assert {tensor.dtype for tensor in trained(scorer).values()} == {torch.float32}
    wide = token_scorer(0)
    wide.model.to(torch.bfloat16).to(torch.float32)
    add_adapter(wide.model, lora(dora=True), 0, "x")
    for name, tensor in trained(wide).items():
        torch.testing.assert_close(trained(scorer)[name], tensor, msg=name)


def test_rank_is_the_adapters():
    for rank in (1, 6):
        for name, tensor in trained(adapted(rank=rank)).items():
            assert tensor.shape[0 if ".lora_A." in name else 1] == rank


@pytest.mark.parametrize(("settings", "scale"), [
    ({"rank": 4, "alpha": 8.0}, 2.0),
    ({"rank": 4, "alpha": 3.0}, 0.75),
    ({"rank": 4, "alpha": 8.0, "rank_stabilized": True}, 4.0),
])  # fmt: skip
def test_updates_are_scaled(settings, scale):
    scorer = adapted(**settings, target_modules=["q_proj"])
    moved(scorer)
    weights = scorer.model.state_dict()
    name = "model.layers.0.self_attn.q_proj"
    update = weights[f"{name}.lora_B.default.weight"] @ weights[f"{name}.lora_A.default.weight"]
    found = dict(merged(scorer.model, weights.items()))
    expected = weights[f"{name}.base_layer.weight"] + scale * update
    assert_near(found[f"{name}.weight"], expected)
    assert not torch.allclose(found[f"{name}.weight"], weights[f"{name}.base_layer.weight"])


def test_dora_trains_the_norms_of_rows_apart():
    scorer = adapted(dora=True, target_modules=["q_proj"])
    moved(scorer)
    weights = scorer.model.state_dict()
    name = "model.layers.1.self_attn.q_proj"
    found = dict(merged(scorer.model, weights.items()))[f"{name}.weight"]
    assert_near(found.norm(dim=1), weights[f"{name}.lora_magnitude_vector.default.weight"].abs())


def test_dropout_is_for_gradients_alone():
    scorer = adapted(dropout=0.5)
    moved(scorer)
    plain = adapted()
    moved(plain)
    with torch.no_grad():
        assert torch.equal(logprobs(scorer), logprobs(plain))
    assert (logprobs(scorer) - logprobs(plain)).abs().max() > 1e-3
    assert not torch.equal(logprobs(scorer), logprobs(scorer))


def test_targets_are_what_names_end_in():
    def layers(wanted: list[str] | str) -> set[str]:
        found = trained(adapted(target_modules=wanted))
        return {name.removeprefix("model.model.layers.").partition(".lora_")[0] for name in found}

    assert layers(["q_proj"]) == {"0.self_attn.q_proj", "1.self_attn.q_proj"}
    assert layers(["1.mlp.up_proj", "0.self_attn.k_proj"]) == {"1.mlp.up_proj",
                                                              "0.self_attn.k_proj"}  # fmt: skip
    assert len(layers("all-linear")) == 2 * 7


def test_layers_may_have_their_own_rank_and_alpha():
    scorer = adapted(rank=4, alpha=8.0, rank_pattern={"q_proj": 2, "1.self_attn.q_proj": 6},
                     alpha_pattern={"1.mlp.up_proj": 3.0})  # fmt: skip
    weights = scorer.model.state_dict()
    scales = {"0.self_attn.q_proj": (2, 4.0), "1.self_attn.q_proj": (6, 8 / 6),
              "0.mlp.up_proj": (4, 2.0), "1.mlp.up_proj": (4, 0.75)}  # fmt: skip
    moved(scorer.model)
    found = dict(merged(scorer.model, scorer.model.state_dict().items()))
    for layer, (rank, scale) in scales.items():
        name = f"model.layers.{layer}"
        down, up = (weights[f"{name}.lora_{part}.default.weight"] for part in "AB")
        assert (down.shape[0], up.shape[1]) == (rank, rank)
        expected = weights[f"{name}.base_layer.weight"] + scale * (up @ down)
        assert_near(found[f"{name}.weight"], expected)


def test_modules_to_save_are_trained_whole():
    found = trained(adapted(target_modules=["q_proj"], modules_to_save=["norm", "lm_head"]))
    assert {name for name in found if "lora_" not in name} == {
        "model.lm_head.modules_to_save.default.weight",
        "model.model.norm.modules_to_save.default.weight",  # not input_layernorm
    }


@pytest.mark.parametrize("kind", KINDS)
def test_switched_off_it_is_the_model_that_it_was_added_to(kind):
    scorer = adapted(**KINDS[kind])
    moved(scorer)
    changed = logprobs(scorer)
    names = trained(scorer).keys()
    with switched_off(scorer.model):
        assert torch.equal(logprobs(scorer), logprobs(token_scorer(0)))
        assert trained(scorer).keys() == names
    assert torch.equal(logprobs(scorer), changed)
    assert not torch.allclose(changed, logprobs(token_scorer(0)), atol=1e-2)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt", "bloom", "gemma3_text"])
def test_merged_it_computes_the_same(architecture, dora):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **(PLAIN | OWN)[architecture])
    model = AutoModelForCausalLM.from_config(config)
    disable_dropout(model)
    scorer = TokenScorer(model, find_head(model, architecture))
    before = logprobs(scorer)
    add_adapter(model, lora(dora=dora), 0, "x")
    moved(model)
    copy = replica(scorer, below(Replicated(scorer, {"": 0.1}, OptimizerConfig()).weights(),
                                 "model."))  # fmt: skip
    assert_near(logprobs(copy), logprobs(scorer))
    assert not torch.allclose(before, logprobs(scorer), atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_published_it_is_a_plain_model_and_an_adapter_for_peft(kind, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    token_scorer(0).model.save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    disable_dropout(model)
    scorer = TokenScorer(model)
    add_adapter(model, lora(**KINDS[kind]), 0, "x")
    moved(model)
    weights = Replicated(scorer, {"": 0.1}, OptimizerConfig()).weights()
    save_model(scorer, below(weights, "model."), NoTokenizer(), tmp_path / "model", 50_000)
    expected = logprobs(scorer)

    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert_near(logprobs(TokenScorer(whole)), expected)
    names = [name for name, _ in token_scorer(0).model.named_parameters()]
    assert [name for name, _ in whole.named_parameters()] == names

    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    theirs = PeftModel.from_pretrained(base, tmp_path / "model/adapter")
    assert_near(logprobs(TokenScorer(theirs.base_model.model)), expected)
    config = theirs.peft_config["default"]
    assert config.base_model_name_or_path == str(tmp_path / "base")
    assert config.inference_mode


def test_a_published_reward_model_keeps_its_score(tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    reply_scorer(0).model.save_pretrained(tmp_path / "base")
    scorer = load_reply_scorer(tmp_path / "base")
    add_adapter(scorer.model, lora(dora=True), 0, "x")
    moved(scorer)
    weights = Replicated(scorer, {"": 0.1}, OptimizerConfig()).weights()
    save_model(scorer, below(weights, "model."), NoTokenizer(), tmp_path / "model")
    assert_near(scores(load_reply_scorer(tmp_path / "model")), scores(scorer))
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    theirs = PeftModel.from_pretrained(base, tmp_path / "model/adapter")
    ids = SEQUENCES[0][None]
    assert_near(theirs(input_ids=ids).logits, scorer.model(input_ids=ids).logits)


def test_the_policy_samples_with_it():
    scorer = adapted()
    prompts, draws = tokens([4, 6], seed=2), torch.rand(2, 8)
    before = generate(scorer, prompts, draws, eos_id=2)
    moved(scorer)
    after = generate(scorer, prompts, draws, eos_id=2)
    assert [one.ids.tolist() for one in before] != [one.ids.tolist() for one in after]
    for prompt, response in zip(prompts, after, strict=True):
        ids = torch.cat([prompt, response.ids])
        found, _ = scorer([ids], [torch.arange(len(prompt), len(ids))])
        assert float(found.detach().sum()) == pytest.approx(response.logprob, abs=1e-3)


@pytest.mark.parametrize(("settings", "message"), [
    ({"target_modules": ["q_proj", "qproj", "lm_head"]}, "called qproj, lm_head"),
    ({"target_modules": ["embed_tokens"]}, "called embed_tokens"),
    ({"target_modules": ["q_proj"], "rank_pattern": {"k_proj": 2}}, "No adapted layer is called k"),
    ({"alpha_pattern": {"lm_head": 2.0}}, "No adapted layer is called lm_head"),
    ({"modules_to_save": ["head"]}, "no module is called head"),
    ({"modules_to_save": ["mlp"]}, "mlp has adapters"),
    ({"target_modules": ["q_proj"], "modules_to_save": ["layers"]}, "layers is a list"),
])  # fmt: skip
def test_names_of_nothing_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message) as refused:
        adapted(**settings)
    assert list(settings)[-1] in refused.value.where
    assert "q_proj" in refused.value.expected or "lm_head" in refused.value.expected


def test_dora_needs_rows_that_have_a_length():
    scorer = token_scorer(0)
    with torch.no_grad():
        scorer.model.model.layers[1].mlp.up_proj.weight[3] = 0
    with pytest.raises(ConfigError, match=r"layers\.1\.mlp\.up_proj has rows of zeros"):
        add_adapter(scorer.model, lora(dora=True), 0, "x")


def test_a_layer_whose_weights_are_used_elsewhere_is_refused():
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("falcon_h1", **OWN["falcon_h1"])
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ConfigError, match="'out_proj' is incompatible"):
        add_adapter(model, lora(), 0, "x")


def test_tied_weights_are_not_trained_apart():
    scorer = token_scorer(0, tie_word_embeddings=True)
    with pytest.raises(ConfigError, match="one matrix, of which lm_head is a part"):
        add_adapter(scorer.model, lora(modules_to_save=["lm_head"]), 0, "x")
    add_adapter(scorer.model, lora(modules_to_save=["norm"]), 0, "x")


@pytest.mark.slow
def test_ranks_train_it_as_one_process_does(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "compiled"))
        run_ranks(Path(adapter_ranks.__file__), tmp_path, timeout=400)
    alone = adapter_ranks.work(tmp_path, tmp_path / "alone")
    for rank in range(2):
        ranks = torch.load(tmp_path / f"rank-{rank}.pt")
        assert len(ranks) == sum(map(len, adapter_ranks.CASES.values()))
        for name, found in ranks.items():
            expected = alone[f"{name.rpartition(' ')[0]} replicated"]
            assert_near(found["figures"], expected["figures"], least=0.0)
            assert found["again"] == found["figures"][1], "from its saved state"
            assert found["wrong"] == [], "frozen weights that moved, trained ones that did not"
            assert found["difference"] < 1e-5
            assert found["weights"].keys() == expected["weights"].keys()
            for weight, tensor in expected["weights"].items():
                torch.testing.assert_close(found["weights"][weight], tensor, atol=1e-5, rtol=1e-4)
            assert found["responses"] == expected["responses"]
            for part, other in zip(
                found.get("reference", []), expected.get("reference", []), strict=True
            ):
                assert_near(part, other)
