"""The whole configuration: sections, names that resolve, jobs that can be laid out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import PrivateAttr, model_validator

from rlhf.catalog import SECTIONS
from rlhf.config.base import Strict, key, named
from rlhf.config.cluster import ClusterConfig, cluster_problems
from rlhf.config.cpo import CpoConfig
from rlhf.config.data import DatasetConfig
from rlhf.config.dpo import DpoConfig
from rlhf.config.evaluation import EvaluationConfig
from rlhf.config.grpo import GrpoConfig
from rlhf.config.ilql import IlqlConfig
from rlhf.config.kto import KtoConfig
from rlhf.config.models import ModelConfig
from rlhf.config.orpo import OrpoConfig
from rlhf.config.ppo import PpoConfig
from rlhf.config.problems import name_problem, suggest
from rlhf.config.registry import is_known, resolve_datasets
from rlhf.config.reinforce import ReinforceConfig
from rlhf.config.report import ReportConfig
from rlhf.config.reward import RewardConfig
from rlhf.config.rloo import RlooConfig
from rlhf.config.runtime import RuntimeConfig
from rlhf.config.seeds import Run, as_written, expand, seeds_of
from rlhf.config.seeds import problems as seed_problems
from rlhf.config.sft import SftConfig
from rlhf.config.simpo import SimpoConfig
from rlhf.config.store import StoreConfig
from rlhf.config.tokenization import TokenizationConfig

TOKENIZER = ("template", "pad_token", "eos_token", "new_tokens", "per_digit_tokens")


class Config(Strict):
    """The whole configuration: named models, datasets, and runs of each stage."""

    models: dict[str, ModelConfig] = key(about="base models, by name")
    datasets: dict[str, DatasetConfig] = key(about="datasets, by name")
    tokenization: TokenizationConfig = key(TokenizationConfig(), about="from rows to tokens")
    sft: dict[str, SftConfig] = key({}, about="supervised fine-tuning runs, by name")
    reward: dict[str, RewardConfig] = key({}, about="reward models, by name")
    dpo: dict[str, DpoConfig] = key({}, about="DPO runs, by name")
    kto: dict[str, KtoConfig] = key({}, about="KTO runs, by name")
    orpo: dict[str, OrpoConfig] = key({}, about="ORPO runs, by name")
    simpo: dict[str, SimpoConfig] = key({}, about="SimPO runs, by name")
    cpo: dict[str, CpoConfig] = key({}, about="CPO runs, by name")
    ilql: dict[str, IlqlConfig] = key({}, about="ILQL runs, by name")
    store: StoreConfig = key(StoreConfig(), about="Triton model stores")
    ppo: dict[str, PpoConfig] = key({}, about="PPO runs, by name")
    rloo: dict[str, RlooConfig] = key({}, about="RLOO runs, by name")
    grpo: dict[str, GrpoConfig] = key({}, about="GRPO runs, by name")
    reinforce: dict[str, ReinforceConfig] = key({}, about="REINFORCE++ runs, by name")
    evaluation: dict[str, EvaluationConfig] = key({}, about="evaluations, by name")
    report: dict[str, ReportConfig] = key({}, about="reports, by name")
    runtime: RuntimeConfig = key(RuntimeConfig(), about="threads, micro-batches, saving")
    cluster: ClusterConfig = key(ClusterConfig(), about="what jobs ask for, on a cluster or here")

    _seeds: dict[Run, tuple[int, ...]] = PrivateAttr(default_factory=dict)

    @property
    def seeds(self) -> Mapping[Run, tuple[int, ...]]:
        """Section and name, as they are written, of runs with several seeds → these.

        The sections hold a run for each: see ``rlhf.config.seeds``.
        """
        return self._seeds

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
    def _a_run_for_each_seed(self) -> Config:
        written = {section: getattr(self, section) for section in SECTIONS}
        seeds = seeds_of(written)
        if problems := list(seed_problems(written, seeds)):
            raise ValueError("\n".join(problems))
        if not seeds:
            return self
        config = self.model_copy(update=expand(written, seeds))
        config._seeds = seeds
        return config

    @model_validator(mode="after")
    def _names_resolve(self) -> Config:
        """Names are fit for a path, names that are used are declared, and jobs can be laid out."""
        problems = [*self._bad_names(), *self._unknown_names(), *self._sources()]
        problems = problems or [*self._circles()]
        problems = problems or [
            *self._without_reward(),
            *self._seen_gold(),
            *self._left_behind(),
            *self._mixed_models(),
            *self._prefixes(),
            *self._joined(),
            *self._critics(),
            *cluster_problems(self),
        ]
        if problems:
            raise ValueError("\n".join(as_written(problems, self._seeds)))
        return self

    def _bad_names(self) -> Iterator[str]:
        for section in SECTIONS:
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
        for section, row in SECTIONS.items():
            for name, entry in getattr(self, section).items():
                where = f"{section}.{name}"
                for dataset in getattr(entry, "data", {}):
                    yield f"{where}.data", "datasets", dataset
                for dataset in ptx.data if (ptx := getattr(entry, "ptx", None)) else ():
                    yield f"{where}.ptx.data", "datasets", dataset
                for attribute, target in row.parents.items():
                    for parent in named(entry, attribute):
                        yield f"{where}.{attribute}", target, parent

    def start(self, section: str, name: str) -> tuple[str, str]:
        """Section and name of what a run starts from; of an evaluation, the run it evaluates."""
        row, run = SECTIONS[section], getattr(self, section)[name]
        given = [(row.parents[key], getattr(run, key)) for key in row.start if getattr(run, key)]
        return given[0]

    def parent(self, section: str, name: str, key: str) -> tuple[str, str] | None:
        """The first of ``parents``, or None."""
        return next(iter(self.parents(section, name, key)), None)

    def parents(self, section: str, name: str, key: str) -> list[tuple[str, str]]:
        """Section and name of all that a run names under a key, or else what it starts from does.

        So ``sft`` of an evaluation is the SFT run of the run that it evaluates.
        """
        while (row := SECTIONS[section]).start:
            names = named(getattr(self, section)[name], key) if key in row.parents else []
            if names:
                return [(row.parents[key], parent) for parent in names]
            section, name = self.start(section, name)
        return []

    def base_model(self, section: str, name: str) -> str:
        """Name of the base model that a run goes back to."""
        while section != "models":
            section, name = self.start(section, name)
        return name

    def drawn_from(self, section: str, name: str) -> list[str]:
        """Names of a run's datasets; an evaluation's are those of the run it evaluates."""
        while not SECTIONS[section].view:
            section, name = self.start(section, name)
        return list(getattr(self, section)[name].data)

    def _circles(self) -> Iterator[str]:
        """SFT runs that start from one another."""
        for name in self.sft:
            seen, here = [name], name
            while (following := self.sft[here].sft) is not None and following not in seen:
                seen.append(here := following)
            if following == name:
                yield f"sft.{name}: starts from itself ({' ← '.join([*seen, name])})"

    def _scored(self) -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
        """Section and name of runs whose responses are scored, with their reward models."""
        for section, row in SECTIONS.items():
            for name in getattr(self, section) if "reward" in row.parents else ():
                yield section, name, self.parents(section, name, "reward")

    def _gold(self) -> Iterator[tuple[str, str, tuple[str, str]]]:
        """Section and name of evaluations with a gold reward model, and that."""
        for name, evaluation in self.evaluation.items():
            if evaluation.gold:
                yield "evaluation", name, ("reward", evaluation.gold)

    def _seen_gold(self) -> Iterator[str]:
        """Evaluations whose gold reward model is the one that the run was trained against."""
        for section, name, gold in self._gold():
            policy = self.start(section, name)
            seen = self.parents(section, name, "reward") + self.parents(*policy, "reward")
            if gold in seen:
                yield (
                    f"{section}.{name}.gold: {'.'.join(gold)} scores already, or was trained "
                    f"against; name one that {'.'.join(policy)} has not seen"
                )

    def _without_reward(self) -> Iterator[str]:
        """Evaluations of which nobody knows by which reward model, and critics without one."""
        for section, name, rewards in self._scored():
            value = getattr(getattr(self, section)[name], "value", None)
            starts = value and value.kind == "critic" and not value.from_sft
            if starts and not rewards:
                yield (
                    f"{section}.{name}.value.kind: a critic starts from a reward model, and "
                    "`reward` names none; write head, or value.start: sft"
                )
            if SECTIONS[section].online or len(rewards) == 1:
                continue
            run, names = ".".join(self.start(section, name)), ", ".join(own for _, own in rewards)
            has = f"several reward models ({names})" if rewards else "no reward model"
            yield f"{section}.{name}.reward: {run} has {has}, so name one here"

    def _left_behind(self) -> Iterator[str]:
        """Runs whose rewards need what their datasets do not keep of their rows."""
        for section, row in SECTIONS.items():
            for name, run in getattr(self, section).items() if row.online else ():
                for dataset in run.data:
                    options = self.datasets[dataset].options
                    kept = options.get("keep") or ()
                    if missing := [column for column in run.columns if column not in kept]:
                        yield (
                            f"{section}.{name}.reward: a function needs the column {missing[0]!r}, "
                            f"which {dataset} does not keep; write datasets.{dataset}.options.keep:"
                            f" [{', '.join(run.columns)}]"
                        )
                    if run.rewards.relative_to == "reply" and not options.get("keep_reply"):
                        yield (
                            f"{section}.{name}.rewards.relative_to: {dataset} does not keep its "
                            f"replies; write datasets.{dataset}.options.keep_reply: true"
                        )

    def _prefixes(self) -> Iterator[str]:
        """Runs that would have to merge a prefix into weights, or to serve it."""
        for section, row in SECTIONS.items():
            for name, run in getattr(self, section).items() if row.trains else ():
                start = self.start(section, name)
                own, given = self._prefix(section, name), self._prefix(*start)
                if given and given != own:
                    yield (
                        f"{section}.{name}: starts from {'.'.join(start)}, which is a prefix, so "
                        f"it needs `adapter: {{kind: prefix, virtual_tokens: {given}, publish: "
                        "adapter}`, and goes on with it"
                    )
                if not row.online:
                    continue
                scoring = self.parents(section, name, "reward")
                served = next((one for one in [start, *scoring] if self._prefix(*one)), None)
                if run.scoring != "local" and served:
                    yield (
                        f"{section}.{name}.scoring: model servers know no prefix, which "
                        f"{'.'.join(served)} is; write local"
                    )
                value = getattr(run, "value", None)
                starting = [start] if value and value.from_sft else scoring
                critic = starting[0] if value and value.kind == "critic" and starting else None
                other = self._prefix(*critic) if critic else 0
                kept = own if value and value.adapter else 0
                if critic and other and other != kept:
                    yield (
                        f"{section}.{name}.value.kind: a critic starts from {'.'.join(critic)}, "
                        f"which is a prefix of {other} tokens; write head, or an adapter of that "
                        "kind and length"
                    )

    def _joined(self) -> Iterator[str]:
        """Runs that would leave single samples out of rows which hold several."""
        if self.tokenization.conversation.samples_mixing is None:
            return
        for section, row in SECTIONS.items():
            for name, run in getattr(self, section).items() if row.trains else ():
                if row.view == "conversation" and run.duplicates.remove != "none":
                    yield (
                        f"{section}.{name}.duplicates.remove: with "
                        "tokenization.conversation.samples_mixing a row holds several samples, of "
                        "which none can be left out; write none, or leave samples_mixing out"
                    )

    def _critics(self) -> Iterator[str]:
        """Critics that would start from a head that has seen means over tokens alone."""
        for name, run in self.ppo.items():
            start = self.parent("ppo", name, "reward")
            if run.value.kind != "critic" or run.value.from_sft or start is None:
                continue
            if self.reward[start[1]].pooling == "mean":
                yield (
                    f"ppo.{name}.value.kind: a critic starts from {'.'.join(start)}, whose "
                    "scores are of the mean over all tokens (pooling: mean), and reads values at "
                    "single tokens, which that head has never seen; write head, or value.start: sft"
                )

    def _prefix(self, section: str, name: str) -> int:
        """Tokens of the prefix that a run publishes; 0: none."""
        adapter = getattr(getattr(self, section)[name], "adapter", None)
        return adapter.virtual_tokens if adapter and adapter.kind == "prefix" else 0

    def _mixed_models(self) -> Iterator[str]:
        """Runs whose policy and reward model can't have one tokenizer.

        Models of one family may: whether they do is known once both are there. The stage looks
        then.
        """
        gold = ((section, name, [reward]) for section, name, reward in self._gold())
        for section, name, rewards in (*self._scored(), *gold):
            for reward in rewards:
                policy = self.base_model(section, name)
                scoring = self.base_model(*reward)
                one, other = self.models[policy], self.models[scoring]
                differ = [key for key in TOKENIZER if getattr(one, key) != getattr(other, key)]
                if differ:
                    yield (
                        f"{section}.{name}: policy ({policy}) and reward model ({scoring}) come "
                        f"from base models that differ in {', '.join(differ)}, so their token ids "
                        "do not match"
                    )
