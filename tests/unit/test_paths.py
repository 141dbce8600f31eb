"""Where artifacts lie is spelled in one place."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import rlhf
from rlhf import paths
from rlhf.catalog import RULES

PACKAGE = Path(rlhf.__file__).parent
FOLDERS = re.compile(r"(^|=)(results|state|logs)/")
RULE_FILES = (PACKAGE.parent / "rules").glob("*.smk")
OUTPUTS = "\n".join(path.read_text() for path in RULE_FILES if path.stem != "common")


def _texts(tree: ast.Module) -> list[ast.Constant]:
    """All strings but docstrings."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and isinstance(node.body[0], ast.Expr)
    }
    strings = [node for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return [one for one in strings if isinstance(one.value, str) and id(one) not in docstrings]


def test_no_other_module_spells_a_folder() -> None:
    spelled = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name == "paths.py":
            continue
        tree = ast.parse(path.read_text())
        folders = [  # Path("results"), or a path in any text
            call.args[0]
            for call in ast.walk(tree)
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "Path" and call.args
        ]
        for text in _texts(tree):
            alone = text in folders and text.value in ("results", "state", "logs")
            if alone or FOLDERS.search(text.value):
                spelled.append(f"{path.relative_to(PACKAGE)}:{text.lineno} {text.value!r}")
    assert not spelled


def test_rules_write_where_the_paths_are() -> None:
    patterns = [
        *(paths.artifact(row.section, "{name}") for row in RULES.values() if row.trains),
        paths.artifact("report", "{name}"),
        paths.artifact("models", "{model}"),
        paths.dataset("{dataset}"),
        paths.tokenized("{view}", "{model}", "{dataset}"),
        paths.duplicates("{run}"),
        paths.rows("{run}"),
        paths.store("{kind}", "{name}"),
        paths.artifact("evaluation", "{name}"),
    ]
    assert {row.folder for row in RULES.values()} == {path.parts[1] for path in patterns}
    for pattern in patterns:
        assert f'"{pattern}/manifest.json"' in OUTPUTS


def test_a_state_is_named_by_all_wildcards() -> None:
    assert paths.state("export_store", "reward", "x") == Path("state/export_store/reward.x")
