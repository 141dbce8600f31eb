"""Rows in one sequence against rows computed one by one: values, gradients, and who sees whom."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.architectures import SIZES
from support.fake_flash import fake_varlen_attn_of_a_gpu
from support.tiny_models import gradients, reply_scorer, reward_model, token_sequences
from support.tolerances import assert_gradients_near, assert_near
from torch.nn import functional as F
from torch.nn.attention import varlen

from rlhf.models import attention
from rlhf.models.backbone import backbones
from rlhf.models.load import disable_dropout
from rlhf.models.packing import BLOCK, block_mask, pack, visible
from rlhf.models.roots import ActorCritic, Critic, ReplyScorer, TokenScorer, ValueHead, from_starts

PROMPT, OTHER, *REPLIES = token_sequences([9, 4, 5, 2, 12, 7], seed=3)
PROMPTS = [PROMPT, PROMPT, OTHER, PROMPT]
SEQUENCES = [torch.cat(pair) for pair in zip(PROMPTS, REPLIES, strict=True)]
STARTS = [len(prompt) for prompt in PROMPTS]
WINDOW = 5
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt_neox": {},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 16},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "mistral": {"sliding_window": WINDOW},
    "qwen2": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    "qwen3": {},
}


@pytest.fixture(params=["flash", "sdpa"])
def kind(request, monkeypatch) -> str:
    monkeypatch.setattr(varlen, "varlen_attn", fake_varlen_attn_of_a_gpu)
    return request.param


def scorer(architecture: str) -> TokenScorer:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **SIZES | ARCHITECTURES[architecture])
    model = AutoModelForCausalLM.from_config(config)
    disable_dropout(model)
    return TokenScorer(model)


def learned(root: TokenScorer) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Log probabilities of the replies, and gradients of a sum in which each weighs otherwise."""
    places = from_starts(SEQUENCES, STARTS)
    logprobs, _ = root(SEQUENCES, places, prompts=[start - 1 for start in STARTS])
    (logprobs * torch.linspace(-1, 2, len(logprobs))).sum().backward()
    found = gradients(root)
    root.zero_grad()
    return logprobs.detach(), found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_in_one_sequence_learn_as_padded_ones(architecture, kind):
    root = scorer(architecture)
    root.attend("eager")
    expected, plain = learned(root)
    root.attend(kind, packs=True)
    found, own = learned(root)
    assert_near(found, expected)
    assert_gradients_near(own, plain)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_token_sees_another_row(architecture, kind):
    root = scorer(architecture)
    root.attend(kind, packs=True)
    places = from_starts(SEQUENCES, STARTS)
    with torch.no_grad():
        before = root.states_at(SEQUENCES, places).split([len(each) for each in places])
        changed = [SEQUENCES[0], SEQUENCES[1].flip(0), *SEQUENCES[2:]]
        after = root.states_at(changed, places).split([len(each) for each in places])
    assert not torch.allclose(after[1], before[1], atol=0.1)
    for i in (0, 2, 3):
        torch.testing.assert_close(after[i], before[i], atol=0, rtol=0)


def test_gradients_of_layers_that_are_frozen_or_computed_again(kind):
    root = scorer("llama")
    root.freeze(1)
    root.attend("eager")
    expected, plain = learned(root)
    root.attend(kind, packs=True)
    root.checkpoint_activations()
    found, own = learned(root)
    assert_near(found, expected)
    assert_gradients_near(own, plain)


def test_products_are_of_the_type_that_was_chosen(kind):
    root = scorer("llama")
    root.compute_in("bfloat16")
    root.attend("sdpa")
    expected, _ = learned(root)
    root.attend(kind, packs=True)
    found, _ = learned(root)
    assert_near(found, expected, least=2.0**16)  # float32's digits, for those of bfloat16


def scored(root: ReplyScorer) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Scores of replies that share a history, of one alone, and of a whole sequence."""
    histories = [PROMPT, OTHER, PROMPT[:0]]
    (scores,) = root(histories, [REPLIES[:3], REPLIES[3:], [SEQUENCES[2]]])
    (scores * torch.linspace(-1, 2, len(scores))).sum().backward()
    found = gradients(root)
    root.zero_grad()
    return scores.detach(), found


def test_scores_of_replies_in_one_sequence(kind):
    root = reply_scorer()
    root.attend("eager")
    expected, plain = scored(root)
    root.attend(kind, packs=True)
    root.place(torch.device("cpu"), lockstep=True)  # one pass, so slices may be gathered
    assert root.branches == (kind == "sdpa")
    found, own = scored(root)
    assert_near(found, expected)
    assert_gradients_near(own, plain)


def test_a_history_is_computed_once_in_one_pass(monkeypatch):
    root, seen = reply_scorer(), []
    root.attend("sdpa", packs=True)
    layer = root.model.base_model.layers[0]
    layer.register_forward_pre_hook(lambda _layer, given: seen.append(given[0].shape[1]))
    scored(root)
    assert seen == [9 + (5 + 2 + 12) + 4 + 7 + len(SEQUENCES[2])]


def test_values_of_a_head_and_of_a_critic(kind):
    head = ValueHead(32)
    torch.nn.init.normal_(head.linear.weight)
    for value in (head, Critic(reward_model(1), 0.5, 2.0)):
        actor, results = ActorCritic(scorer("llama"), value), []
        for way, packs in (("eager", False), (kind, True)):
            for backbone in backbones(actor):
                backbone.attend(way, packs)
            logprobs, values, entropy = actor(SEQUENCES, STARTS, with_entropy=True)
            (logprobs.sum() + (values * torch.linspace(-1, 2, len(values))).sum()).backward()
            results.append((logprobs, values, entropy, gradients(actor)))
            actor.zero_grad()
        (*expected, plain), (*found, own) = results
        for one, other in zip(found, expected, strict=True):
            assert_near(one, other)
        assert_gradients_near(own, plain)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2"])
def test_masks_of_blocks_are_those_of_tokens(architecture, monkeypatch):
    """FlexAttention has no gradients on CPUs, and what it computes need not be compiled."""
    root = scorer(architecture)
    places = from_starts(SEQUENCES, STARTS)
    prompts = [start - 1 for start in STARTS]
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        root.attend("sdpa", packs=True)
        expected = root.states_at(SEQUENCES, places, prompts)
        root.attend("flex")
        assert root.packs
        assert_near(root.states_at(SEQUENCES, places, prompts), expected)


@pytest.mark.parametrize("window", [None, 100])
def test_whole_blocks(window):
    """A block that is called full hides nothing, one that is left out shows nothing."""
    rows = token_sequences([300, 40, 130, 200, 10, 500, 90])
    packed = pack([(rows[0], ()), (rows[1], rows[2:4]), (rows[4], ()), (rows[5], rows[6:])], BLOCK)
    sees, count = visible(packed.tokens)(window), packed.tokens.shape[1]
    assert count % BLOCK == 0
    mask = block_mask(packed, sees, window, torch.device("cpu"))
    places = torch.arange(count)
    tokens = sees(0, 0, places[:, None], places)
    blocks = tokens.view(count // BLOCK, BLOCK, -1, BLOCK)
    full = _dense(mask.full_kv_num_blocks, mask.full_kv_indices)
    some = _dense(mask.kv_num_blocks, mask.kv_indices)
    assert not (full & some).any()
    assert full.any() == (window is None)
    assert blocks.all(3).all(1)[full].all()
    assert not blocks.any(3).any(1)[~(full | some)].any()


def _dense(counts, orders):
    found = torch.zeros(orders.shape[2:], dtype=torch.bool)
    for query, (count, order) in enumerate(zip(counts[0, 0], orders[0, 0], strict=True)):
        found[query, order[:count].long()] = True
    return found


def test_groups_of_query_heads_that_torch_has_no_kernel_for(monkeypatch):
    """Keys and values are repeated, as on a GPU in float32."""
    root = scorer("llama")
    expected, plain = learned(root)
    heads: list[int] = []
    attend = F.scaled_dot_product_attention
    monkeypatch.setattr(attention, "_only_plain", lambda query: True)
    monkeypatch.setattr(
        F, "scaled_dot_product_attention",
        lambda q, k, v, **options: heads.append(k.shape[1]) or attend(q, k, v, **options),
    )  # fmt: skip
    found, own = learned(root)
    assert set(heads) == {4}
    assert_near(found, expected)
    assert_gradients_near(own, plain)
