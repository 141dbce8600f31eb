"""The configuration: declared once, validated with suggestions, cut into one slice per stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError, model_validator

from rlhf.config.base import NAME_PATTERN, Strict, explain, key
from rlhf.config.data import DatasetConfig, TokenizationConfig
from rlhf.config.evaluation import EvaluationConfig, ReportConfig
from rlhf.config.models import ModelConfig
from rlhf.config.ppo import PpoConfig
from rlhf.config.runtime import RuntimeConfig, StoreConfig
from rlhf.config.training import RewardConfig, SftConfig
from rlhf.errors import ConfigError

__all__ = ["NAME_PATTERN", "Config", "load_config", "load_config_file"]


class Config(Strict):
    """The whole configuration: named models, datasets, and runs of each stage."""

    models: dict[str, ModelConfig] = key(about="base models, by name")
    datasets: dict[str, DatasetConfig] = key(about="datasets, by name")
    tokenization: TokenizationConfig = key(TokenizationConfig(), about="from rows to tokens")
    sft: dict[str, SftConfig] = key({}, about="supervised fine-tuning runs, by name")
    reward: dict[str, RewardConfig] = key({}, about="reward models, by name")
    store: StoreConfig = key(StoreConfig(), about="Triton model stores")
    ppo: dict[str, PpoConfig] = key({}, about="PPO runs, by name")
    evaluation: dict[str, EvaluationConfig] = key({}, about="evaluations, by name")
    report: dict[str, ReportConfig] = key({}, about="reports, by name")
    runtime: RuntimeConfig = key(RuntimeConfig(), about="threads, micro-batches, saving")

    @model_validator(mode="after")
    def _names_resolve(self) -> Config:
        """Every name that is used is declared, and names can stand in a path."""
        import difflib
        import re

        problems = []

        def check(where: str, section: str, name: str) -> None:
            known = getattr(self, section)
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
                advice = f"did you mean '{close[0]}'?" if close else f"known: {sorted(known)}"
                problems.append(f"{where}: there is no {section}.{name}; {advice}")

        sections = ("models", "datasets", "sft", "reward", "ppo", "evaluation", "report")
        for section in sections:
            for name, entry in getattr(self, section).items():
                if not re.fullmatch(NAME_PATTERN, name):
                    problems.append(f"{section}.{name}: names are letters, digits, '_' and '-'")
                for dataset in getattr(entry, "data", {}):
                    check(f"{section}.{name}.data", "datasets", dataset)
                references = {"model": "models", "sft": "sft", "reward": "reward", "ppo": "ppo"}
                for attribute, target in references.items():
                    value = getattr(entry, attribute, None)
                    if isinstance(value, str):
                        check(f"{section}.{name}.{attribute}", target, value)
        for name, entry in self.report.items():
            for one in entry.evaluations:
                check(f"report.{name}.evaluations", "evaluation", one)
        for name, run in self.ppo.items():
            if run.sft in self.sft and run.reward in self.reward:
                policy = self.sft[run.sft].model
                judge = self.sft[self.reward[run.reward].sft].model
                if policy != judge:
                    problems.append(
                        f"ppo.{name}: policy ({policy}) and reward model ({judge}) come from "
                        "different base models, so their token ids do not match"
                    )
        if problems:
            raise ValueError("; ".join(problems))
        return self


def load_config(values: Mapping[str, Any], origin: object = "config") -> Config:
    """Validate a configuration.

    Args:
        values: the parsed YAML.
        origin: what to name in errors, usually the file.

    Raises:
        ConfigError: names every wrong key and suggests the right one.
    """
    try:
        return Config.model_validate(dict(values))
    except ValidationError as error:
        raise explain(error, Config, origin) from None


def load_config_file(path: str | Path) -> Config:
    """Read and validate a YAML file.

    Raises:
        ConfigError: the file is missing, not YAML (line and column), or not valid.
    """
    import yaml

    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError("There is no such configuration file.", where=path) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else path
        raise ConfigError(f"Not YAML: {getattr(error, 'problem', error)}", where=where) from None
    if not isinstance(values, dict):
        raise ConfigError("The configuration is empty.", where=path, expected="a mapping")
    return load_config(values, path)
