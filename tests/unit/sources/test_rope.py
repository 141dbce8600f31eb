"""Scaled rotary positions: what is written, what it changes, and what is refused."""

from __future__ import annotations

import json
import math

import pytest
import torch
from support.architectures import PLAIN, SIZES, saved
from support.tiny_models import token_sequences

from rlhf.errors import ConfigError
from rlhf.models.context import check_length, context_of
from rlhf.models.load import load_token_scorer
from rlhf.sources.base_models.rope import scale_positions

TRAINED, FACTOR = 64, 4.0
KINDS = ("linear", "ntk", "yarn", "llama3", "dynamic")


def frequencies(kind: str, width: int, base: float) -> torch.Tensor:
    """θ_i after scaling, in float64, from the papers."""
    plain = [base ** (-2 * i / width) for i in range(width // 2)]
    if kind == "linear":
        found = [theta / FACTOR for theta in plain]
    elif kind == "ntk":
        longer = base * FACTOR ** (width / (width - 2))
        found = [longer ** (-2 * i / width) for i in range(width // 2)]
    elif kind == "dynamic":  # in the context of pretraining
        found = plain
    else:  # by how often each turns in the context of pretraining
        found = []
        for i, theta in enumerate(plain):
            if kind == "yarn":  # Peng et al., equations 22 and 23, with dimensions as bounds

                def dimension(turns: float) -> float:
                    return width * math.log(TRAINED / (turns * 2 * math.pi)) / (2 * math.log(base))

                low, high = (
                    max(math.floor(dimension(32)), 0),
                    min(math.ceil(dimension(1)), width - 1),
                )
                interpolated = min(max((i - low) / max(high - low, 0.001), 0), 1)
                found.append(theta * (1 - interpolated) + theta / FACTOR * interpolated)
            else:
                kept = min(max((TRAINED * theta / (2 * math.pi) - 1) / (4 - 1), 0), 1)
                found.append(theta * kept + theta / FACTOR * (1 - kept))
    return torch.tensor(found, dtype=torch.float64)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    sizes = SIZES | {"max_position_embeddings": TRAINED, "hidden_size": 64, "head_dim": 16}
    return saved(tmp_path_factory.mktemp("rope") / "llama", "llama", sizes)


def scaled(plain, folder, kind):
    """The folder of the same model with scaled positions."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(plain)
    scale_positions(model.config, kind, FACTOR, "models.x.rope_scaling")
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_frequencies_are_those_of_the_papers(plain, tmp_path, kind):
    folder = scaled(plain, tmp_path / kind, kind)
    rotary = load_token_scorer(folder).model.model.rotary_emb
    expected = frequencies(kind, 16, 10_000.0)
    torch.testing.assert_close(rotary.inv_freq.double(), expected, rtol=1e-5, atol=1e-9)
    attention = 0.1 * math.log(FACTOR) + 1 if kind == "yarn" else 1.0
    assert rotary.attention_scaling == pytest.approx(attention)


@pytest.mark.parametrize("kind", KINDS)
def test_longer_rows_are_taken_and_computed_otherwise(plain, tmp_path, kind):
    folder = scaled(plain, tmp_path / kind, kind)
    longer = TRAINED if kind == "dynamic" else int(FACTOR * TRAINED)
    assert context_of(plain).tokens == TRAINED
    assert context_of(folder).tokens == longer
    check_length(context_of(folder), longer, "tokenization.conversation.max_length", "models.x")
    with pytest.raises(ConfigError, match=f"takes at most {longer}"):
        check_length(context_of(folder), longer + 1, "tokenization.conversation.max_length", "x")
    models = [load_token_scorer(each).model for each in (plain, folder)]
    for length, differs in ((30, kind != "dynamic"), (2 * TRAINED, True)):
        (row,) = token_sequences([length])
        with torch.no_grad():
            before, after = (model(input_ids=row[None]).logits for model in models)
        assert torch.equal(before[:, :1], after[:, :1]) or kind in ("yarn", "dynamic")
        assert (not torch.allclose(before, after, atol=1e-4)) == differs
    for name, tensor in models[0].named_parameters():
        assert torch.equal(tensor, models[1].get_parameter(name)), name


def test_a_part_of_a_head_may_turn(tmp_path):
    folder = saved(tmp_path / "plain", "gpt_neox", PLAIN["gpt_neox"] | {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    })  # fmt: skip
    scaled(folder, tmp_path / "ntk", "ntk")
    rope = json.loads((tmp_path / "ntk" / "config.json").read_text())["rope_parameters"]
    assert rope["rope_theta"] == pytest.approx(1e4 * FACTOR ** (4 / 2))
    assert rope["partial_rotary_factor"] == 0.5


@pytest.mark.parametrize(("architecture", "sizes", "message"), [
    ("gpt2", PLAIN["gpt2"], "gpt2 models have no rotary positions"),
    ("opt", PLAIN["opt"], "opt models have no rotary positions"),
    ("bloom", PLAIN["bloom"], "bloom models have no rotary positions"),
    ("gemma3_text", SIZES, "of several kinds, layer by layer"),
    ("llama", SIZES | {"rope_parameters": {"rope_type": "linear", "factor": 2.0,
                                           "rope_theta": 1e4}}, "scaled already: linear"),
])  # fmt: skip
def test_what_can_not_be_scaled_is_refused(architecture, sizes, message):
    from transformers import AutoConfig

    config = AutoConfig.for_model(architecture, **sizes)
    with pytest.raises(ConfigError, match=message) as refused:
        scale_positions(config, "linear", 2.0, "models.x.rope_scaling")
    assert refused.value.where == "models.x.rope_scaling"
