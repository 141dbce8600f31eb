"""What is wrong with a configuration, said with keys, lines and what was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from types import NoneType
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from rlhf.config.base import NAME_PATTERN
from rlhf.core.documents import Keys, Place
from rlhf.errors import ConfigError

NAME_RULE = "names are letters, digits, '_' and '-', and start with a letter or digit"
# Files are called by two names at most, with 50 characters around them; 255 are allowed.
NAME_LENGTH = 100
_PERIODIC = re.compile(r"(.+?)\1{19}$")  # Snakemake refuses these: it fears a circle of rules
_CLOCK = re.compile(r"(\d+-)?\d+(:\d\d){1,2}")

_NOT_A_SECTION = ("model_type", "model_attributes_type", "dict_type")


def is_name(text: str) -> bool:
    """Whether a user's name can stand in a path."""
    return name_problem(text) is None


def name_problem(text: str) -> str | None:
    """Why a user's name can't stand in a path, if it can't."""
    if not re.fullmatch(NAME_PATTERN, text):
        return NAME_RULE
    if len(text) > NAME_LENGTH:
        return (
            f"names have at most {NAME_LENGTH} characters, this has {len(text)}: files are called "
            "by them"
        )
    if repeated := _PERIODIC.search(text):
        return (
            f"its end repeats {repeated[1]!r} 20 times or more, which Snakemake refuses "
            "(PeriodicWildcardError)"
        )
    return None


def suggest(wrong: object, known: Iterable[str], cutoff: float = 0.5) -> str:
    """The known name that was probably meant, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(str(wrong), known, n=1, cutoff=cutoff)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"known: {', '.join(known)}" if known else "none is declared"


def explain(
    error: ValidationError,
    root: type[BaseModel],
    origin: object,
    places: Mapping[Keys, Place],
) -> ConfigError:
    """Turn pydantic's errors into one ``ConfigError`` with every key, and suggestions.

    Args:
        error: what pydantic found.
        root: the model of the whole configuration.
        origin: what to name in the error, usually the files.
        places: where the values stand in them, as far as that is known.
    """
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
        for line in _describe(item, root, places)
    ]
    return invalid(problems, origin, places)


def invalid(problems: Iterable[str], origin: object, places: Mapping[Keys, Place]) -> ConfigError:
    """One error for all problems, each of which starts with its key; lines are added to them."""
    return ConfigError(
        "The configuration is not valid:\n    "
        + "\n    ".join(_located(problem, places) for problem in problems),
        where=origin,
        hint="config/README.md explains every key; `rlhf config check` looks again",
    )


def _located(problem: str, places: Mapping[Keys, Place]) -> str:
    """A problem and the line of its key, or of the section that the key is missing from."""
    keys: Keys = tuple(
        int(part) if part.isdecimal() and part.isascii() else part
        for part in problem.partition(": ")[0].split(".")
    )
    files = {place.file for place in places.values()}
    while keys:
        texts = tuple(map(str, keys))
        place = places.get(keys) or places.get(texts)
        if place:
            file = [str(place.file)] if len(files) > 1 else []
            line = [f"line {place.line}"] if place.line else []
            return f"{', '.join(file + line)}: {problem}"
        keys = keys[:-1]
    return problem


def _describe(
    item: Mapping[str, Any], root: type[BaseModel], places: Mapping[Keys, Place]
) -> Iterator[str]:
    """One line for each problem in one of pydantic's errors."""
    location, kind, given = item["loc"], item["type"], item["input"]
    path = ".".join(map(str, location))
    if not location:  # the rules between sections: each line names its key itself
        yield from item["msg"].removeprefix("Value error, ").splitlines()
    elif location[-1] == "[key]" and kind == "literal_error":
        name = ".".join(map(str, location[:-1]))
        yield f"{name}: unknown key; {suggest(location[-2], _choices(item))}"
    elif location[-1] == "[key]":
        shown = _as_yaml(given)
        name = ".".join(map(str, (*location[:-2], shown)))
        also = ", or whatever else stands there," if isinstance(given, bool) else ""
        yield f"{name}: a name has to be text (write '{shown}'{also} in quotes)"
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
        message = item["msg"].removeprefix("Value error, ").replace("Input should", "should")
        yield f"{path}: {message}" + _got(given, kind, places.get(location))


def _got(given: Any, kind: str, place: Place | None) -> str:
    """What was given, as it is written, and how to write what was probably meant."""
    if given is not None and not isinstance(given, str | int | float):
        return ""
    if given is None:
        return " (got nothing)"
    shown = place.text if place and place.text else _as_yaml(given)
    if kind == "string_type":
        return f' (got {shown}; write "{shown}" in quotes)'
    if isinstance(given, str) and kind.endswith("_parsing") and _CLOCK.fullmatch(given):
        return f" (got {given!r}; write a time as one number in the key's unit, such as 12.5)"
    return f" (got {shown})"


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
