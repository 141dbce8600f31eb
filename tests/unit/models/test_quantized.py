"""Frozen weights in 4 bits: what they compute by bitsandbytes' kernels of CPUs; what is refused.

Runs are refused on a CPU; `gpu/test_quantized.py` trains on a GPU.
"""

from __future__ import annotations

import sys

import pytest
import torch
from support.adapted import assert_quantized_trains

from rlhf.errors import ConfigError
from rlhf.models.quantized import check_quantizing

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_adapter_is_trained_beside_weights_of_4_bits(precision: str) -> None:
    assert_quantized_trains(CPU, precision)


@pytest.mark.parametrize(("device", "engine", "message"), [
    (CPU, "replicated", "need a GPU"),
    (GPU, "fsdp", "The engine fsdp can't keep weights of 4 bits"),
    (GPU, "zero2", "The engine zero2 can't keep weights of 4 bits"),
    (GPU, "replicated", "bitsandbytes', which is not installed"),
])  # fmt: skip
def test_where_it_can_not_be_it_is_refused(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, engine: str, message: str
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as Python notes what is not there
    with pytest.raises(ConfigError, match=message) as refused:
        check_quantizing(device, engine, "sft.x.adapter.quantize")
    assert refused.value.where == "sft.x.adapter.quantize"
