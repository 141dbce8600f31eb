"""Mixed precision: what is narrow, what stays wide, and how far the results are apart."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from support.tiny_models import gradients, labelled, reply_scorer, token_scorer, token_sequences
from support.tiny_settings import reward_config

from rlhf.algorithms.reward import RewardObjective
from rlhf.algorithms.sft import SftObjective
from rlhf.models import logprobs as module
from rlhf.models.logprobs import token_logprobs
from rlhf.models.roots import from_starts
from rlhf.models.scoring import score

NARROW = torch.bfloat16


def both(make, compute):
    """What ``compute`` gives of two equal models, one narrow and one wide."""
    found = []
    for precision in ("bfloat16", "float32"):
        model = make()
        model.compute_in(precision)
        found.append(compute(model))
    return found


def alike(left, right):
    """Cosine of two sets of tensors, seen as one vector each."""
    a, b = (torch.cat([one.flatten() for one in each]) for each in (left, right))
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def types_of_products(model, compute):
    """Types of what the linear layers give, by name."""
    found: dict[str, torch.dtype] = {}
    hooks = [
        module.register_forward_hook(lambda _m, _i, out, n=name: found.__setitem__(n, out.dtype))
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    ]
    compute()
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("frozen", [0, 1])
def test_sft(frozen):
    rows = labelled([9, 21, 2, 14], seed=3)

    def make():
        model = token_scorer(0, tie_word_embeddings=False)
        model.freeze(frozen)
        return model

    def compute(model):
        loss, _ = SftObjective()(model, rows)
        loss.backward()
        return loss.item(), gradients(model)

    (loss, found), (wide_loss, expected) = both(make, compute)
    assert loss != wide_loss, "it is another computation"
    assert loss == pytest.approx(wide_loss, rel=1e-2)
    assert found.keys() == expected.keys()
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}
    assert alike(found.values(), expected.values()) > 0.999


def test_reward_model():
    history, *replies = (x.tolist() for x in token_sequences([9, 5, 12], seed=3))
    row = {"history_ids": history, "reply_ids": replies}

    def compute(model):
        loss, _ = RewardObjective(reward_config(0.01), True)(model, [row])
        loss.backward()
        return loss.item(), gradients(model)

    (loss, found), (wide_loss, expected) = both(reply_scorer, compute)
    assert loss != wide_loss
    assert loss == pytest.approx(wide_loss, abs=0.05)
    assert alike(found.values(), expected.values()) > 0.995


def test_layers_are_narrow_and_scores_wide():
    model = reply_scorer()
    model.compute_in("bfloat16")
    sequences = token_sequences([9, 5], seed=1)
    types = types_of_products(model, lambda: score(model, sequences))
    assert types.pop("model.score") == torch.float32, "a score with eight bits ranks badly"
    assert set(types.values()) == {NARROW}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_branches_are_narrow_too():
    model = reply_scorer()
    model.compute_in("bfloat16")
    history, *branches = token_sequences([9, 5, 6], seed=1)
    (found,) = model.branched_hidden_states([history], [branches])
    whole = [torch.cat([history, branch]) for branch in branches]
    apart = [h[9 : len(w)] for h, w in zip(model.hidden_states(whole), whole, strict=True)]
    (wide,) = reply_scorer().branched_hidden_states([history], [branches])
    for narrow, alone, exact in zip(found, apart, wide, strict=True):
        assert narrow.dtype == torch.float32
        assert not torch.equal(narrow, exact)
        torch.testing.assert_close(narrow, alone, atol=0.05, rtol=0.05)
        torch.testing.assert_close(narrow, exact, atol=0.05, rtol=0.05)


def test_logits_are_what_autocast_gives():
    model = token_scorer(0)
    model.compute_in("bfloat16")
    (sequence,) = token_sequences([12], seed=2)
    with torch.no_grad():
        found, _ = model([sequence], from_starts([sequence], [5]))
        with torch.autocast("cpu", NARROW):
            logits = model.model(input_ids=sequence[None]).logits[0].float()
    expected = logits.log_softmax(-1)[range(4, 11), sequence[5:]]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_a_head_with_a_bias():
    def compute(dtype):
        torch.manual_seed(6)
        head = torch.nn.Linear(16, 37)
        hidden, targets = torch.randn(11, 16).requires_grad_(), torch.arange(11)
        token_logprobs(head, hidden, targets, dtype=dtype)[0].sum().backward()
        return [hidden.grad, head.weight.grad, head.bias.grad]

    found, expected = compute(NARROW), compute(None)
    assert {one.dtype for one in found} == {torch.float32}
    for narrow, wide in zip(found, expected, strict=True):
        assert alike([narrow], [wide]) > 0.999


def test_the_heads_gradient_is_summed_in_float32(monkeypatch):
    """Rounded once a chunk, it is as near to float64 as if it were rounded once in all."""
    rows, width, vocabulary, chunks = 1024, 16, 64, 128
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", rows // chunks * vocabulary)
    torch.manual_seed(6)
    hidden, targets = torch.randn(rows, width).to(NARROW), torch.randint(vocabulary, (rows,))
    head = torch.nn.Linear(width, vocabulary)
    head.load_state_dict({name: each.to(NARROW) for name, each in head.state_dict().items()})

    def gradients_of(kind):
        own = torch.nn.Linear(width, vocabulary, dtype=kind)
        own.load_state_dict(head.state_dict())
        token_logprobs(own, hidden.to(kind), targets, dtype=kind)[0].sum().backward()
        return own.weight.grad, own.bias.grad

    token_logprobs(head, hidden, targets, dtype=NARROW)[0].sum().backward()
    found, exact = (head.weight.grad, head.bias.grad), gradients_of(torch.float64)
    in_eight_bits = gradients_of(NARROW)
    for own, right, rounded in zip(found, exact, in_eight_bits, strict=True):
        assert own.dtype == torch.float32
        error = (own - right).norm() / right.norm()
        once = (right.to(NARROW) - right).norm() / right.norm()
        assert error < 1.5 * once
        assert (rounded - right).norm() / right.norm() < 2 * once, "summed wide, rounded last"


FLOAT32 = """
import torch
from rlhf.models.precision import exact_float32
print(torch.backends.cuda.matmul.fp32_precision)
exact_float32()
print(torch.backends.cuda.matmul.fp32_precision, torch.get_float32_matmul_precision(),
      torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
"""


def test_float32_is_no_tensor_float_32_whatever_the_environment_says():
    done = subprocess.run(
        [sys.executable, "-c", FLOAT32],
        env=os.environ | {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"},
        capture_output=True, text=True, check=True, timeout=600,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["tf32", "ieee highest False False"]


def test_new_weights_count_at_once():
    """A copy of narrow weights must not outlive the pass that made it."""
    model = reply_scorer()
    model.compute_in("bfloat16")
    sequences = token_sequences([9, 5], seed=1)
    before = score(model, sequences)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layers" in name:
                parameter.mul_(1.5)
        after = score(model, sequences)
    assert not torch.allclose(before, after, atol=1e-3)
    assert not torch.is_autocast_enabled("cpu")


def test_float32_is_exactly_as_without_a_choice():
    rows = labelled([9, 21], seed=3)
    chosen, plain = token_scorer(0), token_scorer(0)
    chosen.compute_in("float32")
    assert torch.equal(SftObjective()(chosen, rows)[0], SftObjective()(plain, rows)[0])


MANY_SHAPES = """
import torch
from rlhf.stages.training import begin
begin()
for _ in range(2):
    for rows in range(1, 101):
        torch.nn.functional.linear(torch.ones(rows, 64).bfloat16(), torch.ones(64, 64).bfloat16())
"""


def test_a_stage_does_not_keep_what_it_made_for_every_shape():
    """oneDNN says when it finds something kept; of 100 shapes in turn it may find none again."""
    done = subprocess.run(
        [sys.executable, "-c", MANY_SHAPES],
        env=os.environ | {"ONEDNN_VERBOSE": "profile_create"},
        capture_output=True, text=True, check=True, timeout=600,
    )  # fmt: skip
    assert "create:cache_hit" not in done.stdout
