"""The strict model that every section builds on, and errors that name the key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from types import NoneType
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rlhf.errors import ConfigError

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
NAME_RULE = "names are letters, digits, '_' and '-', and start with a letter or digit"

_NOT_A_SECTION = ("model_type", "model_attributes_type", "dict_type")


class Strict(BaseModel):
    """A section of the configuration: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def key(
    default: Any = ..., *, about: str, unit: str = "", source: str = "", **constraints: Any
) -> Any:
    """Declare one key: its default, meaning, unit, and where the default comes from."""
    notes = {"unit": unit, "source": source}
    extra: dict[str, Any] = {name: text for name, text in notes.items() if text}
    return Field(default, description=about, json_schema_extra=extra or None, **constraints)


def is_name(text: str) -> bool:
    """Whether a user's name can stand in a path."""
    return re.fullmatch(NAME_PATTERN, text) is not None


def suggest(wrong: object, known: Iterable[str], cutoff: float = 0.5) -> str:
    """The known name that was probably meant, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(str(wrong), known, n=1, cutoff=cutoff)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"known: {', '.join(known)}" if known else "none is declared"


def explain(error: ValidationError, root: type[BaseModel], origin: object) -> ConfigError:
    """Turn pydantic's errors into one ``ConfigError`` with every key, and suggestions."""
    items = error.errors()
    meant = {
        (*item["loc"][:-1], _meant(item, root))
        for item in items
        if item["type"] == "extra_forbidden"
    }
    # A required key that is there under a misspelt name is one mistake, not two; so is a name
    # that is not text.
    bad_names = {item["loc"][:-1] for item in items if item["loc"][-1:] == ("[key]",)}
    problems = [
        line
        for item in items
        if not (item["type"] == "missing" and item["loc"] in meant)
        and not any(
            item["loc"][: len(bad)] == bad and item["loc"][-1] != "[key]" for bad in bad_names
        )
        for line in _describe(item, root)
    ]
    return ConfigError(
        "The configuration is not valid:\n    " + "\n    ".join(problems),
        where=origin,
        hint="config/README.md explains every key; `rlhf config check` looks again",
    )


def _describe(item: Mapping[str, Any], root: type[BaseModel]) -> Iterator[str]:
    """One line for each problem in one of pydantic's errors."""
    location, kind, given = item["loc"], item["type"], item["input"]
    path = ".".join(map(str, location))
    if not location:  # the rules between sections: each line names its key itself
        yield from item["msg"].removeprefix("Value error, ").splitlines()
    elif location[-1] == "[key]" and kind == "literal_error":
        name = ".".join(map(str, location[:-1]))
        yield f"{name}: unknown key; {suggest(location[-2], _choices(item))}"
    elif location[-1] == "[key]":
        name = ".".join(map(str, location[:-1]))
        yield f"{name}: a name has to be text (write '{location[-2]}' in quotes)"
    elif kind == "extra_forbidden":
        yield f"{path}: unknown key; {suggest(location[-1], _known_keys(root, location[:-1]))}"
    elif kind == "missing":
        yield f"{path}: this key is required"
    elif kind in _NOT_A_SECTION and given is None:
        yield f"{path}: nothing is given; write {{}} to take all defaults"
    elif kind in _NOT_A_SECTION:
        yield f"{path}: should be a section with keys (got {given!r})"
    elif kind == "string_pattern_mismatch" and item["ctx"]["pattern"] == NAME_PATTERN:
        yield f"{path}: {NAME_RULE} (got {given!r})"
    else:
        shown = given is None or isinstance(given, str | int | float)
        message = item["msg"].removeprefix("Value error, ").replace("Input should", "should")
        yield f"{path}: {message}" + (f" (got {_as_yaml(given)})" if shown else "")


def _choices(item: Mapping[str, Any]) -> list[str]:
    return re.findall(r"'([^']*)'", item["ctx"]["expected"])


def _as_yaml(value: Any) -> str:
    if value is None:
        return "nothing"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _meant(item: Mapping[str, Any], root: type[BaseModel]) -> str | None:
    known = _known_keys(root, item["loc"][:-1])
    close = difflib.get_close_matches(str(item["loc"][-1]), known, n=1, cutoff=0.5)
    return close[0] if close else None


def _known_keys(root: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """Keys allowed at ``location``."""
    annotation: Any = root
    for part in location:
        annotation = _inside(annotation, part)
    return sorted(annotation.model_fields) if _is_section(annotation) else []


def _inside(annotation: Any, part: Any) -> Any:
    """The type of what stands under ``part``: a key, a user's own name, or an index."""
    if _is_section(annotation):
        field = annotation.model_fields.get(str(part))
        found = field.annotation if field else None
    else:
        found = get_args(annotation)[-1] if get_origin(annotation) in (dict, list) else None
    options = [one for one in get_args(found) if one is not NoneType]
    optional = len(options) == 1 and NoneType in get_args(found)
    return options[0] if optional else found


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
