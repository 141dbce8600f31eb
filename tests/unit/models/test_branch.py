"""Branches on a policy's layers, against whole models of their own, in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from support.architectures import GPT, OWN, PLAIN, SIZES
from support.tiny_models import gradients, token_sequences

from rlhf.errors import ConfigError
from rlhf.models.branch import Branch
from rlhf.models.head import find_head
from rlhf.models.load import disable_dropout
from rlhf.models.roots import ActorCritic, TokenScorer, ValueBranch, from_starts

LAYERS = 4
KINDS = {
    "llama": SIZES,
    "llama, tied": SIZES | {"tie_word_embeddings": True},
    "gpt_neox": SIZES,
    "gptj": PLAIN["gptj"],
    "gpt2": GPT,
    "opt": PLAIN["opt"],
    "bloom": SIZES,
    "gemma2": OWN["gemma2"],
}
NAMES = {"gptj": "n_layer", "gpt2": "n_layer"}
STARTS = [5, 5, 3]


def scorer(kind: str) -> TokenScorer:
    from transformers import AutoConfig, AutoModelForCausalLM

    architecture = kind.partition(",")[0]
    depth = {NAMES.get(architecture, "num_hidden_layers"): LAYERS}
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **KINDS[kind] | depth)
    model = AutoModelForCausalLM.from_config(config)
    if kind != "gemma2":  # its own way to logits takes the states as they come, in float32
        model = model.double()
    disable_dropout(model)
    return TokenScorer(model, find_head(model, kind))


def sequences() -> list[torch.Tensor]:
    first, second, third = token_sequences([12, 9, 8], seed=3)
    return [first, torch.cat([first[:5], second]), third]  # two with one prompt


def assert_near(found, expected, name=""):
    """Hidden states are float32, whatever the weights."""
    error, size = (found - expected).abs().max(), expected.abs().max()
    assert error <= 2e-5 * size + 1e-9, f"{name}: off by {error:.2g} of {size:.2g}"


def disturb(model, seed=7):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(
                    parameter.shape, generator=generator, dtype=parameter.dtype
                )


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_branch_is_the_model_that_the_policy_was(kind):
    policy, rows = scorer(kind), sequences()
    places = from_starts(rows, STARTS)
    whole = copy.deepcopy(policy)
    policy.freeze(2)
    policy.keep_start(2)
    disturb(policy.model)
    prompts = [start - 1 for start in STARTS]
    with torch.no_grad():
        expected, _ = whole(rows, places, 0.7)
        now, _ = policy(rows, places, 0.7, prompts=prompts)
        found, _ = policy(rows, places, 0.7, prompts=prompts, adapted=False)
        again, _ = policy(rows, places, 0.7, prompts=prompts)
    assert_near(found, expected)
    assert (now - expected).abs().max() > 0.01
    assert torch.equal(again, now), "the policy is in its place again"
    own = sum(parameter.numel() for parameter in policy.start.parameters())
    trained = sum(p.numel() for p in policy.model.parameters() if p.requires_grad)
    assert own == trained, "what is frozen is not there twice"
    assert not any(parameter.requires_grad for parameter in policy.start.parameters())


def joint_loss(logprobs, values):
    weights = torch.arange(1.0, len(values) + 1, dtype=torch.float64) / len(values)
    return -(weights * logprobs).sum() + 0.3 * ((values.double() - weights) ** 2).sum()


@pytest.mark.parametrize("frozen", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_value_branch_learns_as_two_whole_models_with_shared_layers_do(kind, frozen):
    """Values and gradients: of the policy, of a second model, and of both in the shared layers."""
    policy, rows, layers = scorer(kind), sequences(), 2
    policy.freeze(frozen)
    value = ValueBranch(policy, layers, "value.layers")
    torch.nn.init.normal_(value.head.linear.weight, std=0.5)
    for parameter in value.branch.parameters():
        parameter.requires_grad_(True)
    disturb(value)
    other = copy.deepcopy(policy)
    with torch.no_grad(), value.branch.in_place():
        state = {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}
    other.model.load_state_dict(state)

    actor = ActorCritic(policy, value, 0.7)
    logprobs, values, _ = actor(rows, STARTS)
    joint_loss(logprobs, values).backward()
    found = gradients(policy.model)

    places = from_starts(rows, STARTS)
    plain = copy.deepcopy(policy)
    plain.zero_grad(), other.zero_grad()
    alone, _ = plain(rows, places, 0.7)
    states, _ = other.states_before(rows, places)
    head = copy.deepcopy(value.head)
    head.zero_grad()
    expected = head(states)
    assert_near(logprobs, alone)
    assert_near(values, expected)
    joint_loss(alone, expected).backward()
    of_policy, of_value = gradients(plain.model), gradients(other.model)

    with value.branch.in_place():
        named = {id(p): name for name, p in policy.model.named_parameters()}
    copies = {named[id(p)]: p.grad for p in value.branch.parameters()}
    assert copies, "no layer of its own was trained"
    for name, gradient in copies.items():
        assert_near(gradient, of_value.pop(name), name)
    for name, gradient in found.items():
        both = of_policy.pop(name, 0) + of_value.pop(name, torch.zeros_like(gradient))
        assert_near(gradient, both, name)
    assert not of_policy
    assert_near(value.head.linear.weight.grad, head.linear.weight.grad)


@pytest.mark.parametrize("kind", ["llama", "gpt_neox"])
def test_the_shared_layers_run_once(kind):
    policy, rows = scorer(kind), sequences()
    actor = ActorCritic(policy, ValueBranch(policy, 1, "value.layers"))
    stack, runs = policy.model.base_model.layers, [0] * LAYERS
    for i, layer in enumerate(stack):
        layer.register_forward_hook(lambda *_, i=i: runs.__setitem__(i, runs[i] + 1))
    own = []
    actor.value.branch.layers[0].register_forward_hook(lambda *_: own.append(1))
    actor(rows, STARTS)
    passes = runs[0]
    assert runs == [passes] * LAYERS
    assert len(own) == passes


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_activations_that_are_computed_again_change_no_gradient(kind):
    found, runs = [], []
    for again in (False, True):
        policy, rows = scorer(kind), sequences()
        value = ValueBranch(policy, 2, "value.layers")
        torch.nn.init.normal_(value.head.linear.weight, std=0.5, generator=torch.manual_seed(1))
        actor = ActorCritic(policy, value)
        if again:
            policy.checkpoint_activations()
            with value.branch.in_place():
                policy.checkpoint_activations()
            for layer in actor.modules():
                if isinstance(layer, type(value.branch.layers[0])):
                    inner = next(layer.children())  # of a layer itself, hooks run once
                    inner.register_forward_pre_hook(lambda *_, layer=layer: runs.append(layer))
        logprobs, values, _ = actor(rows, STARTS)
        forward = len(runs)
        joint_loss(logprobs, values).backward()
        found.append(gradients(actor))
    assert len(runs) == 2 * forward, "every layer once more, and every copy"
    assert set(value.branch.layers) < set(runs)
    for name, gradient in found[0].items():
        assert_near(found[1][name], gradient, name)


@pytest.mark.parametrize(("layers", "frozen"), [(4, 0), (9, 0), (3, 2)])
def test_a_branch_that_does_not_fit(layers, frozen):
    policy = scorer("llama")
    policy.freeze(frozen)
    with pytest.raises(ConfigError, match="upper layers of its own") as refused:
        ValueBranch(policy, layers, "ppo.x.value.layers")
    assert refused.value.where == "ppo.x.value.layers"


def test_the_copies_compute_attention_as_the_model_does():
    policy = scorer("llama")
    branch = Branch(policy.model, 2)
    policy.attend("eager")
    assert {layer.self_attn.config._attn_implementation for layer in branch.layers} == {"eager"}
