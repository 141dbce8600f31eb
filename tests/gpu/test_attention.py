"""Ways to compute attention on a GPU: which work, what they compute, and that nobody waits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from support.tiny_models import gradients, reply_scorer, token_scorer, token_sequences
from support.tolerances import assert_gradients_near, assert_near

from rlhf.config.training import OptimizerConfig
from rlhf.models.attention_probe import is_fused, problem
from rlhf.models.precision import exact_float32
from rlhf.models.roots import TokenScorer, from_starts
from rlhf.runtime.options import EngineOptions
from rlhf.training import distributed
from rlhf.training.attention import attention_facts, choose_attention
from rlhf.training.engine.open import open_engine

pytestmark = pytest.mark.gpu

SHAPE = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}  # heads of 32
PROMPT, *REPLIES = token_sequences([9, 5, 40, 12, 130], seed=3)
SEQUENCES = [torch.cat([PROMPT, reply]) for reply in REPLIES]
PLACES = from_starts(SEQUENCES, [len(PROMPT)] * len(SEQUENCES))
PROMPTS = [len(PROMPT) - 1] * len(SEQUENCES)
BFLOAT16_ROUNDING = 2.0**-5  # of all gradients together; a product's is 2⁻⁸
WAYS = [("bfloat16", "flash"), ("bfloat16", "flex"), ("float32", "flex")]


@pytest.fixture(autouse=True)
def _exact() -> None:
    exact_float32()


def scorer(precision: str, **changes) -> TokenScorer:
    root = token_scorer(0, **SHAPE | changes).cuda()
    root.compute_in(precision)
    return root


def learned(root: TokenScorer) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    logprobs, _ = root(SEQUENCES, PLACES, prompts=PROMPTS)
    (logprobs * torch.linspace(-1, 2, len(logprobs), device="cuda")).sum().backward()
    found = gradients(root)
    root.zero_grad()
    return logprobs.detach(), found


@pytest.mark.parametrize(("precision", "way"), WAYS)
@pytest.mark.parametrize("window", [None, 4096])
def test_ways_that_work(precision, way, window):
    from transformers import MistralConfig, MistralForCausalLM

    config = token_scorer(0, **SHAPE).model.config.to_dict() | {"sliding_window": window}
    config.pop("model_type")
    root = TokenScorer(MistralForCausalLM(MistralConfig(**config)))
    root.compute_in(precision)
    assert problem(root, way, torch.device("cuda", 0)) is None


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_scaled_dot_products_have_a_kernel_that_keeps_no_scores(precision):
    assert is_fused(scorer(precision), torch.device("cuda", 0))


def test_the_first_way_that_works_is_taken():
    for root, way in (
        (scorer("bfloat16"), "flash"),
        (scorer("float32"), "flex"),
        (reply_scorer(0, **SHAPE).cuda(), "flex"),
    ):
        choose_attention(root, "auto")
        assert attention_facts(root) == {"attention": way}
        assert root.packs


@pytest.mark.parametrize(("precision", "way"), WAYS)
@pytest.mark.parametrize("key_heads", [2, 4])
def test_rows_in_one_sequence_learn_as_padded_ones(precision, way, key_heads):
    root = scorer(precision, num_key_value_heads=key_heads)
    root.attend("sdpa")
    expected, plain = learned(root)
    root.attend(way)
    found, own = learned(root)
    if precision == "float32":
        assert_near(found, expected)
        assert_gradients_near(own, plain)
        return
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0)
    difference = torch.cat([(own[name] - plain[name]).flatten() for name in plain]).norm()
    whole = torch.cat([gradient.flatten() for gradient in plain.values()]).norm()
    assert difference < BFLOAT16_ROUNDING * whole


@pytest.mark.parametrize(("precision", "way"), WAYS)
@torch.no_grad()
def test_no_token_sees_another_row(precision, way):
    root = scorer(precision)
    root.attend(way)
    sizes = [len(each) for each in PLACES]
    before = root.states_at(SEQUENCES, PLACES, PROMPTS).split(sizes)
    changed = [SEQUENCES[0], torch.cat([PROMPT, REPLIES[1].flip(0)]), *SEQUENCES[2:]]
    after = root.states_at(changed, PLACES, PROMPTS).split(sizes)
    assert not torch.allclose(after[1], before[1], atol=0.1)
    for i in (0, 2, 3):
        torch.testing.assert_close(after[i], before[i], atol=0, rtol=0)


def test_slices_are_gathered_for_rows_in_one_sequence():
    found = []
    for kind in ("replicated", "fsdp"):
        root = scorer("bfloat16")
        engine = open_engine(root, {"": 1e-3}, OptimizerConfig(), EngineOptions(kind))
        assert root.attention == "flash"
        logprobs, _ = engine(SEQUENCES, PLACES)
        engine.backward(-logprobs.mean(), last=True)
        found.append(engine.step(1.0))
    distributed.finish()
    assert found[1] == pytest.approx(found[0], rel=BFLOAT16_ROUNDING)


@contextmanager
def nobody_waits() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("way", ["flash", "flex"])
def test_a_pass_does_not_wait_for_the_gpu(way):
    root = scorer("bfloat16")
    root.attend(way)
    learned(root)  # compiles, and fills caches
    with nobody_waits():
        logprobs, _ = root(SEQUENCES, PLACES, prompts=PROMPTS)
        logprobs.sum().backward()
    assert all(gradient.isfinite().all() for gradient in gradients(root).values())
