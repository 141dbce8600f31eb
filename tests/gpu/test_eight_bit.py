"""AdamW with moments of 8 bits on a GPU: it learns, and a resumed run ends with the same bytes."""

from __future__ import annotations

import pytest
import torch
from support.tiny_models import token_scorer, token_sequences

from rlhf.config.training import OptimizerConfig
from rlhf.runtime.options import EngineOptions
from rlhf.training.engine.open import open_engine

pytestmark = pytest.mark.gpu
SETTINGS = OptimizerConfig(kind="adamw_8bit", learning_rate=1e-2)


def test_moments_of_8_bits(tmp_path) -> None:
    def engine_of(seed: int):
        root = token_scorer(seed, hidden_size=64, intermediate_size=128)
        return root, open_engine(root, {"": 1e-2}, SETTINGS, EngineOptions())

    def update(engine) -> float:
        rows = token_sequences([9, 12], seed=1)
        logprobs, _ = engine(rows, [torch.arange(1, len(row)) for row in rows])
        engine.backward(-logprobs.mean(), last=True)
        engine.step(1.0)
        return float(-logprobs.mean())

    root, engine = engine_of(0)
    losses = [update(engine) for _ in range(5)]
    engine.save(tmp_path)
    losses += [update(engine) for _ in range(5)]
    assert losses[-1] < losses[0] - 0.5
    assert engine._optimizer.state[root.model.lm_head.weight]["state1"].dtype == torch.uint8
    again, taken_up = engine_of(1)
    taken_up.load(tmp_path)
    for _ in range(5):
        update(taken_up)
    for left, right in zip(root.parameters(), again.parameters(), strict=True):
        assert torch.equal(left, right)
