"""What the runs of a configuration ask of a base model, and of all that is trained from it.

It is told to the stages that meet the model first: what can't be done is then said before any
training, not after.
"""

from __future__ import annotations

from collections.abc import Iterator

from rlhf.catalog import DRAWING, ONLINE, SCORING, VIEWS
from rlhf.config.base import named
from rlhf.config.schema import Config
from rlhf.provenance.facts import SAMPLING, SCORES

STEP = 128  # tokens


def longest_rows(config: Config, model: str) -> dict[str, int]:
    """Tokens that rows may have, by the keys that say so, joined by ``+`` where they add up.

    Args:
        config: the whole configuration.
        model: name of the base model.
    """
    views = config.tokenization
    rows: dict[str, int] = {}
    offline = {section: row for section, row in DRAWING.items() if not row.online}
    read = {view for section, row in offline.items() if _built_on(config, section, model)
            for view in (row.view, *row.held_out.values())}  # fmt: skip
    mixed = (config.ppo[name].ptx for name in _built_on(config, "ppo", model))
    if any(mixed):
        read.add("conversation")
    for view in VIEWS:
        if view in read:
            rows[f"tokenization.{view}.max_length"] = getattr(views, view).max_length
    for key, new in _responses(config, model):
        rows[f"tokenization.prompt.max_length+{key}"] = views.prompt.max_length + new
    return rows


def abilities(config: Config, model: str) -> dict[str, list[str]]:
    """Runs that need more of the model than SFT does: those that sample, and those that score."""
    sampling = [
        f"{section}.{name}"
        for section in (*ONLINE, "evaluation")
        for name in _built_on(config, section, model)
    ]
    critics = [
        f"ppo.{name}" for name in _built_on(config, "ppo", model) if config.ppo[name].value.from_sft
    ]
    rewards = [f"reward.{name}" for name in _built_on(config, "reward", model)]
    return {SAMPLING: sampling, SCORES: rewards + critics}


def longest_scored(config: Config, kind: str, name: str) -> int:
    """Tokens of the longest row that a store may be asked to score.

    Rounded up: another run with slightly longer responses is no reason to make the store again.

    Args:
        config: the whole configuration.
        kind: of the store, ``reward`` or ``reference``.
        name: the run that it is made of.
    """
    new = max(
        (
            run.sampling.max_new_tokens
            for section, row in ONLINE.items()
            for run in getattr(config, section).values()
            if kind in row.servers and name in named(run, row.servers[kind])
        ),
        default=0,
    )
    return -(-(config.tokenization.prompt.max_length + new) // STEP) * STEP


def _built_on(config: Config, section: str, model: str) -> list[str]:
    """Runs of a section that go back to a base model."""
    runs = getattr(config, section)
    return [name for name in runs if config.base_model(section, name) == model]


def _responses(config: Config, model: str) -> Iterator[tuple[str, int]]:
    """Keys and tokens of responses that the model samples, or scores as a reward model."""
    for section in ONLINE:
        for name, run in getattr(config, section).items():
            if model in _samples_or_scores(config, section, name):
                yield f"{section}.{name}.sampling.max_new_tokens", run.sampling.max_new_tokens
    for name, evaluation in config.evaluation.items():
        if model in _samples_or_scores(config, "evaluation", name):
            yield f"evaluation.{name}.max_new_tokens", evaluation.max_new_tokens


def _samples_or_scores(config: Config, section: str, name: str) -> set[str]:
    """Base models of a run's policy and of its reward models."""
    rewards = (reward for key in SCORING for reward in config.parents(section, name, key))
    return {config.base_model(*run) for run in ((section, name), *rewards)}
