"""What the runs of a configuration ask of a base model, and of all that is trained from it.

It is told to the stages that meet the model first: what can't be done is then said before any
training, not after.
"""

from __future__ import annotations

from collections.abc import Iterator

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
    for view, sections in (("sft", ("sft", "reward")), ("preference", ("reward",))):
        if any(_built_on(config, section, model) for section in sections):
            rows[f"tokenization.{view}.max_length"] = getattr(views, view).max_length
    for key, new in _responses(config, model):
        rows[f"tokenization.prompt.max_length+{key}"] = views.prompt.max_length + new
    return rows


def abilities(config: Config, model: str) -> dict[str, list[str]]:
    """Runs that need more of the model than SFT does: those that sample, and those that score."""
    sampling = [f"ppo.{name}" for name in _built_on(config, "ppo", model)]
    return {SAMPLING: sampling} | {
        SCORES: [f"reward.{name}" for name in _built_on(config, "reward", model)]
    }


def longest_scored(config: Config, section: str, name: str) -> int:
    """Tokens of the longest row that a store may be asked to score.

    Rounded up: another PPO run with slightly longer responses is no reason to make the store anew.

    Args:
        config: the whole configuration.
        section: ``reward`` or ``sft``, what the store is made of.
        name: the run there.
    """
    runs = [run for run in config.ppo.values() if getattr(run, section) == name]
    new = max((run.sampling.max_new_tokens for run in runs), default=0)
    return -(-(config.tokenization.prompt.max_length + new) // STEP) * STEP


def _built_on(config: Config, section: str, model: str) -> list[str]:
    """Runs of a section that go back to a base model."""
    runs = getattr(config, section)
    return [name for name in runs if config.base_model(section, name) == model]


def _responses(config: Config, model: str) -> Iterator[tuple[str, int]]:
    """Keys and tokens of responses that the model samples, or scores as a reward model."""
    for name, run in config.ppo.items():
        judge = config.base_model("reward", run.reward)
        if model not in (config.base_model("ppo", name), judge):
            continue
        yield f"ppo.{name}.sampling.max_new_tokens", run.sampling.max_new_tokens
        for other, evaluation in config.evaluation.items():
            if evaluation.ppo == name:
                yield f"evaluation.{other}.max_new_tokens", evaluation.max_new_tokens
