"""What no line of the product may do: unpickle, or run code that a model brings."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PICKLING = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def findings(source: str) -> list[str]:
    """What is forbidden in a module's source, with the line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [one.name for one in node.names]
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [f"{node.lineno}: imports {name}" for name in names
                      if name.partition(".")[0] in PICKLING]  # fmt: skip
        elif isinstance(node, ast.Call):
            problem = _call_problem(ast.unparse(node.func), node)
            found += [f"{node.lineno}: {problem}"] if problem else []
    return found


def _call_problem(function: str, call: ast.Call) -> str | None:
    given = {one.arg: one.value for one in call.keywords}
    last = function.rpartition(".")[2]

    def says(name: str, value: object) -> bool:
        return isinstance(given.get(name), ast.Constant) and given[name].value is value

    if function == "torch.load" and not says("weights_only", True):
        return "torch.load without weights_only=True"
    if "allow_pickle" in given and not says("allow_pickle", False):
        return f"{function} with allow_pickle"
    if function in ("yaml.load", "yaml.unsafe_load", "yaml.full_load"):
        return f"{function}, not yaml.safe_load"
    if last == "from_pretrained":
        reading = any(one.arg is None and ast.unparse(one.value).startswith("reading(")
                      for one in call.keywords)  # fmt: skip
        if "trust_remote_code" not in given and not reading:
            return "from_pretrained without trust_remote_code: transformers would ask, or run it"
    if says("trust_remote_code", True):
        return "trust_remote_code=True for any model"
    return None


def product() -> list[Path]:
    listed = [*(REPOSITORY / "workflow").rglob("*.py"), *(REPOSITORY / "containers").rglob("*.py")]
    assert len(listed) > 100
    return listed


def test_no_module_unpickles_or_trusts_whatever_comes():
    found = {
        str(path.relative_to(REPOSITORY)): problems
        for path in product()
        if (problems := findings(path.read_text(encoding="utf-8")))
    }
    assert found == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(stream)",
        "AutoModel.from_pretrained(folder)",
        "AutoModel.from_pretrained(folder, trust_remote_code=True)",
        "materialize(source, trust_remote_code=True)",
    ],
)
def test_each_of_these_would_be_found(line):
    assert len(findings(line)) == 1


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path, weights_only=True)",
        "np.load(path)",
        "yaml.safe_load(stream)",
        "AutoModel.from_pretrained(folder, trust_remote_code=False)",
        "AutoModel.from_pretrained(folder, **reading(folder))",
        "AutoModel.from_pretrained(folder, trust_remote_code=bool(code))",
    ],
)
def test_these_would_not(line):
    assert findings(line) == []
