from __future__ import annotations

import torch
from support.tiny_models import token_sequences
from support.tiny_online import CALIBRATION, VOCABULARY, critic, judge, policy
from support.tolerances import assert_near

from rlhf.models.roots import ActorCritic, ValueHead, from_starts
from rlhf.models.scoring import score


def test_values_start_at_zero():
    """Checklist 28"""
    actor = ActorCritic(policy(), ValueHead(32), 1.0)
    sequences = token_sequences([7, 12], vocabulary=VOCABULARY)
    _, values, entropy = actor(sequences, [3, 4])
    assert values.tolist() == [0.0] * (4 + 8)
    assert entropy.shape == (0,)


def test_a_critic_from_the_reward_model_starts_at_its_calibrated_score():
    """Checklist 28"""
    mean, std = CALIBRATION
    sequences = token_sequences([7, 12, 5], vocabulary=VOCABULARY)
    # a value stands before a token: one more token makes the last one visible
    longer = [torch.cat([s, torch.tensor([2])]) for s in sequences]
    with torch.no_grad():
        values = critic().values(longer, from_starts(longer, [3, 3, 3]))
        expected = (score(judge(), sequences) - mean) / std
    sizes = [len(s) - 3 for s in longer]
    last = torch.stack([part[-1] for part in values.split(sizes)])
    assert_near(last, expected)
    assert expected.abs().min() > 1e-3


def test_values_depend_on_the_query():
    """Checklist 1"""
    one, other = torch.tensor([5, 6, 7, 9, 9, 2]), torch.tensor([5, 20, 7, 9, 9, 2])
    head = ValueHead(32)
    torch.nn.init.normal_(head.linear.weight)
    for value in (head, critic(0.0, 1.0)):
        actor = ActorCritic(policy(), value, 1.0)
        with torch.no_grad():
            found = [actor([ids], [3])[1] for ids in (one, other)]
        assert ((found[0] - found[1]).abs() > 1e-4).all()


def test_a_value_does_not_see_the_token_it_stands_before():
    one, other = torch.tensor([5, 6, 7, 9, 4]), torch.tensor([5, 6, 7, 9, 11])
    for value in (ValueHead(32), critic(0.0, 1.0)):
        if isinstance(value, ValueHead):
            torch.nn.init.normal_(value.linear.weight)
        actor = ActorCritic(policy(), value, 1.0)
        with torch.no_grad():
            (first, values, _), (second, others, _) = (actor([ids], [3]) for ids in (one, other))
        torch.testing.assert_close(values, others)
        assert first[0] == second[0]
        assert first[1] != second[1]
