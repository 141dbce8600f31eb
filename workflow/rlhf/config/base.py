"""The strict model that every section builds on, and errors that name the key."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rlhf.errors import ConfigError

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"


class Strict(BaseModel):
    """A section of the configuration: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def key(
    default: Any = ..., *, about: str, unit: str = "", source: str = "", **constraints: Any
) -> Any:
    """Declare one key: its default, meaning, unit, and where the default comes from."""
    notes = {"unit": unit, "source": source}
    extra = {name: text for name, text in notes.items() if text}
    return Field(default, description=about, json_schema_extra=extra or None, **constraints)


def explain(error: ValidationError, root: type[BaseModel], origin: object) -> ConfigError:
    """Turn pydantic's errors into one ``ConfigError`` with every key, and suggestions."""
    problems = []
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            known = _known_keys(root, item["loc"][:-1])
            close = difflib.get_close_matches(str(item["loc"][-1]), known, n=1, cutoff=0.5)
            advice = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
            problems.append(f"{path}: unknown key; {advice}")
        elif item["type"] == "missing":
            problems.append(f"{path}: this key is required")
        else:
            shown = item["input"] if isinstance(item["input"], str | int | float) else None
            got = f" (got {shown!r})" if shown is not None else ""
            problems.append(f"{path}: {item['msg'].removeprefix('Value error, ')}{got}")
    return ConfigError(
        "The configuration is not valid:\n    " + "\n    ".join(problems),
        where=origin,
        hint="config/README.md explains every key",
    )


def _known_keys(root: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """Keys allowed at ``location``; sections below a user's own names are dict values."""
    models: list[type[BaseModel]] = [root]
    for part in location:
        found: list[type[BaseModel]] = []
        for model in models:
            field = model.model_fields.get(str(part))
            found += _models_in(field.annotation) if field else []
        models = found or models  # a user's own name, an index, or a union's tag: stay
    return sorted({name for model in models for name in model.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in getattr(annotation, "__args__", ()) for model in _models_in(inner)]
