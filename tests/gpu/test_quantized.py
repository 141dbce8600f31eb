"""QLoRA on a GPU."""

from __future__ import annotations

import pytest
import torch
from support.adapted import assert_quantized_trains

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_adapter_is_trained_beside_weights_of_4_bits(precision: str) -> None:
    assert_quantized_trains(torch.device("cuda", torch.cuda.current_device()), precision)
