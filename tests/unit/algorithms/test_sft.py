from __future__ import annotations

import pytest
import torch
from support.tiny_models import assert_close, gradients, labelled, token_scorer

from rlhf.algorithms.sft import SftObjective
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
