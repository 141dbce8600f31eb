"""Scores of the mean over all tokens of a conversation and a reply, wherever they are computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny_models import causal_lm, gradients, reply_scorer, token_sequences
from support.tolerances import assert_gradients_near, assert_near

from rlhf.algorithms.reward import RewardObjective, score_rows
from rlhf.core.files import read_json
from rlhf.errors import ConfigError
from rlhf.models.publish import save_weights
from rlhf.models.reward import load_critic, load_reply_scorer, new_reply_scorer, save_calibration
from rlhf.models.roots import POOLING, ReplyScorer
from rlhf.models.scoring import score


def mean_scorer(**changes: Any) -> ReplyScorer:
    return reply_scorer(3, **{POOLING: "mean"} | changes)


def make_rows() -> list[dict[str, Any]]:
    history, *replies = (ids.tolist() for ids in token_sequences([9, 5, 1, 12], seed=3))
    other, *more = (ids.tolist() for ids in token_sequences([4, 6, 2], seed=4))
    return [
        {"history_ids": history, "reply_ids": replies},
        {"history_ids": other, "reply_ids": more},
    ]


def reference(model: ReplyScorer, ids: list[int]) -> torch.Tensor:
    """Of one sequence alone, by transformers' own forward pass: mean, then head."""
    states = model.model.model(input_ids=torch.tensor([ids])).last_hidden_state[0]
    return (states.mean(0) * model.model.score.weight[0]).sum()


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_score_is_of_the_mean_over_history_and_reply(
    frozen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padded, after a shared history and in one sequence: in values and in gradients."""
    rows = make_rows()
    plain = mean_scorer()
    plain.freeze(frozen)
    expected = [
        torch.stack([reference(plain, row["history_ids"] + reply) for reply in row["reply_ids"]])
        for row in rows
    ]
    torch.cat(expected).square().sum().backward()
    known = gradients(plain)
    for branches, packs in ((True, False), (False, False), (True, True), (False, True)):
        monkeypatch.undo()
        model = mean_scorer()
        model.freeze(frozen)
        if packs:
            model.attend("sdpa", packs=True)
        if not branches:
            monkeypatch.setattr(ReplyScorer, "branches", False)
        found = score_rows(model, rows)
        for one, other in zip(found, expected, strict=True):
            assert_near(one.detach(), other.detach())
        torch.cat(found).square().sum().backward()
        assert_gradients_near(gradients(model), known)


def test_batches_and_shared_prompts_change_no_score() -> None:
    model, (row, _) = mean_scorer(), make_rows()
    sequences = [torch.tensor(row["history_ids"] + reply) for reply in row["reply_ids"]]
    with torch.no_grad():
        alone = torch.stack([reference(model, ids.tolist()) for ids in sequences])
        for options in ({}, {"max_tokens": 1}, {"prompts": [9] * 3}):
            assert_near(score(model, sequences, **options), alone)
    assert (alone - score_rows(reply_scorer(3), [row])[0]).abs().min() > 1e-3


def test_a_published_model_says_how_it_is_read(tmp_path: Path) -> None:
    causal_lm().save_pretrained(tmp_path / "sft")
    model = new_reply_scorer(tmp_path / "sft", seed=1, pooling="mean")
    save_weights(model, model.model.named_parameters(), tmp_path / "reward")
    assert read_json(tmp_path / "reward" / "config.json")[POOLING] == "mean"
    again = load_reply_scorer(tmp_path / "reward")
    with torch.no_grad():
        for found, expected in zip(
            *(score_rows(m, make_rows()) for m in (again, model)), strict=True
        ):
            torch.testing.assert_close(found, expected, atol=0, rtol=0)
    save_calibration(tmp_path / "reward", 0.0, 1.0)
    with pytest.raises(ConfigError, match="critic can't start") as caught:
        load_critic(tmp_path / "reward")
    assert "value.kind: head" in str(caught.value)
    last = new_reply_scorer(tmp_path / "sft", seed=1)
    save_weights(last, last.model.named_parameters(), tmp_path / "last")
    assert POOLING not in read_json(tmp_path / "last" / "config.json")


def test_a_head_alone_is_trained() -> None:
    """All else keeps its bytes, and no gradient is computed for it."""
    from support.tiny_settings import reward_config

    for model in (reply_scorer(3), mean_scorer()):
        objective = RewardObjective(reward_config(), model.branches)
        (expected, _) = objective(model, make_rows())
        model.freeze_body()
        before = {name: each.clone() for name, each in model.state_dict().items()}
        optimizer = torch.optim.AdamW(
            [each for each in model.parameters() if each.requires_grad], lr=0.1, weight_decay=0.1
        )
        for step in range(2):
            loss, _ = objective(model, make_rows())
            if step == 0:
                assert_near(loss.detach(), expected.detach())
            loss.backward()
            assert [*gradients(model)] == ["model.score.weight"]
            optimizer.step()
            optimizer.zero_grad()
        for name, each in model.state_dict().items():
            assert torch.equal(each, before[name]) == (name != "model.score.weight")
