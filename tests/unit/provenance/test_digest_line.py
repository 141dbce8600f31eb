"""The digest line: what decides a result is code of its stage, what carries it out is not."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from rlhf.provenance.code import CARRY_OUT, PACKAGE_ROOT, closure

STAGES = sorted(
    path.stem
    for path in (PACKAGE_ROOT / "stages").glob("*.py")
    if '__name__ == "__main__"' in path.read_text()
)
SECTIONS = {
    *("models", "data", "tokenization", "sft", "reward", "store", "ppo", "evaluation", "report"),
    *("dpo", "kto", "orpo", "simpo", "cpo", "ilql", "rloo", "grpo", "reinforce"),
    *("cluster", "runtime"),
}


def modules_of(package: str) -> set[str]:
    return {
        ".".join(path.relative_to(PACKAGE_ROOT).with_suffix("").parts)
        for path in (PACKAGE_ROOT / package).rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    }


def imported(package: str) -> set[str]:
    """Top-level names that modules of a package import, those of this one by their two first."""
    names: set[str] = set()
    for module in modules_of(package):
        path = PACKAGE_ROOT.joinpath(*module.split(".")).with_suffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(str(node.module))
    return {".".join(name.split(".")[: 2 if name.startswith("rlhf.") else 1]) for name in names}


@pytest.mark.parametrize("package", CARRY_OUT)
def test_what_carries_a_run_out_is_code_of_no_stage(package):
    assert len(modules_of(package)) > 10
    for stage in STAGES:
        assert not modules_of(package) & set(closure(f"stages.{stage}")), stage


INFERENCE = {
    "models.advantage",
    "models.inference",
    "models.spread",
}  # of stages that train nothing


# ``provenance`` has what the launcher alone asks; the numbers of a result come from the others.
@pytest.mark.parametrize("package", ["models", "training", "online", "algorithms"])
def test_what_decides_a_result_is_code_of_a_training_stage(package):
    training = {
        name
        for stage in STAGES
        if stage.startswith("train_")
        for name in closure(f"stages.{stage}")
    }
    assert modules_of(package)
    assert modules_of(package) - INFERENCE <= training
    assert set(closure("stages.evaluate")) >= INFERENCE


def test_what_carries_a_run_out_knows_no_weights_and_nothing_that_decides():
    names = imported("runtime")
    assert not names & {"torch", "transformers", "safetensors", "datasets"}
    own = {name for name in names if name.startswith("rlhf.")}
    assert own <= {"rlhf.errors", "rlhf.core", "rlhf.runtime"}


def test_what_carries_a_run_out_starts_without_torch():
    modules = [f"rlhf.{name}" for package in CARRY_OUT for name in modules_of(package)]
    code = f"import sys, importlib; [importlib.import_module(one) for one in {modules}]; "
    subprocess.run([sys.executable, "-c", code + "assert 'torch' not in sys.modules"], check=True)


@pytest.mark.parametrize("section", sorted(SECTIONS - {"cluster"}))
def test_a_section_of_the_configuration_brings_no_other(section):
    found = closure(f"config.{section}")
    assert {f"config.{one}" for one in SECTIONS} & set(found) == {f"config.{section}"}
    assert not {"config.schema", "config.load", "config.problems"} & set(found)
