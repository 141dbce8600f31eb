from __future__ import annotations

import math

import pytest
import torch
from support.tiny_models import causal_lm, gradients, reply_scorer, token_sequences
from support.tolerances import assert_gradients_near, assert_near

from rlhf.algorithms.reward import score_rows
from rlhf.data.labels import IGNORED
from rlhf.evaluation.calibration import calibrate
from rlhf.models.head import probe
from rlhf.models.load import disable_dropout
from rlhf.models.reward import (
    load_calibration,
    load_reply_scorer,
    new_reply_scorer,
    save_calibration,
    with_final_eos,
)
from rlhf.models.roots import ReplyScorer
from rlhf.models.scoring import score


def test_the_score_depends_on_the_query():
    """Checklist 1"""
    model = reply_scorer(0)
    row = {"history_ids": [5, 6, 7], "reply_ids": [[30, 31, 2], [40, 2]]}
    other = row | {"history_ids": [5, 99, 7]}
    with torch.no_grad():
        one, two = (score_rows(model, [each])[0] for each in (row, other))
    assert ((one - two).abs() > 1e-3).all()


@pytest.mark.parametrize("last", [2, 77, 0])
def test_the_score_is_read_at_the_last_real_token(last):
    """Checklist 11"""
    model = reply_scorer(1)
    sequences = token_sequences([7, 19, 12, 1], seed=2)
    for sequence in sequences:
        sequence[-1] = last  # EOS, an ordinary token, the pad id: the position decides alone
    sequences[1][4] = sequences[1][9] = 0
    with torch.no_grad():
        found = score(model, sequences)
        for value, sequence in zip(found, sequences, strict=True):
            hidden = model.model.model(input_ids=sequence[None]).last_hidden_state[0]
            everywhere = model.model.score(hidden).squeeze(-1)
            assert_near(value, everywhere[-1])
            if len(sequence) > 1:
                assert (value - everywhere[:-1]).abs().min() > 1e-4


def test_a_response_that_was_cut_off_is_scored_with_an_eos_in_place_of_its_last_token():
    """Checklist 33"""
    whole, cut = torch.tensor([5, 6, 30, 2]), torch.tensor([5, 6, 30, 31])
    found = with_final_eos([whole, cut], [True, False], eos_id=2)
    assert [ids.tolist() for ids in found] == [[5, 6, 30, 2], [5, 6, 30, 2]]
    assert cut.tolist() == [5, 6, 30, 31]


def test_scores_do_not_depend_on_the_batch():
    """Checklist 11"""
    model = reply_scorer(1)
    sequences = token_sequences([7, 40, 12, 1, 25, 25], seed=3)
    reference = None
    for max_tokens in (1, 60, 10_000):
        model.zero_grad()
        scores = score(model, sequences, max_tokens)
        (scores * torch.arange(1.0, 7.0)).sum().backward()
        found = gradients(model)
        alone = torch.cat([score(model, [s]) for s in sequences])
        assert_near(scores, alone)
        if reference is None:
            reference = found
        assert_gradients_near(found, reference)
        assert found.keys() == {name for name, _ in model.named_parameters()}


def test_a_score_near_0_is_no_other_kind_of_score(tmp_path):
    """Both ways to it differ by the rounding of what they add up, not of what comes out."""
    scorer = reply_scorer(0, hidden_size=64)
    (ids, *_) = probe(scorer.model)
    with torch.no_grad():
        (state,) = scorer.states_at([ids], [torch.tensor([len(ids) - 1])]).double()
        weight = scorer.model.score.weight
        along = (weight.double() @ state) / (state @ state)
        weight.copy_(weight.double() - along * state)
        (found,) = scorer([ids[:0]], [[ids]])
    assert abs(float(found)) < 1e-5
    scorer.model.save_pretrained(tmp_path)
    load_reply_scorer(tmp_path)


def test_a_new_head_is_drawn_with_its_seed(tmp_path):
    """Checklist 12"""
    language_model = causal_lm(0, hidden_size=64)
    language_model.save_pretrained(tmp_path)
    model = new_reply_scorer(tmp_path, seed=3)
    weights = torch.cat(
        [new_reply_scorer(tmp_path, s).model.score.weight.detach() for s in range(20)]
    )
    # 1280 draws: four standard errors of their standard deviation are 8 %.
    assert float(weights.std()) == pytest.approx(1 / math.sqrt(65), rel=0.08)
    assert abs(float(weights.mean())) < 0.02
    assert model.model.score.bias is None
    assert torch.equal(
        model.model.score.weight, new_reply_scorer(tmp_path, seed=3).model.score.weight
    )
    assert not torch.equal(
        model.model.score.weight, new_reply_scorer(tmp_path, seed=4).model.score.weight
    )
    for name, parameter in language_model.model.named_parameters():
        assert torch.equal(parameter, model.model.model.get_parameter(name))
    with torch.no_grad():
        scores = score(model, token_sequences([20] * 60, seed=1))
    assert 0.2 < float(scores.std()) < 3


def test_dropout_is_off_in_training_mode(tmp_path):
    """Checklist 16, 19"""
    reply_scorer(0, attention_dropout=0.5).model.save_pretrained(tmp_path / "reward")
    causal_lm(0, attention_dropout=0.5).save_pretrained(tmp_path / "sft")
    sequences = token_sequences([20, 11], seed=1)
    from transformers import AutoModelForSequenceClassification

    untouched = ReplyScorer(
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").train()
    )
    with torch.no_grad():
        assert not torch.equal(score(untouched, sequences), score(untouched, sequences))
        for model in (
            load_reply_scorer(tmp_path / "reward"), new_reply_scorer(tmp_path / "sft", 0)
        ):  # fmt: skip
            model.train()
            assert torch.equal(score(model, sequences), score(model, sequences))


def test_disable_dropout_reaches_modules_and_attributes():
    module = torch.nn.Sequential(torch.nn.Dropout(0.3), torch.nn.Linear(2, 2))
    module[1].attention_dropout = 0.2
    module[1].layerdrop = 0.1
    disable_dropout(module)
    assert (module[0].p, module[1].attention_dropout, module[1].layerdrop) == (0, 0, 0)


def test_calibrated_scores_have_mean_0_and_std_1(tmp_path):
    """Checklist 15"""
    model = reply_scorer(4)
    rows = []
    for i, ids in enumerate(token_sequences([8 + n % 13 for n in range(60)], seed=7)):
        ids[-2] = 2  # the EOS; the template writes one more token after it
        labels = [IGNORED] * (len(ids) - 4) + ids[-4:-1].tolist() + [IGNORED]
        rows.append({"input_ids": ids.tolist(), "labels": labels, "number": i})
    mean, std = calibrate(model, rows, max_tokens=100)
    model.model.save_pretrained(tmp_path)
    save_calibration(tmp_path, mean, std)
    assert load_calibration(tmp_path) == (mean, std)
    served = load_reply_scorer(tmp_path)
    with torch.no_grad():
        raw = score(served, [torch.tensor(row["input_ids"][:-1]) for row in rows])
    again = (raw - mean) / std
    assert abs(float(again.mean())) < 0.05
    assert float(again.std()) == pytest.approx(1, abs=0.05)
    assert abs(float(raw.mean())) > 0.05 or abs(float(raw.std()) - 1) > 0.05
