"""The catalog of stages: complete, and the only list of them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import rlhf
from rlhf.catalog import DRAWING, EVALUATED, RULES, RUNS, SECTIONS, STORES, VIEWS, subject
from rlhf.config.evaluation import EvaluatedConfig
from rlhf.config.schema import Config

PACKAGE = Path(rlhf.__file__).parent
# Modules that list views or sections as what they themselves are about.
OWN = {
    "catalog.py": "the catalog",
    "config/data.py": "what the parts of `stage_split` were called",
    "config/ppo.py": "keys of a run, of which one names what its critic starts from",
    "config/mixture.py": "a slice: stages do not import the catalog",
    "config/tokenization.py": "a slice: stages do not import the catalog",
    "data/rows.py": "what a row of each view is",
    "data/rows_file.py": "the columns of each view's rows",
    "data/tokenizing.py": "how each view is tokenized",
    "open_assistant/reinforced.py": "what PPO there is given",
    "open_assistant/request.py": "Open-Assistant's trainers",
    "pages/data_page.py": "words of the columns of files",
    "sources/locks.py": "sections of a lock",
}


def test_rules_modules_and_sections_are_those_of_the_catalog() -> None:
    rules = {path.stem: path.read_text() for path in (PACKAGE.parent / "rules").glob("*.smk")}
    assert rules.keys() - {"common"} == set(RULES)
    for rule, row in RULES.items():
        assert re.findall(r"^(?:rule|checkpoint) (\w+):", rules[rule], re.M) == [rule]
        assert f'"results/{row.folder}/{{' in rules[rule], f"{rule} writes elsewhere"
        assert (PACKAGE / "stages" / f"{rule}.py").is_file()
    assert set(SECTIONS) <= set(Config.model_fields)


def test_what_a_row_refers_to_is_there() -> None:
    fields = Config.model_fields
    for section, row in SECTIONS.items():
        entry = fields[section].annotation.__args__[1]
        assert set(row.parents) <= set(entry.model_fields)
        assert set(row.parents.values()) <= set(SECTIONS)
        assert set(row.start) | set(row.servers.values()) <= set(row.parents)
        assert {*filter(None, [row.view]), *row.held_out.values()} <= set(VIEWS)
        assert bool(row.view) == ("data" in entry.model_fields)
        assert bool(row.plots) <= bool(row.title and row.label)


def test_an_evaluation_names_the_run_that_it_starts_from() -> None:
    assert set(EVALUATED) == set(EvaluatedConfig.model_fields)
    assert {section: SECTIONS[section] for section in EVALUATED} == EVALUATED


@pytest.mark.parametrize(
    ("job", "entry"),
    [
        (("train_ppo", "final"), ("ppo", "final")),
        (("fetch_model", "tiny"), ("models", "tiny")),
        (("check_rows", "sft.chat"), ("sft", "chat")),
        (("export_store", "reference", "chat"), ("sft", "chat")),
        (("export_store", "reward", "helpful"), ("reward", "helpful")),
    ],
)
def test_what_a_job_works_for(job: tuple[str, ...], entry: tuple[str, str]) -> None:
    assert subject(*job) == entry


def _constants(nodes: list[ast.expr | None]) -> set[str]:
    return {node.value for node in nodes if isinstance(node, ast.Constant)}


def _literals(tree: ast.AST) -> Iterator[tuple[int, set[str]]]:
    """Line and strings of every tuple, list, set and dictionary (its keys, and its values)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Tuple | ast.List | ast.Set):
            yield node.lineno, _constants(node.elts)
        elif isinstance(node, ast.Dict):
            yield node.lineno, _constants(node.keys)
            yield node.lineno, _constants(list(node.values))


def test_no_other_module_lists_stages_sections_or_views() -> None:
    lists = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name in OWN:
            continue
        for line, strings in _literals(ast.parse(path.read_text())):
            for known in (set(RULES), set(RUNS) - {"evaluation", "report"}, set(VIEWS)):
                if len(strings & known) > 1:
                    lists.append(f"{name}:{line} {sorted(strings & known)}")
    assert not lists


def test_no_other_module_asks_which_stage_it_is() -> None:
    branches = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name in OWN or name == "pipeline/slices.py" or name.startswith("open_assistant/"):
            continue  # a slice is put together by the names of stages
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                named = _constants([node.left, *node.comparators]) & {*RULES, *DRAWING}
                named -= {"reward"}  # also a kind of model server
                branches += [f"{name}:{node.lineno} {one}" for one in named]
    assert not branches


def _imported(module: Path) -> Iterator[Path]:
    """Modules of the package that a module imports."""
    for node in ast.walk(ast.parse(module.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rlhf":
            names = [str(node.module), *(f"{node.module}.{one.name}" for one in node.names)]
        elif isinstance(node, ast.Import):
            names = [one.name for one in node.names]
        paths = [PACKAGE.parent.joinpath(*name.split(".")).with_suffix(".py") for name in names]
        yield from (path for path in paths if path.is_file())


@pytest.mark.parametrize("rule", [rule for rule, row in RULES.items() if rule != "report"])
def test_a_new_row_or_another_path_re_runs_no_stage(rule: str) -> None:
    modules = [PACKAGE / "stages" / f"{rule}.py"]
    for module in modules:  # grows while it is read
        modules += [path for path in _imported(module) if path not in modules]
    assert len(modules) > 5
    assert not {PACKAGE / "catalog.py", PACKAGE / "paths.py"} & {*modules}


def test_own_lists_are_still_there() -> None:
    for name in OWN:
        found = _literals(ast.parse((PACKAGE / name).read_text()))
        assert any(len(strings & {*SECTIONS, *VIEWS}) > 1 for _, strings in found)


def test_servers_are_of_models_that_are_trained() -> None:
    assert STORES == {"reward": "reward", "reference": "sft"}
    assert all(RUNS[section].trains for section in STORES.values())
    assert all(row.trains for row in DRAWING.values())
