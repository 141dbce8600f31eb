"""Sums of measures, and of gradients over ranks in buckets."""

from __future__ import annotations

import pytest
import torch
from support.programs.supervised_ranks import config, replicated
from support.tiny_models import token_scorer, token_sequences

from rlhf.models.roots import from_starts
from rlhf.training import distributed
from rlhf.training.engine import replicated as module
from rlhf.training.sums import Sums


def test_sums_are_those_of_python_floats():
    torch.manual_seed(0)
    values = torch.randn(50)
    sums, expected = Sums(), 0.0
    for value in values:
        sums.add({"a": value, "b": 0.1})
        expected += float(value)
    assert sums.over_ranks().means(1.0) == {"a": expected, "b": sum([0.1] * 50)}


def test_what_does_not_count_is_known_by_name():
    sums = Sums()
    sums.add({"a": torch.tensor(float("nan"))}, counts=False)
    assert sums.means(2.0) == {"a": 0.0}


def test_tensors_move_together(monkeypatch):
    moves = []
    original = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda own: moves.append(1) or original(own))
    monkeypatch.setattr(torch.Tensor, "__float__", lambda _: pytest.fail("a tensor moved alone"))
    sums = Sums()
    for _ in range(9):
        sums.add({"a": torch.ones(()), "b": torch.ones(())})
    assert sums.means(9.0) == {"a": 1.0, "b": 1.0}
    assert len(moves) == 1


@pytest.mark.parametrize("elements", [1, 100, 2000, 2**25])
def test_buckets_change_no_sum(monkeypatch, elements):
    distributed.start_alone()
    try:
        monkeypatch.setattr(module, "BUCKET_ELEMENTS", elements)
        model = token_scorer(0)
        engine = replicated(model, config())
        rows = token_sequences([5, 7], seed=1)
        engine.backward(-engine(rows, from_starts(rows, [1, 1]))[0].sum(), last=True)
        before = {name: p.grad.clone() for name, p in model.named_parameters()}
        calls = []
        reduce = module.dist.all_reduce
        monkeypatch.setattr(module.dist, "all_reduce", lambda t: calls.append(t) or reduce(t))
        engine._sum_gradients()
        assert all(torch.equal(p.grad, before[name]) for name, p in model.named_parameters())
        largest = max(gradient.numel() for gradient in before.values())
        assert max(map(torch.numel, calls[1:])) <= max(elements, largest)
        assert sum(map(torch.numel, calls[1:])) == sum(map(torch.numel, before.values()))
    finally:
        torch.distributed.destroy_process_group()
