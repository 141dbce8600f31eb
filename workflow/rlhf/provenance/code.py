"""Digest of the code that a stage runs."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rlhf.core.digest import digest_text, digest_value

PACKAGE_ROOT = Path(__file__).resolve().parents[1]
# Packages that carry a stage out and decide no byte of its result: when it stops, who may write,
# what the terminal shows, how processes are started and find each other.
CARRY_OUT = ("runtime", "launch")
_PROSE = ("about", "unit", "source")  # of `config.base.key`: what the documentation says of a key

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
# Fields of syntax trees that decide nothing: whether a name is read or set follows from its place.
_IMPLIED = {"ctx", "type_comment", "type_ignores", "kind"}

# Of a module: digest of its code, names of the modules that it imports, names of its data files.
_Facts = tuple[str, tuple[str, ...], tuple[str, ...]]


def digest_code(module: str, root: Path = PACKAGE_ROOT, also: Sequence[str] = ()) -> str:
    """Digest of what a module of this package runs: itself and all it imports from the package.

    Modules enter as syntax trees without docstrings, so comments, docstrings and layout change
    nothing; nor does what ``key`` is told for the documentation alone. Files that are used as
    data (a served ``model.py``, a template) belong to the closure of the modules that name them
    in ``CODE_FILES``, relative to their own folder. The packages ``CARRY_OUT`` are left out.

    Args:
        module: dotted name inside the package, such as ``stages.train_sft``.
        root: folder of the package ``rlhf``.
        also: modules that it imports by name, so that nobody sees it in its text.
    """
    parts: dict[str, str] = {}
    for name, path, (parts[name], _, files) in _closure([module, *also], root):
        for file in files:
            text = (path.parent / file).read_text(encoding="utf-8")
            parts[f"{name}:{file}"] = _digest_of_text(text) if file.endswith(".py") else text
    return digest_value(parts)


def closure(module: str, root: Path = PACKAGE_ROOT, also: Sequence[str] = ()) -> list[str]:
    """Names of the modules that ``digest_code`` covers, sorted; the package itself is ``""``."""
    return sorted(name for name, _, _ in _closure([module, *also], root))


def _closure(pending: list[str], root: Path) -> Iterator[tuple[str, Path, _Facts]]:
    seen: set[str] = set()
    while pending:
        name = pending.pop()
        if name in seen or name.partition(".")[0] in CARRY_OUT:
            continue
        seen.add(name)
        path = _module_path(name, root)
        facts = _module_facts(path, path.stat().st_mtime_ns, name, root)
        pending.extend(facts[1])
        yield name, path, facts


def _module_path(name: str, root: Path) -> Path:
    base = root.joinpath(*name.split(".")) if name else root
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def _is_for_types(node: ast.stmt) -> bool:
    """Whether a statement is there for the type checker and never runs."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


@functools.cache
def _module_facts(path: Path, _mtime: int, name: str, root: Path) -> _Facts:
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    tree.body = [node for node in tree.body if not _is_for_types(node)]
    statements: list[ast.stmt] = []
    digest = digest_text(_written(tree, statements))
    imported: set[str] = set()
    files: list[str] = []
    for node in statements:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == root.name:
                    imported.add(alias.name.partition(".")[2])
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == root.name:
            base = (node.module or "").partition(".")[2]
            imported.add(base)
            for alias in node.names:  # `from rlhf.online import loop` names a module
                candidate = f"{base}.{alias.name}" if base else alias.name
                if _module_path(candidate, root).is_file():
                    imported.add(candidate)
        elif (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id == "CODE_FILES"
        ):
            files = list(ast.literal_eval(node.value))
    for one in tuple(imported):  # importing a.b.c runs a/__init__ and a/b/__init__ too
        while "." in one:
            one = one.rpartition(".")[0]
            imported.add(one)
    return digest, tuple(sorted(imported)), tuple(files)


def _digest_of_text(text: str) -> str:
    return digest_text(_written(ast.parse(text), []))


def _written(node: ast.AST, statements: list[ast.stmt]) -> str:
    """A syntax tree as text without docstrings and prose; its statements are added to a list.

    One pass with no attributes of nodes that follow from where they stand: Snakemake waits for
    the digests of all stages whenever it starts.
    """
    kind = node.__class__
    if isinstance(node, ast.stmt):
        statements.append(node)
    parts = [kind.__name__]
    for field in node._fields:
        if field in _IMPLIED:
            continue
        value: Any = getattr(node, field, None)
        if field == "body" and kind in _DOCUMENTED:
            value = _without_docstring(value)
        elif field == "keywords" and isinstance(node, ast.Call) and _is_key(node.func):
            value = [word for word in value if word.arg not in _PROSE]
        if value.__class__ is list:
            parts.append("[")
            parts += [
                _written(one, statements) if isinstance(one, ast.AST) else repr(one)
                for one in value
            ]
            parts.append("]")
        elif isinstance(value, ast.AST):
            parts.append(_written(value, statements))
        else:
            parts.append(repr(value))
    return f"({' '.join(parts)})"


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0] if body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        return body[1:] or [ast.Pass()]
    return body


def _is_key(function: ast.expr) -> bool:
    return isinstance(function, ast.Name) and function.id == "key"
