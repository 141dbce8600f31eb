from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from rlhf.provenance import weights
from rlhf.provenance.weights import non_finite

NAN, INFINITY = float("nan"), float("inf")
TYPES = ["float64", "float32", "float16", "bfloat16", "float8_e5m2", "float8_e4m3fn"]


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_is_looked_into(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(weights, "PIECE", 16)
    dtype = getattr(torch, kind)
    largest = torch.finfo(dtype).max
    bad = [NAN, -NAN] if kind == "float8_e4m3fn" else [NAN, INFINITY, -INFINITY]
    good = [0.0, -0.0, 1.0, -largest, largest, torch.finfo(dtype).tiny]
    tensors = {
        "good": torch.tensor(good * 7, dtype=torch.float64).to(dtype),
        "bad": torch.tensor(good * 7 + bad + good, dtype=torch.float64).to(dtype),
        "ids": torch.full((9,), -1),
        "empty": torch.zeros(0, dtype=dtype),
    }
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert list(non_finite(tmp_path / "model.safetensors")) == [("bad", len(bad))]


def test_what_is_no_safetensors_file(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")
    with pytest.raises(ValueError, match="no safetensors"):
        list(non_finite(path))
