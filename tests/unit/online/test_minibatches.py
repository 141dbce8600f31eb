"""Which rank has which responses, and which of them share a step."""

from __future__ import annotations

import pytest

from rlhf.core.seeds import generator
from rlhf.online.minibatches import micro_batches_by_prompt, minibatches, places_of


@pytest.mark.parametrize(
    ("total", "k", "size", "ranks"),
    [(24, 1, 8, 1), (24, 1, 8, 5), (24, 4, 8, 2), (6, 2, 6, 2), (24, 4, 8, 4), (24, 3, 4, 5)],
)
def test_whole_prompts_go_to_a_rank_and_minibatches_have_their_size(total, k, size, ranks):
    places = [places_of(total // k, k, rank, ranks) for rank in range(ranks)]
    assert sorted(place for own in places for place in own) == list(range(total))
    for own in places:
        prompts = [place // k for place in own]
        assert prompts == [prompt for prompt in sorted(set(prompts)) for _ in range(k)]
    assert max(map(len, places)) - min(map(len, places)) in (0, k)
    parts = [
        minibatches(own, k, size, total // size, generator(0, "test", rank))
        for rank, own in enumerate(places)
    ]
    for own, responses in zip(parts, places, strict=True):
        assert sorted(i for part in own for i in part) == list(range(len(responses)))
    assert [sum(map(len, same)) for same in zip(*parts, strict=True)] == [size] * (total // size)


def test_responses_to_a_prompt_share_a_forward_pass():
    lengths = [5, 9, 5, 5, 9, 9]  # three prompts, two responses to each
    assert micro_batches_by_prompt(range(6), lengths, 2, 18) == [[1, 0], [4, 5], [2, 3]]
    assert micro_batches_by_prompt([5, 0, 1], lengths, 2, 100) == [[1, 0, 5]]
    assert micro_batches_by_prompt(range(6), lengths, 2, 1) == [[1], [4], [5], [0], [2], [3]]
