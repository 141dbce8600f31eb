"""The whole configuration: sections, names that resolve, jobs that can be laid out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import model_validator

from rlhf.config.base import Strict, key
from rlhf.config.cluster import ClusterConfig, cluster_problems
from rlhf.config.data import DatasetConfig
from rlhf.config.evaluation import EvaluationConfig
from rlhf.config.models import ModelConfig
from rlhf.config.ppo import PpoConfig
from rlhf.config.problems import name_problem, suggest
from rlhf.config.registry import is_known, resolve_datasets
from rlhf.config.report import ReportConfig
from rlhf.config.reward import RewardConfig
from rlhf.config.runtime import RuntimeConfig
from rlhf.config.sft import SftConfig
from rlhf.config.store import StoreConfig
from rlhf.config.tokenization import TokenizationConfig

# Sections whose entries have names that a user chose, and the keys that refer to one.
NAMED = ("models", "datasets", "sft", "reward", "ppo", "evaluation", "report")
TOKENIZER = ("template", "pad_token", "eos_token", "new_tokens", "per_digit_tokens")
REFERENCES = {"model": "models", "sft": "sft", "reward": "reward", "ppo": "ppo"}


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
    cluster: ClusterConfig = key(ClusterConfig(), about="what jobs ask for, on a cluster or here")

    @model_validator(mode="before")
    @classmethod
    def _datasets_of_the_registry(cls, values: Any) -> Any:
        """Entries that name a dataset of the registry take what stands there."""
        datasets = values.get("datasets") if isinstance(values, Mapping) else None
        if not isinstance(datasets, Mapping):
            return values
        resolved, problems = resolve_datasets(datasets)
        if problems:
            raise ValueError("\n".join(problems))
        return {**values, "datasets": resolved}

    @model_validator(mode="after")
    def _names_resolve(self) -> Config:
        """Names are fit for a path, names that are used are declared, and jobs can be laid out."""
        problems = [*self._bad_names(), *self._unknown_names(), *self._sources()]
        problems = problems or [*self._circles()]
        problems = problems or [*self._mixed_models(), *cluster_problems(self)]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _bad_names(self) -> Iterator[str]:
        for section in NAMED:
            folded: dict[str, str] = {}
            for name in getattr(self, section):
                if problem := name_problem(name):
                    yield f"{section}.{name}: {problem}"
                elif (other := folded.setdefault(name.casefold(), name)) != name:
                    yield (
                        f"{section}.{name}: differs from {section}.{other} in the case of letters "
                        "alone, and some file systems would give both one folder"
                    )

    def _sources(self) -> Iterator[str]:
        for name, dataset in self.datasets.items():
            if (dataset.path is None) == (dataset.source is None):
                yield f"datasets.{name}: give exactly one of path, source (or registry)"
            if dataset.format is None:
                advice = f"; or write `registry: {name}`" if is_known(name) else ""
                yield f"datasets.{name}.format: this key is required{advice}"

    def _unknown_names(self) -> Iterator[str]:
        for where, section, name in self._references():
            known = getattr(self, section)
            if name not in known:
                advice = suggest(name, known, cutoff=0.4)
                yield f"{where}: there is no {section}.{name}; {advice}"

    def _references(self) -> Iterator[tuple[str, str, str]]:
        """Every use of a name: the key, the section that should declare it, the name."""
        for section in NAMED:
            for name, entry in getattr(self, section).items():
                where = f"{section}.{name}"
                for dataset in getattr(entry, "data", {}):
                    yield f"{where}.data", "datasets", dataset
                for attribute, target in REFERENCES.items():
                    value = getattr(entry, attribute, None)
                    if isinstance(value, str):
                        yield f"{where}.{attribute}", target, value
        for name, entry in self.report.items():
            for one in entry.evaluations:
                yield f"report.{name}.evaluations", "evaluation", one

    def start(self, section: str, name: str) -> tuple[str, str]:
        """Section (``models`` or ``sft``) and name of what a run starts from."""
        run = getattr(self, section)[name]
        base = None if section == "ppo" else run.model
        return ("sft", run.sft) if base is None else ("models", base)

    def base_model(self, section: str, name: str) -> str:
        """Name of the base model that a run goes back to."""
        while section != "models":
            section, name = self.start(section, name)
        return name

    def _circles(self) -> Iterator[str]:
        """SFT runs that start from one another."""
        for name in self.sft:
            seen, here = [name], name
            while (following := self.sft[here].sft) is not None and following not in seen:
                seen.append(here := following)
            if following == name:
                yield f"sft.{name}: starts from itself ({' ← '.join([*seen, name])})"

    def _mixed_models(self) -> Iterator[str]:
        """PPO runs whose policy and reward model can't have one tokenizer.

        Models of one family may: whether they do is known once both are there. PPO looks then.
        """
        for name, run in self.ppo.items():
            policy = self.base_model("ppo", name)
            judge = self.base_model("reward", run.reward)
            one, other = self.models[policy], self.models[judge]
            differ = [key for key in TOKENIZER if getattr(one, key) != getattr(other, key)]
            if differ:
                yield (
                    f"ppo.{name}: policy ({policy}) and reward model ({judge}) come from base "
                    f"models that differ in {', '.join(differ)}, so their token ids do not match"
                )
