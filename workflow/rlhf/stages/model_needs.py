"""What a stage's model has to be able to do: said before the work, not after."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rlhf.errors import ConfigError
from rlhf.models.context import check_length, context_of
from rlhf.provenance.manifest import read_manifest
from rlhf.stages.stage import Stage


def check_needs(stage: Stage, folder: Path, cannot: Mapping[str, str]) -> None:
    """Refuse a model that some run of the configuration can't be done with.

    Args:
        stage: knows those runs.
        folder: the model.
        cannot: need → why the model does not meet it.

    Raises:
        ConfigError: rows may be too long for it, or it can't do what a run needs.
    """
    found = context_of(folder)
    for keys, tokens in stage.rows.items():
        check_length(found, tokens, keys, _called(stage, folder))
    for need, runs in stage.runs.items():
        if runs and need in cannot:
            raise ConfigError(
                f"These runs need more than this model can do: {cannot[need]}.",
                where=", ".join(runs),
                expected=f"a model that {need} can be had of",
                hint="choose a model of another architecture, or leave these runs out",
            )


def check_tokenized(
    stage: Stage, folder: Path, role: str = "data", new: tuple[str, int] = ("", 0)
) -> None:
    """Refuse tokenized rows that may be longer than what a model takes.

    Args:
        stage: the stage.
        folder: the model.
        role: inputs that are tokenized sets.
        new: key and tokens of what is sampled after each row.

    Raises:
        ConfigError: the model takes fewer tokens.
    """
    found = context_of(folder)
    for manifest in stage.inputs[role]:
        limits = read_manifest(manifest)["config"]
        keys = "+".join(filter(None, (f"tokenization.{limits['view']}.max_length", new[0])))
        check_length(found, limits["max_length"] + new[1], keys, _called(stage, folder))


def _called(stage: Stage, folder: Path) -> str:
    artifact = folder.resolve().parent
    own = stage.outputs["manifest"].resolve().parent == artifact
    return f"models.{stage.name}" if own else f"{artifact.parent.name}.{artifact.name}"
