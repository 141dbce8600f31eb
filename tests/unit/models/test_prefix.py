"""Prefix tuning: what it computes, what it trains, what becomes of it on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.adapted import NoTokenizer, moved
from support.architectures import PLAIN
from support.tiny_models import gradients, reply_scorer, token_scorer
from support.tiny_models import token_sequences as tokens
from support.tolerances import assert_near

from rlhf.config.store import StoreSlice
from rlhf.config.training import OptimizerConfig
from rlhf.errors import ConfigError, IntegrityError
from rlhf.models.adapters import switched_off
from rlhf.models.folders import has_prefix
from rlhf.models.generate import generate
from rlhf.models.load import disable_dropout, load_token_scorer
from rlhf.models.prefix import WEIGHT
from rlhf.models.prefix_tuning import add_prefix
from rlhf.models.publish import below, save_model
from rlhf.models.replica import replica
from rlhf.models.reward import load_reply_scorer
from rlhf.models.roots import TokenScorer
from rlhf.provenance.bases import describe_base, write_base
from rlhf.serving.export import export
from rlhf.training.engine.replicated import Replicated

SEQUENCES = tokens([9, 6, 12], seed=1)


def logprobs(scorer: TokenScorer) -> torch.Tensor:
    return scorer(SEQUENCES, [torch.arange(1, len(ids)) for ids in SEQUENCES])[0]


def prefixed(seed: int = 0, length: int = 4) -> TokenScorer:
    scorer = token_scorer(0)
    add_prefix(scorer.model, length, seed, "sft.x.adapter")
    return scorer


def publish(root: Any, base: Path, folder: Path) -> Path:
    folder.mkdir(parents=True)
    weights = below(Replicated(root, {"": 0.1}, OptimizerConfig()).weights(), "model.")
    save_model(root, weights, NoTokenizer(), folder, base=describe_base(base, folder))
    assert has_prefix(folder)
    return folder


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox", "gpt2", "opt", "bloom", "gptj"])
def test_peft_reads_it_and_computes_the_same(architecture: str, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes = dict(PLAIN[architecture])
    if architecture != "llama":
        sizes.pop("num_key_value_heads", None)  # of another architecture: peft would believe it
    config = AutoConfig.for_model(architecture, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    scorer = load_token_scorer(tmp_path / "base")
    plain = logprobs(scorer)
    add_prefix(scorer.model, 3, 0, "x")
    moved(scorer.model)
    expected = logprobs(scorer).detach()
    assert (expected - plain).abs().max() > 1e-3
    folder = publish(scorer, tmp_path / "base", tmp_path / "sft/model")
    assert load_file(folder / "adapter/adapter_model.safetensors").keys() == {"prompt_embeddings"}
    with torch.no_grad():
        assert torch.equal(logprobs(load_token_scorer(folder)), expected)
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        disable_dropout(base)
        theirs = PeftModel.from_pretrained(base, folder / "adapter").eval()
        found = [
            theirs(input_ids=ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])
            for ids in SEQUENCES
        ]
    assert_near(torch.cat(found).squeeze(1), expected)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_alone_is_trained(precision: str) -> None:
    scorer = prefixed()
    scorer.compute_in(precision)
    engine = Replicated(scorer, {"": 1e-2}, OptimizerConfig())
    before = {name: p.detach().clone() for name, p in scorer.named_parameters()}
    engine.backward(-logprobs(scorer).sum(), last=True)
    assert gradients(scorer).keys() == {f"model.{WEIGHT}"}
    assert (gradients(scorer)[f"model.{WEIGHT}"] != 0).all()
    engine.step(1.0)
    changed = [n for n, p in scorer.named_parameters() if not torch.equal(p, before[n])]
    assert changed == [f"model.{WEIGHT}"]


def test_it_is_drawn_from_a_stream_of_its_own() -> None:
    first, again, other = (prefixed(seed).model.get_parameter(WEIGHT) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert float(first.detach().std()) == pytest.approx(0.02, rel=0.2)


@pytest.mark.parametrize("lengths", [[5], [4, 6, 6]])
def test_the_policy_samples_after_it(lengths: list[int]) -> None:
    scorer = prefixed()
    moved(scorer.model)
    prompts, draws = tokens(lengths, seed=2), torch.rand(len(lengths), 8)
    copy = replica(scorer, [(n, p.detach()) for n, p in scorer.model.named_parameters()])
    for policy in (scorer, copy):
        for prompt, response in zip(prompts, generate(policy, prompts, draws, 2), strict=True):
            ids = torch.cat([prompt, response.ids])
            found, _ = scorer([ids], [torch.arange(len(prompt), len(ids))])
            assert float(found.detach().sum()) == pytest.approx(response.logprob, abs=1e-3)
    with switched_off(scorer.model):
        off = generate(scorer, prompts, draws, 2)
    plain = generate(token_scorer(0), prompts, draws, 2)
    assert [one.logprob for one in off] == [one.logprob for one in plain]


def test_switched_off_it_is_what_it_was_added_to(tmp_path: Path) -> None:
    token_scorer(0).model.save_pretrained(tmp_path / "base")
    scorer = load_token_scorer(tmp_path / "base")
    plain = logprobs(scorer)
    add_prefix(scorer.model, 4, 0, "x")
    moved(scorer.model)
    with switched_off(scorer.model):
        assert torch.equal(logprobs(scorer), plain)
    first = logprobs(scorer)
    following = load_token_scorer(publish(scorer, tmp_path / "base", tmp_path / "sft/model"))
    add_prefix(following.model, 4, 1, "x")
    assert torch.equal(logprobs(following), first)
    moved(following.model)
    assert not torch.allclose(logprobs(following), first, atol=1e-3)
    with switched_off(following.model):
        assert torch.equal(logprobs(following), first)


def test_a_reward_models_score_is_trained_and_kept(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    reply_scorer(0).model.save_pretrained(tmp_path / "base")
    scorer = load_reply_scorer(tmp_path / "base")
    add_prefix(scorer.model, 4, 0, "x")
    assert {n for n, p in scorer.model.named_parameters() if p.requires_grad} == {
        WEIGHT, "score.weight"
    }  # fmt: skip
    moved(scorer.model)
    rows = [ids[:0] for ids in SEQUENCES], [[ids] for ids in SEQUENCES]
    folder = publish(scorer, tmp_path / "base", tmp_path / "reward/model")
    with torch.no_grad():
        (expected,), (found,) = scorer(*rows), load_reply_scorer(folder)(*rows)
        assert_near(found, expected)
        base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
        theirs = PeftModel.from_pretrained(base, folder / "adapter").eval()
        scores = [theirs(input_ids=ids[None]).logits[0, 0] for ids in SEQUENCES]
    assert_near(torch.stack(scores), expected)


def test_what_can_not_be_is_refused(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("mamba", **sizes))
    with pytest.raises(ConfigError, match="can't have a prefix: MambaForCausalLM") as refused:
        add_prefix(model, 4, 0, "sft.x.adapter")
    assert refused.value.where == "sft.x.adapter.kind"
    scorer = prefixed()
    with pytest.raises(ConfigError, match="Activations after a prefix"):
        scorer.checkpoint_activations()
    with pytest.raises(ConfigError, match="starts from a prefix of 4 tokens"):
        add_prefix(scorer.model, 5, 0, "x")


def test_model_servers_do_not_take_it(tmp_path: Path) -> None:
    token_scorer(0).model.save_pretrained(tmp_path / "base")
    scorer = load_token_scorer(tmp_path / "base")
    add_prefix(scorer.model, 4, 0, "x")
    folder = publish(scorer, tmp_path / "base", tmp_path / "sft/model")
    config = StoreSlice(kind="reference", longest=16)
    with pytest.raises(IntegrityError, match="has a prefix, which model servers don't know"):
        export("reference", folder.parent, tmp_path / "store", tmp_path / "parity.json", config)
    assert not (tmp_path / "store").exists()


def test_another_models_is_refused(tmp_path: Path) -> None:
    base, other = tmp_path / "base", token_scorer(0, num_key_value_heads=1).model
    token_scorer(0).model.save_pretrained(base)
    scorer = load_token_scorer(base)
    add_prefix(scorer.model, 4, 0, "x")
    folder = publish(scorer, base, tmp_path / "sft/model")
    other.save_pretrained(base)
    other.config.save_pretrained(folder)
    write_base(folder, describe_base(base, folder))
    with pytest.raises(IntegrityError, match="This prefix does not belong to its base"):
        load_token_scorer(folder)
