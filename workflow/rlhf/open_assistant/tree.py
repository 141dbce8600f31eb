"""Nested mappings, as YAML has them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


def place(values: dict[str, Any], key: str, value: Any) -> None:
    """Set ``a.b.c``."""
    *sections, last = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
    values[last] = value


def arranged(values: dict[str, Any], model: type[BaseModel], *first: str) -> dict[str, Any]:
    """The same in the order of the configuration's reference, but for keys that come first."""
    order = [*first, *(key for key in model.model_fields if key not in first)]
    return {key: values[key] for key in order if key in values}
