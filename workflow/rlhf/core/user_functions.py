"""Functions that people bring in files of their own: named, identified by content, loaded.

A function is written ``FILE.py:NAME``. Beside its file count the modules in the same folder that
it imports, and those that these import.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rlhf.core.digest import digest_file, digest_text
from rlhf.errors import ConfigError


def split_reference(reference: str) -> tuple[str, str]:
    """File and name of ``FILE.py:NAME``; the file is empty where there is none."""
    path, _, name = reference.rpartition(":")
    return path, name


def content_of(path: str | Path) -> dict[str, str]:
    """Digest of a file and of the modules beside it that it imports, by path.

    Modules are found in the text, wherever the import stands; one that is imported by a name
    which only the running program knows is not.

    Raises:
        ConfigError: a file can't be read or is no Python.
    """
    return {str(file): digest_file(file) for file in _with_imports(Path(path))}


def load_function(reference: str, where: str) -> Callable[..., Any]:
    """A function of a file, whose folder modules are imported from where no other has the name.

    Args:
        reference: ``FILE.py:NAME``.
        where: the key that names it, for messages.

    Raises:
        ConfigError: the file ends in an exception, or has no such function.
    """
    path, name = split_reference(reference)
    file = Path(path).resolve()
    if (folder := str(file.parent)) not in sys.path:
        sys.path.append(folder)  # at the end: a file called like a library hides none
    module_name = f"_user_{digest_text(str(file))[:16]}"
    module = sys.modules.get(module_name)
    if module is None:
        spec = importlib.util.spec_from_file_location(module_name, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module  # dataclasses look their module up
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[module_name]
            raise ConfigError(
                f"{path} can't be loaded: {type(error).__name__}: {error}",
                where=where,
                expected=f"a Python file that defines `{name}`",
                hint="load it by itself, with this environment's python",
            ) from error
    function: Callable[..., Any] | None = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(
            f"{path} defines no function `{name}`.",
            where=where,
            expected=f"`def {name}(…)` in it",
        )
    return function


def _with_imports(path: Path) -> list[Path]:
    """A file, then the modules in its folder that it leads to, sorted."""
    pending, seen = [path], dict[Path, None]()
    while pending:
        file = pending.pop()
        if file in seen:
            continue
        seen[file] = None
        for name in _imported(file):
            local = path.parent.joinpath(*name.split("."))
            packages = [folder / "__init__.py" for folder in (local, *local.parents)
                        if path.parent in folder.parents]  # fmt: skip
            candidates = [local.with_suffix(".py"), *packages]
            pending += [candidate for candidate in candidates if candidate.is_file()]
    return sorted(seen)


def _imported(file: Path) -> Iterator[str]:
    """Dotted names that may be modules, of all imports in a file."""
    try:
        tree = ast.parse(file.read_bytes(), filename=str(file))
    except (OSError, SyntaxError, ValueError) as error:
        raise ConfigError(
            f"This file can't be read as Python: {error}",
            where=file,
            expected="the file that a reward function is in",
            hint="paths are relative to the repository's root",
        ) from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
