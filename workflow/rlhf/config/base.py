"""The strict model that every section builds on, and how a key is declared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"

_BOOLEANS = ("true", "false", "yes", "no", "on", "off")
_FROM_SLICE = "slice"  # pydantic's context of values that were written out before


class Strict(BaseModel):
    """A section of the configuration: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def from_slice(cls, values: Mapping[str, Any]) -> Self:
        """Read back what ``model_dump`` wrote into a stage's slice of the configuration.

        Every default is filled in there and every path expanded, so what concerns the way people
        write a key is not looked at again.

        Raises:
            ValidationError: the values are not of this section.
        """
        return cls.model_validate(values, context=_FROM_SLICE)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse booleans for numbers and numbers for booleans, which pydantic would turn."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        kinds = {annotation, *get_args(annotation)}
        # `snakemake --config` makes text of all that stands in braces.
        if bool in kinds and str(value).lower() not in _BOOLEANS:
            raise ValueError("should be true or false")
        if isinstance(value, bool) and bool not in kinds and kinds & {int, float}:
            raise ValueError(f"should be a {'whole ' if int in kinds else ''}number")
        return value


def key(
    default: Any = ..., *, about: str, unit: str = "", source: str = "", **constraints: Any
) -> Any:
    """Declare one key: its default, meaning, unit, and where the default comes from."""
    notes = {"unit": unit, "source": source}
    extra: dict[str, Any] = {name: text for name, text in notes.items() if text}
    return Field(default, description=about, json_schema_extra=extra or None, **constraints)


def is_written_out(info: ValidationInfo) -> bool:
    """Whether a validator looks at a slice, which has every default and expanded paths."""
    return info.context == _FROM_SLICE


def is_given(entry: BaseModel, name: str) -> bool:
    """Whether a key is written with another value than its default.

    Keys that contradict each other are looked at so: what `rlhf config show` prints, and a slice,
    has every default, and is a configuration too.
    """
    default = type(entry).model_fields[name].get_default(call_default_factory=True)
    return bool(getattr(entry, name) != default)


def named(entry: Any, key: str) -> list[str]:
    """Names of other entries that a key of an entry holds, each once: none, one or several.

    Args:
        entry: such as a run.
        key: holds a name, names, terms of a reward, or nothing.
    """
    value = getattr(entry, key)
    parts = [value] if isinstance(value, str) else value or []
    names = (name for part in parts for name in ([part] if isinstance(part, str) else part.models))
    return list(dict.fromkeys(names))


def refuse_old(values: Any, names: Mapping[str, str]) -> Any:
    """Refuse keys by which views were called after stages, and say what to write.

    Args:
        values: a section, as it is written.
        names: old key → the view that it stands for.

    Raises:
        ValueError: an old key is there.
    """
    old = [name for name in names if isinstance(values, Mapping) and name in values]
    if old:
        advice = ", ".join(f"`{names[name]}` in place of `{name}`" for name in old)
        raise ValueError(f"these keys are called like the views: write {advice}")
    return values
