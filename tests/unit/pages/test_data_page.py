"""docs/data.md is in step with the registry and the formats."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from rlhf.config.registry import entries
from rlhf.data.formats.source import FORMATS, class_of
from rlhf.pages.data_page import _parts, fill

PAGE = Path(__file__).resolve().parents[3] / "docs" / "data.md"


def test_page_is_in_step():
    text = PAGE.read_text(encoding="utf-8")
    assert fill(text) == text, "run `rlhf data write`"


def test_every_dataset_and_format_is_on_the_page():
    text = PAGE.read_text(encoding="utf-8")
    assert [one.name for one in entries() if f"| `{one.name}`" not in text] == []
    assert [name for name in FORMATS if f"### `{name}`" not in text] == []


@pytest.mark.parametrize("name", FORMATS)
def test_every_option_is_documented(name):
    documented = _parts(inspect.getdoc(class_of(name)))[1]
    parameters = [one for one in inspect.signature(class_of(name)).parameters if one != "faults"]
    assert list(documented) == parameters
