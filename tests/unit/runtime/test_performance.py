"""Figures of speed: what they are made of, and where they are written."""

from __future__ import annotations

import json

import pytest
from support.page_tables import names, tables

from rlhf.runtime.performance import Gpus, Performance, peak_flops


def test_figures_on_a_cpu():
    one = Performance(None)
    with one.phase("data"):
        pass
    found = one.figures(2.0, 100, 100, 3_000_000_000)
    assert found.pop("seconds/data") >= 0
    assert found == {
        "speed/step_seconds": 2.0,
        "speed/tokens_per_second": 50.0,
        "speed/peak_memory_gb": 3.0,
    }
    assert "seconds/data" not in one.figures(1.0, 1, 1, 1), "phases begin anew"


def test_figures_on_gpus():
    one = Performance(None, Gpus(count=2, peak=1000.0, parameters=10))
    found = one.figures(2.0, 100, 40, 1)
    assert found["speed/tokens_per_second_per_gpu"] == 25
    assert found["speed/mfu"] == pytest.approx(6 * 10 * 40 / 2 / 2000)
    unknown = Performance(None, Gpus(2, None, 10)).figures(2.0, 100, 40, 1)
    assert found.keys() - unknown.keys() == {"speed/mfu"}
    documented = set(names(tables("metrics.md", "figure")["On GPUs"]))
    assert found.keys() - Performance(None).figures(1.0, 1, 1, 1).keys() == documented


def test_lines_are_added(tmp_path):
    path = tmp_path / "x.perf.jsonl"
    for step in (1, 2):
        Performance(path).write({"step": step})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_a_file_that_can_not_be_written_ends_no_run(tmp_path):
    Performance(tmp_path / "missing" / "x.perf.jsonl").write({"step": 1})


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10G", 70e12),
        ("a GPU of tomorrow", None),
    ],
)
def test_peaks(name, peak):
    assert peak_flops(name) == peak
