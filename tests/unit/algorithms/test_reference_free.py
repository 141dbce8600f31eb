"""ORPO, SimPO and CPO, and DPO with a term of SFT: against the papers, and as runs."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from support.plain_losses import token_logprobs
from support.programs import dpo_ranks
from support.programs.dpo_ranks import make_rows
from support.programs.supervised_ranks import train_root
from support.tiny_models import assert_close, causal_lm, gradients, save_rows, token_scorer

from rlhf.algorithms.cpo import CpoLoss
from rlhf.algorithms.dpo import DpoLoss
from rlhf.algorithms.orpo import OrpoLoss, log_odds
from rlhf.algorithms.replies import RankedObjective
from rlhf.algorithms.simpo import SimpoLoss
from rlhf.config.cpo import CpoConfig
from rlhf.config.orpo import OrpoConfig
from rlhf.config.simpo import SimpoConfig
from rlhf.data.mixture import Mixture
from rlhf.runtime.options import RunOptions
from rlhf.training.loop import mean_over

METHODS: dict[str, tuple[Any, Any]] = {
    "orpo": (OrpoConfig, OrpoLoss),
    "simpo": (SimpoConfig, SimpoLoss),
    "cpo": (CpoConfig, CpoLoss),
}


def config(method: str, **changes: Any) -> Any:
    values = {"sft": "chat", "data": {"d": {}}, "precision": "float32"}
    return METHODS[method][0].model_validate(values | changes)


def objective_of(method: str, settings: Any) -> RankedObjective:
    return RankedObjective(METHODS[method][1](settings), True)


def minus_log_sigmoid(x: torch.Tensor) -> torch.Tensor:
    return torch.log(1 + torch.exp(-x))


def orpo(better: torch.Tensor, worse: torch.Tensor, of: Any) -> torch.Tensor:
    """Hong et al. 2024, equations 3, 6 and 7, of log π of the tokens of two replies."""
    likelihoods = [torch.exp(tokens.sum() / len(tokens)) for tokens in (better, worse)]
    odds = [p / (1 - p) for p in likelihoods]
    ratio = minus_log_sigmoid(torch.log(odds[0] / odds[1]))
    return -better.mean() + of.odds_ratio_coefficient * ratio


def simpo(better: torch.Tensor, worse: torch.Tensor, of: Any) -> torch.Tensor:
    """Meng et al. 2024, equation 6."""
    rewards = [of.beta / len(tokens) * tokens.sum() for tokens in (better, worse)]
    margin = minus_log_sigmoid(rewards[0] - rewards[1] - of.margin)
    return margin - of.sft_coefficient * better.mean()


def cpo(better: torch.Tensor, worse: torch.Tensor, of: Any) -> torch.Tensor:
    """Xu et al. 2024, equations 4 and 5, with a mean over tokens in the second."""
    margin = minus_log_sigmoid(of.beta * better.sum() - of.beta * worse.sum())
    return margin - of.sft_coefficient * better.mean()


PAPERS: dict[str, Callable[[torch.Tensor, torch.Tensor, Any], torch.Tensor]] = {
    "orpo": orpo,
    "simpo": simpo,
    "cpo": cpo,
}


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("orpo", {}),
        ("orpo", {"odds_ratio_coefficient": 2.0}),
        ("simpo", {}),
        ("simpo", {"beta": 1.5, "margin": 0.2, "sft_coefficient": 0.7}),
        ("cpo", {}),
        ("cpo", {"beta": 0.3, "sft_coefficient": 0.0}),
    ],
)
def test_equals_the_paper(method, changes):
    """In value, gradients and measures; rows of 2, 3 and 4 replies are the mean of their pairs."""
    settings, rows, scorer = config(method, **changes), make_rows(3), token_scorer(0)
    objective = objective_of(method, settings)
    loss, measures = objective(scorer, rows)
    loss.backward()
    found = gradients(scorer)
    model, total = causal_lm(0).double(), torch.tensor(0.0, dtype=torch.float64)
    sums = dict.fromkeys(measures, 0.0)
    for row in rows:
        replies = [token_logprobs(model, row["history_ids"], one) for one in row["reply_ids"]]
        pairs = list(itertools.combinations(replies, 2))
        total = total + torch.stack([PAPERS[method](*pair, settings) for pair in pairs]).mean()
        for better, worse in pairs:
            means = [float(one.detach().mean()) for one in (better, worse)]
            scores = [float(one.detach().sum()) for one in (better, worse)]
            scores = scores if method == "cpo" else means
            share = 1 / len(pairs)
            sums["accuracy"] += share * (scores[0] > scores[1])
            sums["chosen_logprob"] += share * means[0]
            sums["rejected_logprob"] += share * means[1]
            if method == "orpo":
                odds = [torch.tensor(one).exp() / (1 - torch.tensor(one).exp()) for one in means]
                sums["log_odds_ratio"] += share * float(torch.log(odds[0] / odds[1]))
            else:
                sums["reward_margin"] += share * settings.beta * (scores[0] - scores[1])
    sums["kendall_tau"] = 2 * sums["accuracy"] - len(rows)
    total.backward()
    assert float(loss.detach()) == pytest.approx(float(total.detach()), rel=1e-5)
    wanted = {f"model.{name}": value.float() for name, value in gradients(model).items()}
    assert_close(found, wanted, atol=2e-4)
    for name, value in sums.items():
        assert float(measures[name]) == pytest.approx(value, rel=1e-3, abs=1e-3), name
    assert [objective.weight(row) for row in rows] == [1, 1, 1]


@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_dpo_with_a_term_of_sft(loss):
    """Pang et al. 2024: α times −log π of the better reply's tokens, their mean."""
    rows, reference = make_rows(3), {}
    for row in rows:
        reference[row["id"]] = torch.arange(len(row["reply_ids"])).float() - 20
    found = {}
    for coefficient in (0.0, 0.5):
        settings = dpo_ranks.config(loss=loss, sft_coefficient=coefficient)
        objective = RankedObjective(DpoLoss(settings, lambda row: reference[row["id"]]), True)
        found[coefficient] = objective(token_scorer(0), rows)
    model, added = causal_lm(0).double(), 0.0
    for row in rows:
        replies = [token_logprobs(model, row["history_ids"], one) for one in row["reply_ids"]]
        pairs = list(itertools.combinations(replies, 2))
        added += sum(-float(better.detach().mean()) for better, _ in pairs) / len(pairs)
    (plain, without), (both, measures) = found[0.0], found[0.5]
    assert float((both - plain).detach()) == pytest.approx(0.5 * added, rel=1e-4)
    assert float(measures["sft_loss"]) == pytest.approx(added, rel=1e-5)
    assert "sft_loss" not in without


def test_odds_of_a_reply_that_is_certain():
    """A mean log probability of 0 is one that was rounded."""
    certain = torch.tensor([0.0, -1e-9, -0.5], requires_grad=True)
    odds = log_odds(certain)
    assert odds[2].item() == pytest.approx(-0.5 - torch.log1p(-torch.tensor(-0.5).exp()).item())
    odds.sum().backward()
    assert torch.isfinite(odds).all()
    assert torch.isfinite(certain.grad).all()


def toy_rows(shuffled: bool) -> list[dict[str, Any]]:
    """Replies with the token 7 are better than those with 9; or which is better is chance."""
    generator, rows = random.Random(3), []
    for i in range(64):
        history = [generator.randrange(20, 300) for _ in range(4)]
        filler = [[generator.randrange(20, 300) for _ in range(1 + i % 3)] for _ in range(2)]
        replies = [[*filler[0], 7, 2], [*filler[1], 9, 2]]
        if shuffled and generator.random() < 0.5:
            replies.reverse()
        rows.append({"id": str(i), "history_ids": history, "reply_ids": replies})
    return rows


@pytest.mark.parametrize(
    ("method", "shuffled"), [("orpo", False), ("simpo", False), ("cpo", False), ("simpo", True)]
)
def test_preferences_are_learned_and_noise_is_not(tmp_path, method, shuffled):
    rows = toy_rows(shuffled)
    save_rows(tmp_path / "set", train=rows[:32], validation=rows[32:])
    data, held_out = (Mixture({"d": tmp_path / "set"}, {}, one) for one in ("train", "validation"))
    optimizer = {"learning_rate": 3e-3, "schedule": "constant", "warmup": 0.0}
    more = {"odds_ratio_coefficient": 1.0} if method == "orpo" else {}
    settings = config(method, epochs=4, global_batch_size=8, optimizer=optimizer, **more)
    objective, root = objective_of(method, settings), token_scorer(0)

    def validate() -> dict[str, float]:
        means = mean_over(root, objective, held_out, 512)
        return {f"validation_{name}": value for name, value in means.items()}

    options = RunOptions(f"{method}.x", tmp_path / "state", {})
    run = train_root(root, objective, data, settings, options, 512, validate)
    looks = [one for one in run.journals["metrics"].records() if "validation_loss" in one]
    first, last = looks[0], looks[-1]
    if shuffled:
        assert 0.2 < last["validation_accuracy"] < 0.8
        return
    assert last["validation_accuracy"] > 0.95
    assert last["validation_loss"] < first["validation_loss"]
    assert last["validation_chosen_logprob"] > last["validation_rejected_logprob"]
    if method != "simpo":  # SFT's term makes good replies more probable, not bad ones less alone
        assert last["validation_chosen_logprob"] > first["validation_chosen_logprob"] + 0.5


def test_orpo_starts_from_a_base_model_or_an_sft_run():
    values = {"data": {"d": {}}}
    assert OrpoConfig.model_validate(values | {"model": "m"}).sft is None
    assert OrpoConfig.model_validate(values | {"sft": "s"}).model is None
    for wrong in ({}, {"model": "m", "sft": "s"}):
        with pytest.raises(ValidationError, match="give exactly one of model, sft"):
            OrpoConfig.model_validate(values | wrong)
