"""Two real processes, joined by gloo, against one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.programs import online_ranks, uneven_ranks
from support.programs.online_ranks import parts, work
from support.tiny_models import gradients, run_ranks
from support.tiny_online import prompts_in, save_prompts, trainer
from support.tolerances import assert_gradients_near, assert_near

from rlhf.algorithms.advantages import whiten
from rlhf.online.minibatches import places_of
from rlhf.training.rounds import Round


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    save_prompts(folder / "prompts")
    run_ranks(Path(online_ranks.__file__), folder)
    ranks = [torch.load(folder / f"rank-{rank}.pt") for rank in range(2)]
    return ranks, work(folder, folder / "alone"), folder


def interleave(left, right):
    joined = [None] * (len(left) + len(right))
    joined[::2], joined[1::2] = left, right
    return joined


@pytest.mark.parametrize(("name", "shift"), [("white", True), ("unshifted", False)])
def test_whitening_is_that_of_one_process(found, name, shift):
    """Checklist 26"""
    (first, second), _, _ = found
    for left, right in zip(
        interleave(first[name], second[name]), whiten(parts(), shift), strict=True
    ):
        assert_near(left, right)
    own = whiten(parts()[::2], shift)
    assert not torch.allclose(own[0], first[name][0], atol=1e-3), "the ranks did not count together"


def test_the_running_std_counts_all_ranks(found):
    """Checklist 27"""
    (first, second), _, _ = found
    assert first["stds"] == second["stds"]
    every = parts()
    for i, std in enumerate(first["stds"], 1):
        scores = torch.cat([p[:1].repeat(2) + torch.tensor([0.0, 1.0]) for p in every[: 2 * i]])
        assert std == pytest.approx(float(scores.double().std(correction=0)), rel=1e-6)
    assert first["scale"] == second["scale"]


def test_several_rewards_are_those_of_one_process(found):
    ranks, alone, _ = found
    scores = [one["several"]["scores"] for one in ranks]
    assert [len(part) for part in scores] == [4, 4]
    assert sorted(scores[0] + scores[1]) == pytest.approx(
        sorted(alone["several"]["scores"]), rel=1e-4, abs=1e-5
    )
    figures = [one["several"]["figures"] for one in (*ranks, alone)]
    assert figures[0] == figures[1]
    assert figures[0] == pytest.approx(figures[2], rel=1e-4, abs=1e-5)
    assert figures[0]["reward_lengths"] == figures[0]["response_length"]


def test_ranks_end_with_equal_parameters(found):
    """Checklist 36"""
    (first, second), _, folder = found
    for name, parameter in first["parameters"].items():
        assert torch.equal(parameter, second["parameters"][name]), name
    settings = online_ranks.settings()
    fresh = trainer(online_ranks.prompts_in(folder / "prompts"), folder / "fresh", settings).actor
    for name, parameter in fresh.named_parameters():
        assert not torch.equal(parameter, first["parameters"][name]), f"{name} was not trained"
    assert first["coefficient"] == second["coefficient"] != 0.1


def test_ranks_sample_different_parts_of_the_draws_of_one_process(found):
    """Checklist 36"""
    (first, second), alone, _ = found
    whole = alone["rollouts"][0]["sequences"]
    ranks = [one["rollouts"][0]["sequences"] for one in (first, second)]
    assert [len(part) for part in ranks] == [4, 4]
    for left, right in zip(interleave(*ranks), whole, strict=True):
        assert torch.equal(left, right)
    texts = [{tuple(ids.tolist()) for ids in part} for part in ranks]
    assert texts[0].isdisjoint(texts[1])
    advantages = interleave(*(one["rollouts"][0]["advantages"] for one in (first, second)))
    for left, right in zip(advantages, alone["rollouts"][0]["advantages"], strict=True):
        torch.testing.assert_close(left, right, atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", ["ppo", "rloo", "grpo", "reinforce"])
def test_responses_to_a_prompt_stay_on_a_rank_and_teach_the_same(found, method):
    first, second, alone = (one[method] for one in (*found[0], found[1]))
    assert [len(one["sequences"]) for one in (first, second)] == [4, 4]
    for one in (first, second):
        assert one["prompts"][::2] == one["prompts"][1::2]
        assert len(set(one["prompts"])) == 2
    for name in ("sequences", "advantages"):
        pairs = ([one[name][i : i + 2] for i in (0, 2)] for one in (first, second))
        for mine, whole in zip(interleave(*pairs), zip(*[iter(alone[name])] * 2, strict=True),
                               strict=True):  # fmt: skip
            for left, right in zip(mine, whole, strict=True):
                torch.testing.assert_close(left, right, atol=1e-4, rtol=0)
    assert_gradients_near(first["gradients"], alone["gradients"])
    for name, gradient in first["gradients"].items():
        assert torch.equal(gradient, second["gradients"][name]), name
    assert first["measures"] == second["measures"] == pytest.approx(alone["measures"], abs=1e-4)
    assert first["replaced"] == second["replaced"] == alone["replaced"]
    if method == "grpo":
        rounds, groups, equal, _ = alone["replaced"]
        assert rounds > 1
        assert groups > 0 == equal


def test_measures_are_over_all_ranks(found):
    """Checklist 37"""
    (first, second), alone, _ = found
    one, both = alone["metrics"][0], first["metrics"][0]
    assert [record["step"] for record in first["metrics"]] == [1, 2]
    assert second["metrics"] == first["metrics"], "one file, written by rank 0"
    for name in ("reward", "raw_score", "shaped_score", "kl_coefficient", "response_length",
                 "eos_rate", "explained_variance", "tokens", "episodes"):  # fmt: skip
        assert both[name] == pytest.approx(one[name], rel=1e-4), name
    assert both["optimizer_steps"] == one["optimizer_steps"] == 4


@pytest.mark.parametrize(
    ("name", "losses"),
    [("sharded", {"value_loss", "policy_loss"}), ("sharded, dynamic", {"kl_loss", "tokens"})],
)
def test_a_policy_in_slices_learns_what_a_whole_one_does(found, name, losses):
    """It is sampled from whole, and scored by models in slices."""
    (first, second), alone, _ = found
    one, both = alone[name], first[name]
    for mine, whole in zip(both["metrics"], one["metrics"], strict=True):
        for figure in {"reward", "kl", "entropy", "grad_norm", *losses}:
            assert mine[figure] == pytest.approx(whole[figure], rel=1e-3, abs=1e-4), figure
        assert mine["response_length"] == whole["response_length"]
    assert both["samples"][0]["response"] == one["samples"][0]["response"]
    for weight, tensor in both["weights"].items():
        assert torch.equal(tensor, second[name]["weights"][weight]), weight
        torch.testing.assert_close(tensor, one["weights"][weight], atol=1e-3, rtol=0, msg=weight)


def test_sums_over_ranks(found):
    ranks, _, _ = found
    for one in ranks:
        assert one["total"] == [2.0, 1.0]
        assert one["gathered"] == [0, 1]
        assert one["anyone"] == [True, False]


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uneven")
    save_prompts(folder / "prompts")
    run_ranks(Path(uneven_ranks.__file__), folder, ranks=uneven_ranks.RANKS)
    ranks = [torch.load(folder / f"rank-{rank}.pt") for rank in range(uneven_ranks.RANKS)]
    return ranks, folder


@pytest.mark.parametrize("name", uneven_ranks.settings())
def test_all_ranks_run_as_many_rounds(uneven, name):
    ranks = [one["updates"][name] for one in uneven[0]]
    assert len({tuple(one["passes"].items()) for one in ranks}) == 1
    assert ranks[0]["passes"].keys() == {"actor", "reward", "reference"}
    lengths = [one["lengths"] for one in ranks]
    assert lengths == [lengths[0]] * 3, "all ranks know all lengths"
    for steps in zip(*(one["steps"] for one in ranks), strict=True):
        assert len({len(one["rounds"]) for one in steps}) == 1
        assert len({frozenset(one["touched"]) for one in steps}) == 1, "same parameters touched"
        for one in steps:
            counted = [i for rows, counts in one["rounds"] if counts for i in rows]
            assert sorted(counted) == sorted(one["minibatch"])
            assert one["idle"] == (not counted)
            assert one["last"] == [False] * (len(one["rounds"]) - 1) + [True]
    fillers = [
        [not counts for _, counts in one["rounds"]] for rank in ranks for one in rank["steps"]
    ]
    if name == "small":
        assert any(map(all, fillers)), "a rank has nothing to do in one of them"


@pytest.mark.parametrize("name", uneven_ranks.settings())
def test_uneven_ranks_learn_what_one_process_does(uneven, tmp_path, name):
    """Checklist 32"""
    ranks, folder = [one["updates"][name] for one in uneven[0]], uneven[1]
    settings = uneven_ranks.settings()[name]
    alone = trainer(prompts_in(folder / "prompts"), tmp_path, settings)
    experience, k = alone.experience(0, alone.roll_out(0)), settings.responses_per_prompt
    places = [
        places_of(settings.rollout_batch_size // k, k, rank, len(ranks))
        for rank in range(len(ranks))
    ]
    lengths = [len(ids) for ids in experience.rollout.sequences]
    assert ranks[0]["lengths"] == [[lengths[place] for place in own] for own in places]
    for steps in zip(*(one["steps"] for one in ranks), strict=True):
        pairs = zip(places, steps, strict=True)
        rows = [own[i] for own, one in pairs for i in one["minibatch"]]
        measures, _ = alone._accumulate(experience, [Round(rows)])
        for one in steps:
            assert_gradients_near(one["gradients"], gradients(alone.actor))
            assert one["measures"] == pytest.approx(measures, abs=1e-4)
            assert one["ratio"] in (0.0, 1.0), "0 without rows"
        alone.actor.zero_grad()


def test_minibatches_keep_their_size_over_any_number_of_ranks(uneven):
    """Checklist 32"""
    ranks, _ = uneven
    assert [one["rows"] for one in ranks] == [3, 3, 2]
    for one in ranks:
        assert sorted(row for part in one["minibatches"] for row in part) == [*range(one["rows"])]
    together = zip(*(one["minibatches"] for one in ranks), strict=True)
    assert [sum(map(len, parts)) for parts in together] == [uneven_ranks.MINIBATCH] * 4
    assert [] in ranks[0]["minibatches"], "a rank has nothing to do in one of them"
    for name, parameter in ranks[0]["parameters"].items():
        assert torch.isfinite(parameter).all()
        for other in ranks[1:]:
            assert torch.equal(parameter, other["parameters"][name]), name
    assert ranks[0]["metrics"][0]["optimizer_steps"] == 4
    assert ranks[0]["metrics"][0]["episodes"] == uneven_ranks.ROLLOUT
