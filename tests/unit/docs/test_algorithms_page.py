"""The options on docs/algorithms.md are the configuration's, all of them and with its defaults."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from support.page_tables import DOCS, REPOSITORY, names, tables

from rlhf.config.adapter import AdapterConfig
from rlhf.config.cpo import CpoConfig
from rlhf.config.dpo import DpoConfig
from rlhf.config.grpo import GrpoConfig
from rlhf.config.kto import KtoConfig
from rlhf.config.offline import OfflineConfig
from rlhf.config.online import OnlineConfig
from rlhf.config.orpo import OrpoConfig
from rlhf.config.ppo import PpoConfig
from rlhf.config.reinforce import ReinforceConfig
from rlhf.config.reward import RewardConfig
from rlhf.config.rloo import RlooConfig
from rlhf.config.sft import SftConfig
from rlhf.config.simpo import SimpoConfig

SECTIONS = {
    "Supervised fine-tuning": SftConfig,
    "Reward model": RewardConfig,
    "DPO": DpoConfig,
    "KTO": KtoConfig,
    "ORPO": OrpoConfig,
    "SimPO": SimpoConfig,
    "CPO": CpoConfig,
    "PPO": PpoConfig,
    "RLOO": RlooConfig,
    "GRPO": GrpoConfig,
    "REINFORCE++": ReinforceConfig,
}
SHARED = "On-policy methods"
RUNS = ("model", "sft", "reward", "data", "duplicates")  # what a run is made of, not how it learns


def options(model: Any, prefix: str = "") -> dict[str, Any]:
    """Key with its sections → default."""
    found = {}
    for name, field in model.model_fields.items():
        default = field.default
        if hasattr(default, "model_fields_set"):
            found |= options(type(default), f"{prefix}{name}.")
        else:
            found[prefix + name] = default
    return found


def documented(section: str) -> dict[str, Any]:
    rows = tables("algorithms.md", "key")[section]
    defaults = [yaml.safe_load(row[1].strip("`")) for row in rows]
    return {name: _number(value) for name, value in zip(names(rows), defaults, strict=True)}


def _number(value: Any) -> Any:
    try:  # YAML 1.1 takes 1e-5 for text
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


@pytest.mark.parametrize("section", SECTIONS)
def test_options(section):
    expected = {
        name: default
        for name, default in options(SECTIONS[section]).items()
        if name.partition(".")[0] not in RUNS
    }
    shared = documented("What all of them share")
    if issubclass(SECTIONS[section], OfflineConfig):
        shared |= documented("Runs on datasets")
    if issubclass(SECTIONS[section], OnlineConfig):
        shared |= documented(SHARED)
    assert shared | documented(section) == expected


def test_options_of_adapters():
    expected = {f"adapter.{name}": default for name, default in options(AdapterConfig).items()}
    assert documented("Adapters") == expected


def test_every_section_has_the_same_parts():
    text = (DOCS / "algorithms.md").read_text(encoding="utf-8")
    for part in text.split("\n## ")[2:]:
        section, *lines = part.splitlines()
        parts = [line[4:] for line in lines if line.startswith("### ")]
        assert parts == ["Objective", "Procedure", "Options", "Sources",
                         "Differences from other systems"], section  # fmt: skip


def test_code_is_where_the_page_says():
    (rows,) = tables("algorithms.md", "algorithm").values()
    paths = [path for row in rows for path in re.findall(r"`([^`]+)`", row[3])]
    assert len(paths) >= len(SECTIONS)
    assert [path for path in paths if not (REPOSITORY / "workflow/rlhf" / path).exists()] == []
