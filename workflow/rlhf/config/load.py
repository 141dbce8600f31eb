"""Read and validate configurations: files, merged section by section, errors with lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlhf.catalog import SECTIONS
from rlhf.config.problems import explain, invalid
from rlhf.config.schema import Config
from rlhf.core.documents import Document, Keys, Place, read_document
from rlhf.errors import ConfigError


def load_config(
    values: Mapping[str, Any],
    origin: object = "config",
    places: Mapping[Keys, Place] | None = None,
) -> Config:
    """Validate a configuration.

    Args:
        values: the parsed YAML.
        origin: what to name in errors, usually the file.
        places: where the values stand, for the lines in errors.

    Raises:
        ConfigError: names every wrong key and suggests the right one.
    """
    places = places or {}
    if problems := list(_unquoted_names(places)):
        raise invalid(problems, origin, places)
    try:
        return Config.model_validate(dict(values))
    except ValidationError as error:
        raise explain(error, Config, origin, places) from None


def load_config_file(*paths: str | Path, more: Mapping[str, Any] | None = None) -> Config:
    """Read and validate YAML files; where there are several, the later ones add and replace keys.

    Sections are merged key by key, as ``snakemake --configfile`` does.

    Args:
        paths: the files.
        more: what is added last, such as what ``snakemake --config`` says.

    Raises:
        ConfigError: a file is missing, not YAML (line and column), or the whole is not valid.
    """
    document = read_sections(paths)
    origin = ", ".join(map(str, paths))
    if more:
        merge(document.values, more)
        document.places.update(_places_of(more, Path("--config")))
        origin += ", --config"
    return load_config(document.values, origin, document.places)


def read_sections(paths: Sequence[str | Path]) -> Document:
    """The sections of YAML files, the later ones added to the earlier, not validated.

    Raises:
        ConfigError: a file is missing, not YAML (line and column), or holds something else.
    """
    values: dict[str, Any] = {}
    places: dict[Keys, Place] = {}
    for path in paths:
        document = read_document(path, "configuration file")
        if not isinstance(document.values, dict):
            raise ConfigError(
                f"The configuration is {_in_words(document.values)}.",
                where=path,
                expected="sections, such as `models:`",
            )
        merge(values, document.values)
        places |= document.places
    return Document(values, places)


def _places_of(
    values: Mapping[str, Any], origin: Path, above: Keys = ()
) -> Iterator[tuple[Keys, Place]]:
    """Places, without a line, of what stands in no file."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _places_of(value, origin, (*above, name))
        else:
            yield (*above, name), Place(origin, 0)


def merge(values: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Add to a configuration what a later file says, key by key."""
    for name, value in more.items():
        inner = values.get(name)
        if isinstance(inner, dict) and isinstance(value, dict):
            merge(inner, value)
        else:
            values[name] = value


def _unquoted_names(places: Mapping[Keys, Place]) -> Iterator[str]:
    """Names that YAML takes for something else than text."""
    for keys, place in places.items():
        named = len(keys) == 2 and keys[0] in SECTIONS
        if place.unquoted and (named or (len(keys) == 4 and keys[2] == "data")):
            name = str(keys[-1])
            advice = f'write "{name}" in quotes' if name else "nothing stands there"
            yield f"{'.'.join(map(str, keys))}: a name has to be text ({advice})"


def _in_words(value: Any) -> str:
    if value is None:
        return "empty"
    return "a list" if isinstance(value, list) else f"one value ({str(value)[:40]!r})"
