"""Open-Assistant's lists of datasets: entries of ``datasets``, and what a run takes from each."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rlhf.config.data import DatasetConfig
from rlhf.config.problems import suggest
from rlhf.config.registry import Entry, find
from rlhf.errors import ConfigError
from rlhf.open_assistant.dispositions import Dispositions
from rlhf.open_assistant.tree import arranged

VAL_SPLIT = 0.2  # Open-Assistant's, where a list says nothing
# Sets with validation rows of their own, so that Open-Assistant splits nothing off.
OWN_VALIDATION = re.compile(
    r"squad_v2|trivia_qa_\w+|adversarial_qa|gsm8k|math_qa|reddit_\w+|xsum|cnn_dailymail|samsum"
    r"|multi_news|scitldr|billsum|tldr_news|wmt2019_.+|hf_summary|hf_summary_pairs|augment_oasst"
    r"|anthropic_rlhf|shp|hellaswag"
)
# One set there that is two here.
SEVERAL = {"gpt4all": ("gpt4all", "gpt4all_multiround")}
COMMON = ("fraction", "size", "val_split", "max_val_set", "data_path")
SEEDS = ("manual_seed", "seed")
# Options that join rows to longer dialogues, or cut texts by characters.
LENGTHS = ("min_length", "fill_min_length", "max_char_len", "input_max_length", "max_chunk_size")
INSTRUCTION = ("instruction_column", "response_column", "data_files", "lang", "fill_min_length")
# What each dataset's loader takes besides.
OPTIONS: dict[str, tuple[str, ...]] = {
    "oasst_export": ("lang", "top_k", "input_file_path", "hf_dataset_name", "manual_seed"),
    "augment_oasst": ("input_file_path",),
    "oig_file": (
        "source_url", "max_count", "min_length", "manual_seed", "cache_dir", "no_cache",
    ),
    "soda": ("input_max_length",),
    "vicuna": ("input_max_length",),
    "wizard_evol_instruct_v2": ("input_max_length",),
    "alpaca": ("manual_seed",),
    "code_alpaca": ("manual_seed",),
    "red_pajama": ("max_chunk_size",),
    "fanfics": ("max_chunk_size",),
    "orca-chat": ("data_files",),
    "dolphin-mix": ("num_samples", "max_char_len", "seed", "data_files"),
    **dict.fromkeys(
        (
            "humaneval_mbpp_codegen_qa", "humaneval_mbpp_testgen_qa",
            "grade_school_math_instructions", "recipes", "ubuntu_dialogue_qa", "cmu_wiki_qa",
            "youtube_subs_howto100m", "iapp_wiki_qa_squad", "zhihu-kol", "minimath",
            "oa_wiki_qa_bart_10000row", "oa_leet10k", "poem_instructions", "oa_stackexchange",
            "tell_a_joke", "wizardlm_70k", "megacode", "megacode2", "megacode3",
            "evol_instruct_code", "evol-codealpaca-v1", "cot_submix_original",
        ),
        (*INSTRUCTION, "seed"),
    ),
}  # fmt: skip
HUB_FILE = re.compile(
    r"https://huggingface\.co/datasets/(?P<repo>[^/]+/[^/]+)/(?:resolve|raw|blob)/"
    r"(?P<revision>[^/]+)/(?P<file>.+)"
)
ROWS = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>[kM]?)(?: |$)")
UNITS = {"": 1, "k": 1_000, "M": 1_000_000}


@dataclass
class Mixture:
    """Datasets of one run.

    Attributes:
        datasets: name → entry of the section ``datasets``.
        shares: name → what the run takes from it.
        views: name → views that it serves.
        rows: about how many training rows an epoch takes of the datasets whose size is known.
        uncounted: names of the others.
    """

    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)
    shares: dict[str, dict[str, Any]] = field(default_factory=dict)
    views: dict[str, tuple[str, ...]] = field(default_factory=dict)
    rows: float = 0.0
    uncounted: list[str] = field(default_factory=list)


def translate_datasets(
    listed: Iterable[Any],
    view: str,
    run: str,
    dispositions: Dispositions,
    *,
    subsampled: bool,
    limit: int | None,
    cache: str,
    declared: dict[str, Any],
) -> Mixture:
    """Turn ``datasets`` and ``datasets_extra`` into ours.

    Args:
        listed: names, or mappings of one name to options.
        view: what the run reads: ``conversation``, ``preference`` or ``prompt``.
        run: the run's key, such as ``sft.chat``.
        dispositions: gets what became of the options.
        subsampled: whether Open-Assistant heeds ``fraction`` and ``size``.
        limit: ``eval_size``.
        cache: folder that relative files are in.
        declared: datasets of the configuration that this adds to.

    Raises:
        ConfigError: unknown datasets or options, with suggestions, or ones that do not serve
            the view.
    """
    mixture = Mixture()
    seen: list[tuple[str, dict[str, Any]]] = []
    for item in listed:
        name, options = _read_item(item)
        if (name, options) in seen:
            dispositions.note(f"datasets: {name} stands there twice and is drawn once")
            continue
        seen.append((name, options))
        _check_options(name, options)
        parts = SEVERAL.get(name, (name,))
        if subsampled and "size" in options and len(parts) > 1:
            dispositions.note(
                f"datasets: {name} is {parts[0]} alone, as its size counts one dataset"
            )
            parts = parts[:1]
        for one in parts:
            entry = find(one)
            if view not in entry.views:
                raise ConfigError(
                    f"{name} has nothing for this stage: it serves {', '.join(entry.views)}.",
                    where=f"datasets: {name}",
                    expected=f"a dataset that serves {view}, as `rlhf data list --view {view}` "
                    "shows",
                    hint="Open-Assistant refuses it too" if view == "preference" else None,
                )
            made = _Dataset(entry, options, cache)
            made.share(subsampled, limit)
            made.tell(_add(mixture, made, declared), run, dispositions)
    if not mixture.shares:
        raise ConfigError(
            "No dataset is named.",
            where="datasets",
            hint="name a configuration that has some, such as oasst_export_eu",
        )
    return mixture


def _read_item(item: Any) -> tuple[str, dict[str, Any]]:
    """Name and options of one item of a list."""
    if isinstance(item, str):
        return item.lower(), {}
    if isinstance(item, dict) and item:
        name, options = next(iter(item.items()))
        if isinstance(name, str) and isinstance(options, dict | None) and len(item) == 1:
            return name.lower(), dict(options or {})
    raise ConfigError(
        f"An item of datasets cannot be read: {item!r}.",
        where="datasets",
        expected="a name, or `name:` with its options indented below it",
    )


def _check_options(name: str, options: dict[str, Any]) -> None:
    known = (*COMMON, *OPTIONS.get(name, ()))
    for option in options:
        if option not in known:
            raise ConfigError(
                f"{name} has no option {option!r}.",
                where=f"datasets: {name}",
                expected=f"one of {', '.join(known)}",
                hint=suggest(option, known),
            )


class _Dataset:
    """One dataset on its way.

    Attributes:
        values: its entry in the section ``datasets``.
        chosen: what the run takes from it.
    """

    def __init__(self, entry: Entry, options: dict[str, Any], cache: str) -> None:
        self.name = re.sub(r"[^A-Za-z0-9_-]", "_", entry.name)
        self.entry, self.options = entry, options
        self.values: dict[str, Any] = {}
        self.chosen: dict[str, Any] = {}
        # Dispositions that wait for the name: their kind, the option, our key or the reason.
        self._said: list[tuple[str, str, str]] = []
        if self.name != entry.name:
            self.values["registry"] = entry.name
        self._hold_out()
        for option, value in options.items():
            if value is None:
                self._ignore(option, "it is empty")
            elif option in SEEDS or option == "no_cache":
                self._ignore(option, "rows are chosen by hash and by the run's seed")
            elif option in LENGTHS:
                self._miss(option, "rows are as the dataset has them; max_length cuts")
            elif option in ("data_path", "cache_dir") and "input_file_path" not in options:
                self._ignore(option, "results and caches have their places under results/")
        self._translate(options.get("data_path") or cache)

    def _hold_out(self) -> None:
        split = self.options.get("val_split")
        if not OWN_VALIDATION.fullmatch(self.entry.name):
            self.values["validation_fraction"] = _number(self.name, "val_split", split, VAL_SPLIT)
            if split is not None:
                self._carry("val_split", "validation_fraction")
        elif split is not None:
            self._ignore("val_split", "Open-Assistant splits nothing off such a dataset")

    def _translate(self, folder: str) -> None:
        """Options that say which rows there are."""
        format_options: dict[str, Any] = {}
        given = {option: value for option, value in self.options.items() if value is not None}
        for option, value in given.items():
            match option, self.entry.name:
                case "lang", "oasst_export":
                    format_options["lang"] = [one.strip() for one in str(value).split(",")]
                    self._carry(option, "options.lang")
                case "lang", _:
                    self._miss(option, "rows of this dataset get no language tag")
                case "top_k", _:
                    format_options["top_k"] = value
                    self._carry(option, "options.top_k")
                case "instruction_column", _:
                    format_options["question"] = value
                    self._carry(option, "options.question")
                case "response_column", _:
                    format_options["answer"] = value
                    self._carry(option, "options.answer")
                case "data_files", _:
                    self.values["files"] = [value] if isinstance(value, str) else value
                    self._carry(option, "files")
                case "input_file_path", _:
                    path = str(value)
                    self.values["registry"] = self.entry.name
                    self.values["path"] = path if path.startswith("/") else f"{folder}/{path}"
                    self._carry(option, "path")
                case "data_path", _ if "input_file_path" in given:
                    self._carry(option, "path")
                case "hf_dataset_name", _ if "input_file_path" not in given:
                    self._from_hub(str(value))
                case "hf_dataset_name", _:
                    self._ignore(option, "input_file_path goes before")
                case "source_url", _:
                    self._from_url(str(value))
        if format_options:
            self.values["options"] = format_options

    def _from_hub(self, repo: str) -> None:
        """Another repository of trees."""
        self._carry("hf_dataset_name", "registry")
        if repo == self.entry.values["source"]["hub"]:
            return
        try:
            self.values["registry"] = find(repo).name
        except ConfigError:
            self.values["registry"] = self.entry.name
            self.values["source"] = {"hub": repo, "revision": "main"}

    def _from_url(self, url: str) -> None:
        """One file of OIG, or of elsewhere."""
        self.values["registry"] = self.entry.name
        found = HUB_FILE.fullmatch(url)
        if not found:
            self.values["source"] = {"url": url}
            return self._carry("source_url", "source.url")
        source = {"hub": found["repo"], "revision": found["revision"]}
        if source != self.entry.values["source"]:
            self.values["source"] = source
        self.values["files"] = [found["file"]]
        return self._carry("source_url", "files")

    def share(self, subsampled: bool, limit: int | None) -> None:
        """What the run takes: `fraction`, `size`, `max_validation`."""
        for option in ("fraction", "size"):
            if option not in self.options:
                continue
            if not subsampled:
                self._ignore(option, "Open-Assistant heeds it with use_custom_sampler only")
            elif option == "fraction" or "fraction" not in self.options:
                self._take(option, self.options[option])
            else:
                self._ignore(option, "fraction goes before")
        for option in ("max_count", "num_samples"):
            if self.options.get(option):
                self._count(option, _number(self.name, option, self.options[option], 0))
        limits = [one for one in (self.options.get("max_val_set"), limit) if one]
        if limits:
            self.chosen["max_validation"] = min(limits)
        if "max_val_set" in self.options:
            self._carry("max_val_set", "max_validation", share=True)

    def _take(self, option: str, value: Any) -> None:
        number = _number(self.name, option, value, 1)
        if number <= 0:
            raise ConfigError(
                f"{option} is {value}.", where=f"datasets: {self.name}", expected="more than 0"
            )
        if option == "size":
            self.chosen["size"] = int(number)
        elif number < 1:
            self.chosen["fraction"] = number
        self._carry(option, option, share=True)

    def _count(self, option: str, count: float) -> None:
        """At most so many rows, before the split."""
        kept = count * (1 - self.values.get("validation_fraction", 0))
        kept *= self.chosen.pop("fraction", 1)
        self.chosen["size"] = min(int(kept), self.chosen.get("size", int(kept)))
        self._carry(option, "size (drawn anew in every epoch)", share=True)

    def rows(self) -> float | None:
        """About how many training rows an epoch takes; None: nobody knows."""
        if "size" in self.chosen:
            return self.chosen["size"]
        found = ROWS.match(self.entry.size)
        if not found or self.values.keys() & {"path", "source", "files"}:
            return None
        total = float(found["number"]) * UNITS[found["unit"]]
        held_out = self.values.get("validation_fraction", 0.1)
        return total * (1 - held_out) * self.chosen.get("fraction", 1)

    def tell(self, name: str, run: str, dispositions: Dispositions) -> None:
        """Say what became of the options, now that the dataset has a name."""
        places = {"data": f"{run}.data", "datasets": "datasets"}
        if "validation_fraction" not in self.values:
            dispositions.note(
                "datasets with validation rows of their own hold out a tenth of the training rows "
                "instead: validation_fraction changes it"
            )
        for kind, option, text in self._said:
            key = f"datasets.{name}.{option}"
            if kind == "ignore":
                dispositions.ignore(key, text)
            elif kind == "miss":
                dispositions.miss(key, self.options[option], text)
            else:
                dispositions.carry(key, f"{places[kind]}.{name}.{text}")

    def _carry(self, option: str, to: str, share: bool = False) -> None:
        self._said.append(("data" if share else "datasets", option, to))

    def _ignore(self, option: str, why: str) -> None:
        self._said.append(("ignore", option, why))

    def _miss(self, option: str, why: str) -> None:
        self._said.append(("miss", option, why))


def _add(mixture: Mixture, made: _Dataset, declared: dict[str, Any]) -> str:
    """Put a dataset in, under a name that no other one has; returns the name."""
    name, number = made.name, 1
    while name in mixture.shares or declared.get(name, made.values) != made.values:
        number += 1
        name = f"{made.name}-{number}"
        made.values.setdefault("registry", made.entry.name)
    if name not in declared:
        mixture.datasets[name] = arranged(made.values, DatasetConfig)
    mixture.shares[name] = made.chosen
    mixture.views[name] = made.entry.views
    rows = made.rows()
    if rows is None:
        mixture.uncounted.append(name)
    mixture.rows += rows or 0.0
    return name


def _number(name: str, option: str, value: Any, default: float) -> float:
    try:
        return default if value is None else float(value)
    except (TypeError, ValueError):
        raise ConfigError(
            f"{option} is {value!r}.", where=f"datasets: {name}", expected="a number"
        ) from None
