"""The architecture: what may import what."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from support.page_tables import names, tables

import rlhf

PACKAGE = Path(rlhf.__file__).parent
# Each name is a layer of its own: it may import those before it.
LAYERS = [
    "errors",
    "catalog",
    "paths",
    "core",
    "provenance",
    "runtime",
    "data",
    "models",
    "sources",
    "config",
    "serving",
    "training",
    "online",
    "algorithms",
    "evaluation",
    "reporting",
    "stages",
    "launch",
    "pipeline",
    "pages",
    "open_assistant",
    "doctor",
    "commands",
    "cli",
]


def _imported(path: Path) -> Iterator[str]:
    """Top-level names of the package that a module imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports by a relative name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("rlhf."))


def test_every_name_has_a_layer() -> None:
    names = {path.stem for path in PACKAGE.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert names - {"__init__", "__pycache__"} == set(LAYERS)


def test_the_page_lists_the_layers_in_their_order() -> None:
    assert names(tables("architecture.md", "package")["Packages"]) == LAYERS


def test_no_module_imports_upward() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)} imports rlhf.{name}"
        for path in PACKAGE.rglob("*.py")
        for own in [path.relative_to(PACKAGE).parts[0].removesuffix(".py")]
        for name in _imported(path)
        if own != "__init__" and LAYERS.index(name) > LAYERS.index(own)
    ]
    assert not wrong


def test_package_faces_hold_no_code() -> None:
    for path in PACKAGE.rglob("*/__init__.py"):
        (only,) = ast.parse(path.read_text()).body
        assert isinstance(only, ast.Expr), f"{path} holds more than a docstring"


def test_what_learns_reads_its_configuration_by_attributes() -> None:
    subscripts = [
        f"{path.relative_to(PACKAGE)}: {line.strip()}"
        for package in ("stages", "training", "online", "algorithms", "evaluation")
        for path in (PACKAGE / package).rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r"\b(config|settings)\[", line)
    ]
    assert not subscripts
