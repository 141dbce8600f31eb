from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from support.tiny_models import assert_close, gradients, labelled, token_scorer

from rlhf.algorithms.sft import SftObjective
from rlhf.config.sft import LossConfig, SftConfig
from rlhf.data.labels import IGNORED


def plain_loss(model, rows):
    """The textbook form: full logits, shifted labels, ignore_index, row by row."""
    loss = 0.0
    for row in rows:
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1].float()
        labels = torch.tensor(row["labels"])[1:]
        loss = loss + torch.nn.functional.cross_entropy(
            logits, labels, ignore_index=IGNORED, reduction="sum"
        )
    return loss


@pytest.mark.parametrize("frozen", [0, 1, 2])
@pytest.mark.parametrize("tied", [False, True])
def test_equals_the_plain_cross_entropy(frozen, tied):
    model = token_scorer(0, tie_word_embeddings=tied)
    model.freeze(frozen)
    rows = labelled([9, 21, 2, 14], seed=3)
    objective = SftObjective()
    weight = sum(objective.weight(row) for row in rows)
    loss, measures = objective(model, rows)
    (loss / weight).backward()
    found = gradients(model)
    model.zero_grad()
    expected = plain_loss(model.model, rows)
    (expected / weight).backward()
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert_close(found, gradients(model), atol=1e-5)
    assert any("layers.0" in name for name in found) == (frozen == 0)
    assert any("embed" in name for name in found) == (frozen == 0)
    assert found.keys() == {n for n, p in model.named_parameters() if p.requires_grad}
    assert measures == {}


def test_weight_counts_labels_that_have_a_token_before_them():
    row = {"input_ids": [5, 6, 7, 8], "labels": [5, IGNORED, 7, 8]}
    assert SftObjective().weight(row) == 2
    assert SftObjective().shape(row) == (1, 4)
    model = token_scorer(0)
    first_masked = row | {"labels": [IGNORED, IGNORED, 7, 8]}
    assert torch.equal(SftObjective()(model, [row])[0], SftObjective()(model, [first_masked])[0])


def test_masked_labels_are_not_learned():
    model = token_scorer(0)
    row = {"input_ids": [5, 6, 7, 8], "labels": [IGNORED, 6, IGNORED, IGNORED]}
    other = row | {"input_ids": [5, 6, 70, 80]}
    with torch.no_grad():
        assert torch.allclose(SftObjective()(model, [row])[0], SftObjective()(model, [other])[0])
        changed = row | {"input_ids": [50, 6, 7, 8]}
        assert not torch.allclose(
            SftObjective()(model, [row])[0], SftObjective()(model, [changed])[0]
        )


def test_dropout_is_off_in_training_mode():
    """Checklist 16"""
    from support.tiny_models import configuration
    from transformers import LlamaForCausalLM

    from rlhf.models.load import disable_dropout
    from rlhf.models.roots import TokenScorer

    torch.manual_seed(0)
    rows = labelled([12, 7])
    model = TokenScorer(LlamaForCausalLM(configuration(attention_dropout=0.5)).train())
    with torch.no_grad():
        before = [float(SftObjective()(model, rows)[0]) for _ in range(2)]
        disable_dropout(model)
        after = [float(SftObjective()(model, rows)[0]) for _ in range(2)]
    assert before[0] != before[1], "the model has no dropout to disable"
    assert after[0] == after[1]


@pytest.mark.parametrize("tokens", ["assistant", "all"])
@pytest.mark.parametrize("epsilon", [1.0, -0.5])
def test_poly_loss_is_that_of_the_paper(tokens, epsilon):
    """Leng et al. 2022, equation 6, by softmax in float64: −log p + ε(1 − p)."""
    model = token_scorer(0)
    rows = labelled([9, 21, 2, 14], seed=3)
    objective = SftObjective(LossConfig(kind="poly", epsilon=epsilon, tokens=tokens))
    loss, measures = objective(model, rows)
    loss.backward()
    found = gradients(model)
    model.zero_grad()
    expected, cross_entropy, count = torch.zeros((), dtype=torch.float64), 0.0, 0
    for row in rows:
        logits = model.model(input_ids=torch.tensor([row["input_ids"]])).logits[0].double()
        for place in range(1, len(row["input_ids"])):
            if tokens == "all" or row["labels"][place] != IGNORED:
                p = logits[place - 1].softmax(-1)[row["input_ids"][place]]
                expected = expected - p.log() + epsilon * (1 - p)
                cross_entropy -= float(p.log())
                count += 1
    expected.backward()
    assert sum(map(objective.weight, rows)) == count
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert float(measures["cross_entropy"]) == pytest.approx(cross_entropy, rel=1e-5)
    assert_close(found, gradients(model), atol=1e-5)


def test_all_tokens_are_learned_where_the_run_says_so():
    model = token_scorer(0)
    (row,) = labelled([12], seed=4)
    assert IGNORED in row["labels"][1:]
    everything = row | {"labels": row["input_ids"]}
    objective = SftObjective(LossConfig(tokens="all"))
    assert objective.weight(row) == 11 > SftObjective().weight(row)
    loss, measures = objective(model, [row])
    assert torch.equal(loss, SftObjective()(model, [everything])[0])
    assert not torch.equal(loss, SftObjective()(model, [row])[0])
    assert measures == {}


def test_epsilon_belongs_to_poly():
    with pytest.raises(ValidationError, match="epsilon belongs to kind: poly"):
        LossConfig(epsilon=2.0)
    with pytest.raises(ValidationError, match="exclude each other"):
        SftConfig.model_validate(
            {"model": "m", "data": {"d": {}}, "neftune_alpha": 5, "freeze_layers": 1}
        )
