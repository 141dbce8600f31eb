"""What can be done with a model, and what is said of one that can't do all."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.architectures import OWN, PLAIN, SIZES, XLSTM, saved
from support.tiny_models import token_sequences

from rlhf.errors import ConfigError
from rlhf.models.abilities import scores_problem, what_it_cannot
from rlhf.models.load import load_token_scorer
from rlhf.models.reward import load_reply_scorer, new_reply_scorer
from rlhf.models.sampling_check import check_sampling
from rlhf.models.scoring import score
from rlhf.provenance.facts import SAMPLING, SCORES

WINDOWED = {
    "mistral": SIZES | {"sliding_window": 8},
    "qwen2": SIZES | {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 1},
    "gemma3_text": SIZES | {"sliding_window": 8, "num_hidden_layers": 6},
}
STATEFUL = {
    "mamba": {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "falcon_h1": OWN["falcon_h1"],
    "xlstm": XLSTM,
    "jamba": SIZES,
}


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt_neox", "gpt2", "gptj", "opt"])
def test_most_models_can_do_all(tmp_path, architecture):
    model = load_token_scorer(saved(tmp_path, architecture, PLAIN[architecture]))
    assert what_it_cannot(model.model) == {}
    check_sampling(model, tmp_path)


@pytest.mark.parametrize("architecture", STATEFUL)
def test_models_without_keys_and_values_are_not_sampled_from(tmp_path, architecture):
    model = load_token_scorer(saved(tmp_path, architecture, STATEFUL[architecture]))
    said = what_it_cannot(model.model)
    assert f"({model.model.config.model_type})" in said[SAMPLING]
    with pytest.raises(ConfigError, match="No responses can be sampled"):
        check_sampling(model, tmp_path)


@pytest.mark.parametrize("architecture", WINDOWED)
def test_windows_are_kept_in_sampling(tmp_path, architecture):
    """Prompts and responses of several windows, one beside a longer one."""
    from rlhf.models.generate import generate, uniforms

    model = load_token_scorer(saved(tmp_path, architecture, WINDOWED[architecture]))
    prompts = token_sequences([21, 30, 9], seed=4)
    responses = generate(model, prompts, uniforms(np.random.default_rng(0), 3, 15), eos_id=-1)
    for prompt, response in zip(prompts, responses, strict=True):
        whole = torch.cat([prompt, response.ids])
        with torch.no_grad():
            logits = model.model(input_ids=whole[None], use_cache=False).logits[
                0, len(prompt) - 1 : -1
            ]
        logprobs = logits.log_softmax(-1).gather(1, response.ids[:, None])
        assert response.logprob == pytest.approx(float(logprobs.sum()), abs=1e-2)


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        ("falcon_h1", "no class for sequence classification with falcon_h1"),
        ("cohere", "no class for sequence classification with cohere"),
        ("modernbert-decoder", "no linear layer `score`"),
    ],
)
def test_no_reward_model_without_a_score(tmp_path, architecture, said):
    model = load_token_scorer(saved(tmp_path, architecture, OWN[architecture]))
    assert said in what_it_cannot(model.model)[SCORES]
    with pytest.raises(ConfigError, match=said):
        new_reply_scorer(tmp_path, seed=0)


def test_asking_takes_no_memory_and_changes_no_configuration(tmp_path):
    model = load_token_scorer(saved(tmp_path, "llama", SIZES)).model
    before = model.config.to_dict()
    assert scores_problem(model.config) == ""
    assert model.config.to_dict() == before


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt", "gemma2", "mpt", "phi"])
def test_scores_are_the_models_own(tmp_path, architecture):
    """A cap on logits is no cap on scores."""
    saved(tmp_path / "lm", architecture, (PLAIN | OWN)[architecture])
    new_reply_scorer(tmp_path / "lm", seed=1).model.save_pretrained(tmp_path / "judge")
    judge = load_reply_scorer(tmp_path / "judge").eval()
    sequences = token_sequences([5, 12, 9], seed=3)
    with torch.no_grad():
        found = score(judge, sequences)
        expected = [float(judge.model(input_ids=one[None]).logits[0, 0]) for one in sequences]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=1e-4)


def test_a_score_that_is_more_than_linear_is_refused(monkeypatch, tmp_path):
    from transformers import LlamaForSequenceClassification

    saved(tmp_path, "llama", SIZES)
    original = LlamaForSequenceClassification.forward

    def doubled(self, **kwargs):
        made = original(self, **kwargs)
        made.logits = 2 * made.logits
        return made

    monkeypatch.setattr(LlamaForSequenceClassification, "forward", doubled)
    with pytest.raises(ConfigError, match=r"\(llama\) is more than a linear layer"):
        new_reply_scorer(tmp_path, seed=0)


def test_sampling_by_other_probabilities_is_refused(monkeypatch, tmp_path):
    """As where what is kept of a prompt is not all that the next token needs."""
    from transformers import LlamaModel

    model = load_token_scorer(saved(tmp_path, "llama", SIZES))
    original = LlamaModel.forward

    def forgetful(self, input_ids=None, position_ids=None, **kwargs):
        return original(self, input_ids=input_ids, position_ids=None, **kwargs)

    monkeypatch.setattr(LlamaModel, "forward", forgetful)
    with pytest.raises(ConfigError, match=r"\(llama\) samples by other probabilities"):
        check_sampling(model, tmp_path)
