"""Tiny trainings come to the figures that are kept beside this file, step by step."""

from __future__ import annotations

import pytest
from support import golden_curves
from support.golden_curves import CURVES, differences


@pytest.mark.parametrize("name", CURVES)
def test_a_training_is_the_golden_one(name, tmp_path):
    assert differences(name, CURVES[name](tmp_path)) == []


def test_a_training_that_differs_a_little_is_not(tmp_path):
    """A tenth of the learning rate."""
    optimizer = {"learning_rate": 1.1e-2, "schedule": "linear", "warmup": 0.0, "eps": 1e-3}
    records = golden_curves.sft(tmp_path, optimizer=optimizer)
    assert any(": loss is" in line for line in differences("sft-float32", records))
