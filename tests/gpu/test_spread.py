"""Models that nothing trains on real GPUs: on one, and over two."""

from __future__ import annotations

import pytest
import torch
from support.tiny_models import causal_lm, reward_model, token_sequences
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rlhf.core.seeds import generator
from rlhf.errors import ClusterError
from rlhf.models import inference, spread
from rlhf.models.generate import generate, uniforms
from rlhf.models.load import load_token_scorer
from rlhf.models.reward import load_reply_scorer
from rlhf.models.roots import from_starts
from rlhf.models.scoring import score

pytestmark = pytest.mark.gpu
ROWS = token_sequences([9, 4, 12, 7, 7, 5], seed=1)
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def places(loader: type, folder) -> dict[str, int]:
    """A map over two GPUs of which the first is too small."""
    total = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return spread.device_map(loader, folder, torch.float32, [0.75 * total] * 2)


@pytest.fixture
def two_gpus() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("a single GPU here: layers can't be on two")


@pytest.mark.usefixtures("two_gpus")
def test_a_language_model_over_two_gpus(tmp_path):
    causal_lm(0, num_hidden_layers=4).save_pretrained(tmp_path)
    on_cpu = load_token_scorer(tmp_path).eval()
    found = load_token_scorer(tmp_path, torch.float32, places(AutoModelForCausalLM, tmp_path))
    assert {p.device.index for p in found.model.parameters()} == {0, 1}
    at = from_starts(ROWS, [2] * len(ROWS))
    draws = uniforms(generator(0, "test"), len(ROWS), 24)
    with torch.no_grad():
        torch.testing.assert_close(found.eval()(ROWS, at)[0].cpu(), on_cpu(ROWS, at)[0], **CLOSE)
    sampled, expected = (generate(model, ROWS, draws, eos_id=7) for model in (found, on_cpu))
    for mine, its in zip(sampled, expected, strict=True):
        assert torch.equal(mine.ids, its.ids)
        assert mine.logprob == pytest.approx(its.logprob, rel=1e-4)


@pytest.mark.usefixtures("two_gpus")
def test_a_reward_model_over_two_gpus(tmp_path):
    reward_model(0, num_hidden_layers=4).save_pretrained(tmp_path)
    at = places(AutoModelForSequenceClassification, tmp_path)
    found, on_cpu = (load_reply_scorer(tmp_path, torch.float32, m).eval() for m in (at, None))
    with torch.no_grad():
        torch.testing.assert_close(score(found, ROWS).cpu(), score(on_cpu, ROWS), **CLOSE)


def test_a_model_that_fits_is_on_the_first_gpu(tmp_path):
    causal_lm(0).save_pretrained(tmp_path)
    model = inference.token_scorer(tmp_path).model
    assert {(p.device, p.dtype) for p in model.parameters()} == {
        (torch.device("cuda", 0), torch.bfloat16)
    }


def test_a_model_without_room_is_refused(tmp_path, monkeypatch):
    causal_lm(0).save_pretrained(tmp_path)
    monkeypatch.setattr(spread, "FULL", 1e-9)
    with pytest.raises(ClusterError, match="too large for the GPUs"):
        inference.token_scorer(tmp_path)
