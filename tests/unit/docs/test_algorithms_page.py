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
from rlhf.config.ilql import IlqlConfig
from rlhf.config.kto import KtoConfig
from rlhf.config.offline import OfflineConfig
from rlhf.config.online import OnlineConfig
from rlhf.config.orpo import OrpoConfig
from rlhf.config.ppo import PpoConfig, PtxConfig
from rlhf.config.presets import PRESETS
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
    "ILQL": IlqlConfig,
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
        if field.annotation == PtxConfig | None:
            own = options(PtxConfig, f"{prefix}{name}.")
            found |= {key: value for key, value in own.items() if not key.endswith(".data")}
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


def test_presets():
    """A row has what a run with the preset, or without one, has under its key."""
    run = {"sft": "s", "reward": "r", "data": {"d": {}}}
    rows = tables("algorithms.md", "value of")["PPO"]
    runs = [PpoConfig.model_validate(run | {"preset": name}) for name in (None, *PRESETS)]
    named = {name for preset in PRESETS.values() for name in options_of(preset)}
    same = {name for name in named if len({str(value(each, name)) for each in runs}) == 1}
    said = dict(zip(names(rows), (row[1:] for row in rows), strict=True))
    assert said.keys() == (named - same - {"sampling.top_p", "sampling.stop"}) | {"sampling"}
    for key, cells in said.items():
        for cell, each in zip(cells, runs, strict=True):
            if key == "sampling":
                written = yaml.safe_load(cell.strip("`") or "{}")
                plain = runs[0].sampling.model_dump()
                assert plain | written == each.sampling.model_dump()
            else:
                assert _number(yaml.safe_load(cell.strip("`"))) == value(each, key), key


def options_of(values: Any, prefix: str = "") -> list[str]:
    found = []
    for name, inner in values.items():
        deeper = isinstance(inner, dict)
        found += options_of(inner, f"{prefix}{name}.") if deeper else [prefix + name]
    return found


def value(run: Any, key: str) -> Any:
    for part in key.split("."):
        run = getattr(run, part)
    return run


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
