"""The reward of an on-policy run, as its configuration composes it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rlhf.config.online import FUNCTIONS, OnlineConfig
from rlhf.config.reward_terms import RewardTermConfig
from rlhf.core.user_functions import content_of, load_function
from rlhf.data.rows_file import PromptsById
from rlhf.errors import ConfigError, IntegrityError
from rlhf.models.reward import load_calibration, load_reply_scorer
from rlhf.online.functions import Messages, RewardFunction
from rlhf.online.rewards import Reward, RewardModel, ServedRewardModel, Source
from rlhf.online.terms import RewardSum, Term
from rlhf.online.verifiers import VERIFIERS
from rlhf.stages.servers import client
from rlhf.stages.stage import Stage
from rlhf.training.attention import choose_attention
from rlhf.training.engine.protocol import Engine

FUNCTION = (0.0, 1.0)  # a function's scores are taken as they are


def reward_folders(stage: Stage) -> list[Path]:
    """Folders of the run's reward models, in the order in which its reward names them."""
    return [manifest.parent / "model" for manifest in stage.inputs.get("reward", [])]


def check_rewards(stage: Stage, config: OnlineConfig) -> None:
    """Compare what the run's rewards need with what is there.

    Raises:
        IntegrityError: a function's file is not the one that the run was planned with.
        ConfigError: the prompts lack a column, or the datasets' own replies.
    """
    present = {path: digest for file in config.function_files
             for path, digest in content_of(file).items()}  # fmt: skip
    planned: Mapping[str, str] = stage.config.get(FUNCTIONS, {})
    changed = [path for path in {**present, **planned} if present.get(path) != planned.get(path)]
    if changed:
        raise IntegrityError(
            "The file of a reward function is not the one that this run was planned with.",
            where=changed[0],
            expected=f"sha256 {planned.get(changed[0], 'of no file')[:12]}, "
            f"found {present.get(changed[0], 'no such file')[:12]}",
            hint="run snakemake again: it begins the run anew with the file as it is",
        )
    for manifest in stage.inputs["data"]:
        _check_columns(stage, config, manifest.parent)


def build_reward(stage: Stage, config: OnlineConfig, engine: Engine, tokenizer: Any) -> RewardSum:
    """The sum of the run's terms.

    Models are in this process, or behind servers that have been checked to hold the same.

    Raises:
        ConfigError: a function can't be loaded, or its parameters are others.
        ServingError: no server was announced, or one holds another model.
    """
    folders = {folder.parent.name: folder for folder in reward_folders(stage)}
    models = {
        name: _model(stage, config, engine, folder, number, tokenizer.eos_token_id)
        for number, (name, folder) in enumerate(folders.items(), start=1)
    }
    terms = []
    for term in config.reward:
        sources: list[Source] = [models[name] for name in term.models]
        calibrations = [load_calibration(folders[name]) for name in term.models]
        if term.function is not None:
            sources = [_function(stage, term, tokenizer)]
            calibrations = [FUNCTION]
        terms.append(
            Term(term.label, sources, calibrations, term.weight, term.combine, term.coefficient)
        )
    relative = config.rewards.relative_to == "reply"
    return RewardSum(terms, config.sampling.max_new_tokens if relative else None)


def _model(
    stage: Stage, config: OnlineConfig, engine: Engine, folder: Path, number: int, eos_id: int
) -> Reward:
    if config.scoring != "local":
        return ServedRewardModel(client(stage, "reward", folder, number), eos_id)
    scorer = load_reply_scorer(folder, dtype="auto")
    scorer.compute_in(config.precision)
    choose_attention(scorer, stage.engine.attention)
    return RewardModel(engine.frozen(scorer), eos_id, stage.micro_batch_tokens)


def _function(stage: Stage, term: RewardTermConfig, tokenizer: Any) -> RewardFunction:
    assert term.function is not None
    where = f"{stage.section}.{stage.name}.reward"
    function = VERIFIERS.get(term.function) or load_function(term.function, where)

    def decode(ids: torch.Tensor) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=True))

    return RewardFunction(
        function, term.function, term.columns, term.options, term.dense, decode,
        functools.partial(_messages, _prompts(stage)), where,
    )  # fmt: skip


def _prompts(stage: Stage) -> dict[str, PromptsById]:
    return {path.parent.name: PromptsById(path.parent / "rows") for path in stage.inputs["rows"]}


def _messages(
    prompts: Mapping[str, PromptsById], rows: Sequence[Mapping[str, Any]]
) -> list[Messages]:
    known = [prompts[row["dataset"]].find(row["id"]) for row in rows]
    return [
        [{"role": message.role, "content": message.content} for message in prompt.history]
        for prompt in known
    ]


def _check_columns(stage: Stage, config: OnlineConfig, folder: Path) -> None:
    """A tokenized set has what the functions, and a comparison with its own replies, need."""
    import datasets

    data = datasets.load_from_disk(str(folder / "data" / "train"))
    if config.columns and "columns" not in data.column_names:
        missing, option = f"the columns {', '.join(config.columns)}", "keep"
    elif config.rewards.relative_to == "reply" and "own_reply_ids" not in data.column_names:
        missing, option = "the dataset's own replies", "keep_reply"
    else:
        return
    raise ConfigError(
        f"The prompts of {folder.name} were tokenized without {missing}, which the reward of "
        f"{stage.section}.{stage.name} needs.",
        where=folder,
        expected=f"datasets.{folder.name}.options.{option}",
        hint="set it and run snakemake again",
    )
