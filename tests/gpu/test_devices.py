"""What GPUs compute, against CPUs and float64."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from support.tiny_models import token_scorer, token_sequences
from torch.nn import functional as F

from rlhf.config.training import OptimizerConfig
from rlhf.models import logprobs as module
from rlhf.models.logprobs import token_logprobs
from rlhf.models.precision import exact_float32
from rlhf.models.roots import from_starts
from rlhf.runtime.options import EngineKind
from rlhf.runtime.performance import peak_flops
from rlhf.training.engine.replicated import Replicated

pytestmark = pytest.mark.gpu
TESTS = Path(__file__).parents[1]
CLOSE = 1e-3


def figures(method: str, engine: str, folder: Path, **environment: str) -> list[dict[str, Any]]:
    """What a tiny training logs, in a process of its own."""
    paths = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "support.programs.on_device", method, engine, str(folder)],
        env=os.environ | {"PYTHONPATH": paths, **environment},
        capture_output=True, text=True, check=True, timeout=600,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def assert_alike(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected)
    for own, right in zip(found, expected, strict=True):
        assert own == pytest.approx(right, rel=CLOSE, abs=CLOSE)


@pytest.mark.parametrize("method", ["sft", "reward", "ppo"])
def test_a_gpu_trains_as_a_cpu_does(tmp_path, method):
    on_cpu = figures(method, "replicated", tmp_path / "cpu", CUDA_VISIBLE_DEVICES="")
    assert_alike(figures(method, "replicated", tmp_path / "gpu"), on_cpu)


@pytest.mark.parametrize("engine", [kind for kind in get_args(EngineKind) if kind != "replicated"])
def test_an_engine_on_one_gpu_trains_as_whole_replicas_do(tmp_path, engine):
    plain = figures("sft", "replicated", tmp_path / "plain")
    assert_alike(figures("sft", engine, tmp_path / engine), plain)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_frozen_matrices_are_held_in_the_type_of_the_products(precision):
    root = token_scorer(0)
    root.freeze(1)
    root.compute_in(precision)
    engine = Replicated(root, {"": 1e-2}, OptimizerConfig())
    rows = token_sequences([9, 12])
    scored, _ = engine(rows, [torch.arange(1, len(ids)) for ids in rows])
    engine.backward(-scored.mean(), last=True)
    assert 0 < engine.step(1.0) < 1e3
    types = {name: tensor.dtype for name, tensor in engine.weights()}
    assert types["model.model.layers.0.mlp.up_proj.weight"] == getattr(torch, precision)
    assert types["model.model.layers.0.input_layernorm.weight"] == torch.float32
    assert types["model.model.layers.1.mlp.up_proj.weight"] == torch.float32


def test_figures_of_speed_know_the_gpu(tmp_path):
    figures("sft", "replicated", tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "x.perf.jsonl").read_text().splitlines()]
    known = peak_flops(torch.cuda.get_device_name()) is not None
    for line in lines:
        assert line["speed/tokens_per_second_per_gpu"] == line["speed/tokens_per_second"]
        assert 0 < line["speed/peak_memory_gb"] < 10
        assert ("speed/mfu" in line) == known
        assert 0 < line.get("speed/mfu", 0.5) < 1


UNUSABLE = """
from rlhf.stages.training import begin
from rlhf.errors import ClusterError
try:
    begin()
except ClusterError:
    raise SystemExit(2)
"""


@pytest.mark.parametrize(("devices", "rank"), [("GPU-of-another-machine", "0"), ("0", "7")])
def test_a_rank_without_its_gpu_ends_with_an_error(devices, rank):
    environment = {"CUDA_VISIBLE_DEVICES": devices, "LOCAL_RANK": rank}
    done = subprocess.run(
        [sys.executable, "-c", UNUSABLE], env=os.environ | environment, timeout=300
    )
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("dtype", "key_heads"), [(torch.bfloat16, 2), (torch.float32, 4), (torch.float32, 2)]
)
def test_attention_is_not_the_plain_one(dtype, key_heads):
    """In float32 keys and values are repeated: torch has no other kernel for groups of heads."""
    model = token_scorer(0, num_key_value_heads=key_heads).cuda()
    model.compute_in(str(dtype).removeprefix("torch."))
    (sequence,) = token_sequences([64], seed=1)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.no_grad(), torch.profiler.profile(activities=activities) as profile:
        model([sequence], from_starts([sequence], [5]))
    names = {event.key for event in profile.key_averages()}
    assert "aten::scaled_dot_product_attention" in names
    assert "aten::_scaled_dot_product_attention_math" not in names


def test_the_heads_gradient_against_float64(monkeypatch):
    rows, width, vocabulary, chunks = 4096, 64, 512, 128
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", rows // chunks * vocabulary)
    torch.manual_seed(0)
    hidden = torch.randn(rows, width, device="cuda").bfloat16()
    head = torch.nn.Linear(width, vocabulary, bias=False, device="cuda")
    head.weight.data = head.weight.data.bfloat16().float()
    targets = torch.randint(vocabulary, (rows,), device="cuda")
    found, _ = token_logprobs(head, hidden, targets, dtype=torch.bfloat16)
    found.sum().backward()
    exact = head.weight.detach().double().requires_grad_()
    expected = (hidden.double() @ exact.t()).log_softmax(-1).gather(1, targets[:, None])
    expected.sum().backward()
    torch.testing.assert_close(found.double(), expected.squeeze(1), atol=1e-4, rtol=0)
    assert head.weight.grad is not None
    assert exact.grad is not None
    error = (head.weight.grad - exact.grad).norm() / exact.grad.norm()
    assert error < 2.0**-8  # of the products' factors, which are rounded; not of the sums


def test_float32_products_have_all_digits():
    torch.backends.cuda.matmul.allow_tf32 = True
    exact_float32()
    left, right = torch.randn(512, 512, device="cuda"), torch.randn(512, 512, device="cuda")
    error = (F.linear(left, right).double() - left.double() @ right.double().t()).abs().max()
    assert error < 1e-3  # TensorFloat-32 is off by some 1e-2
