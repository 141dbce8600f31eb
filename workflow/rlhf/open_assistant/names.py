"""Open-Assistant's YAML files and command line: names and options become one mapping.

As its trainers do it: all files of a folder hold one collection of names; the settings of the
names that were chosen replace one another, in order, key by key; options come last, each read as
the type that the YAML gave the key.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml

from rlhf.config.load import read_sections
from rlhf.config.problems import suggest
from rlhf.core.documents import read_text
from rlhf.errors import ConfigError

Trainer = Literal["sft", "rm", "rl"]
FOLDERS = ("model/model_training/configs", "configs", ".")  # of a checkout, or in one
# Sections of ppo_config.yaml, which trlX reads: not names of configurations.
TRLX = ("train", "model", "tokenizer", "optimizer", "scheduler", "method")
YES, NO = ("y", "yes", "t", "true", "on", "1"), ("n", "no", "f", "false", "off", "0")


@dataclass(frozen=True)
class Collection:
    """What the files hold.

    Attributes:
        named: name → settings.
        trlx: sections of trlX's configuration, empty if no file holds one.
        files: the files read.
        disputed: names that two files define in two ways; the later file counts.
    """

    named: dict[str, dict[str, Any]]
    trlx: dict[str, Any]
    files: list[Path]
    disputed: list[str] = field(default_factory=list)


def files_of(repo: Path) -> list[Path]:
    """The YAML files of a checkout of Open-Assistant, of its model_training, or of a folder.

    Raises:
        ConfigError: there are none.
    """
    for folder in FOLDERS:
        found = sorted((repo / folder).glob("**/*.yaml")) if folder != "." else []
        found = found or sorted((repo / folder).glob("*.yaml"))
        if found:
            return found
    raise ConfigError(
        "There are no YAML files of Open-Assistant.",
        where=repo,
        expected="a checkout, with model/model_training/configs/config.yaml",
        hint="git clone https://github.com/LAION-AI/Open-Assistant, or give --config-file",
    )


def read_files(paths: Iterable[Path]) -> Collection:
    """Read YAML files, the later ones going before.

    Raises:
        ConfigError: a file is missing or not YAML, or no file names a configuration.
    """
    collection = Collection({}, {}, list(paths))
    for path in collection.files:
        values = _sections(path)
        if "train" in values and "method" in values:
            collection.trlx.update({key: values[key] for key in TRLX if key in values})
            continue
        if "compute_environment" in values:
            continue  # accelerate's settings
        for name, settings in values.items():
            if not isinstance(settings, dict):
                continue
            if collection.named.get(name, settings) != settings:
                collection.disputed.append(name)
            collection.named[name] = settings
    if not collection.named:
        raise ConfigError(
            "No configuration has a name.",
            where=", ".join(map(str, collection.files)),
            expected="names with settings, as in Open-Assistant's config.yaml",
        )
    return collection


def _sections(path: Path) -> dict[str, Any]:
    """The sections of a file as Open-Assistant reads them: in YAML 1.1, ``1e-5`` is text."""
    read_sections([path])  # says what is wrong with it
    try:
        return yaml.safe_load(read_text(path))
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"Not YAML 1.1: {error}", where=path) from None


def merge(collection: Collection, names: Sequence[str], trainer: Trainer) -> dict[str, Any]:
    """Settings of the names, the later ones replacing whole values of the earlier.

    trainer_sft begins with ``defaults`` by itself; the others begin with nothing.

    Raises:
        ConfigError: names that no file has, with suggestions.
    """
    chosen = [one for name in names for one in name.split(",") if one]
    if trainer == "sft" and "defaults" in collection.named:
        chosen = ["defaults", *chosen]
    unknown = [name for name in chosen if name not in collection.named]
    if unknown:
        raise ConfigError(
            "There is no such configuration:\n    "
            + "\n    ".join(f"{name}; {suggest(name, collection.named)}" for name in unknown),
            where="--configs",
            expected=f"a name that {', '.join(path.name for path in collection.files)} defines",
        )
    merged: dict[str, Any] = {}
    for name in chosen:
        merged.update(collection.named[name])
    return merged


def trainer_of(settings: dict[str, Any]) -> Trainer:
    """The trainer that such settings are for."""
    if "num_rollouts" in settings or "rank_config" in settings:
        return "rl"
    return "rm" if settings.get("is_reward_model") else "sft"


def override(settings: dict[str, Any], options: Sequence[str], trainer: Trainer) -> dict[str, Any]:
    """Settings after the options of Open-Assistant's command line.

    Args:
        settings: merged settings.
        options: ``--KEY VALUE …``; a key may be shortened. ``--no-KEY`` empties it (SFT only).
        trainer: whose command line it is.

    Raises:
        ConfigError: an unknown key, with a suggestion, or a value of the wrong type.
    """
    own = _own_options(trainer)
    given, rest = own.parse_known_args(options)
    settings = settings | {
        key: value for key, value in vars(given).items() if value is not None and value is not False
    }
    parser = _Parser(argument_default=argparse.SUPPRESS)
    for key, value in settings.items():
        parser.add_argument(f"--{key}", type=_type_of(value))
        if trainer == "sft":
            parser.add_argument(f"--no-{key}", dest=key, action="store_const", const=None)
    found, unknown = parser.parse_known_args(rest)
    if unknown:
        key = unknown[0].removeprefix("--").partition("=")[0]
        raise ConfigError(
            f"The command line has an unknown key: {unknown[0]}.",
            where=f"trainer_{trainer}.py's options",
            expected="keys that the chosen configurations have",
            hint=suggest(key, settings),
        )
    return settings | vars(found)


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(add_help=False, **options)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(
            f"The command line cannot be read: {message}.",
            where="Open-Assistant's options",
            expected="--KEY VALUE, where VALUE is of the type that the YAML has for KEY",
        )


def _own_options(trainer: Trainer) -> _Parser:
    """Options that a trainer has besides the keys of its configuration."""
    parser = _Parser()
    parser.add_argument("--local_rank", type=int)
    parser.add_argument("--wandb-entity", "--wandb_entity")
    parser.add_argument("--rng_seed", type=int)
    if trainer != "rl":
        parser.add_argument("--deepspeed", action="store_true")
        parser.add_argument("--no-deepspeed", dest="deepspeed", action="store_false")
        parser.add_argument("--resume_from_checkpoint", action="store_true")
        parser.add_argument("--show_dataset_stats", action="store_true")
        parser.set_defaults(deepspeed=False)
    return parser


def _type_of(value: Any) -> Any:
    if isinstance(value, bool):
        return _truth
    if isinstance(value, list | dict):
        return _no_collection
    return str if value is None else type(value)


def _truth(text: str) -> bool:
    if text.lower() not in (*YES, *NO):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() in YES


def _no_collection(text: str) -> NoReturn:
    raise argparse.ArgumentTypeError(
        f"lists cannot be given (Open-Assistant makes letters of {text!r}); name a configuration "
        "that has it"
    )
