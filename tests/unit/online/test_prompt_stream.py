from __future__ import annotations

import pytest
from support.tiny_online import save_prompts

from rlhf.online.prompts import PromptStream


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    return save_prompts(tmp_path_factory.mktemp("prompts"), count=10)


def taken(stream, count):
    return [tuple(row["input_ids"]) for row in stream.take(count)]


def test_every_epoch_has_each_prompt_once_in_its_own_order(mixture):
    stream = PromptStream(mixture, seed=0)
    epochs = [taken(stream, 10) for _ in range(3)]
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
    assert len(set(epochs[0])) == 10
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert taken(PromptStream(mixture, seed=1), 10) != epochs[0]


@pytest.mark.parametrize("before", [0, 3, 10, 17])
def test_it_goes_on_anywhere(mixture, before):
    """Checklist 40"""
    straight, resumed = PromptStream(mixture, 5), PromptStream(mixture, 5)
    straight.take(before)
    resumed.take(1)
    resumed.load(straight.state())
    assert taken(straight, 23) == taken(resumed, 23)


def test_pieces_do_not_matter(mixture):
    whole, pieces = PromptStream(mixture, 5), PromptStream(mixture, 5)
    parts = [taken(pieces, n) for n in (1, 4, 9, 6)]
    assert taken(whole, 20) == [one for part in parts for one in part]
