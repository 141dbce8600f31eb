from __future__ import annotations

import itertools
import shutil

import pytest

from rlhf.provenance.code import PACKAGE_ROOT, digest_code

PACKAGE = {
    "__init__.py": "",
    "stages/__init__.py": "",
    "stages/sft.py": '"""A stage."""\nfrom rlhf.config import sft\n'
    "from rlhf.runtime import progress\n"
    "from rlhf.training import loop\n\nRATE = 0.1\n\n\n"
    'def run(x):\n    """Run."""\n    return loop.step(x, RATE)  # go\n',
    "training/__init__.py": "",
    "training/loop.py": "import rlhf.models.load\nfrom rlhf.errors import Fault\n\n\n"
    "def step(x, rate):\n    return x * rate\n",
    "models/__init__.py": "LAYERS = 2\n",
    "models/load.py": 'CODE_FILES = ("served.py", "chat.jinja")\nNAME = "x"\n',
    "models/served.py": "def serve():\n    return 1\n",
    "models/chat.jinja": "{{ text }}\n",
    "errors.py": "class Fault(Exception):\n    pass\n",
    "unrelated.py": "X = 1\n",
    "config/__init__.py": "",
    "config/sft.py": 'epochs = key(1, ge=1, about="passes", unit="passes", source="TRL")\n',
    "runtime/__init__.py": "",
    "runtime/progress.py": "EVERY = 10.0\n",
}


@pytest.fixture
def digest(tmp_path):
    """Digest of ``stages.sft`` in a package where some files are changed."""
    number = itertools.count()

    def of(changes: dict[str, str] | None = None, module: str = "stages.sft") -> str:
        root = tmp_path / str(next(number)) / "rlhf"  # facts are cached by path and time
        for name, text in (PACKAGE | (changes or {})).items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return digest_code(module, root)

    return of


STAGE = PACKAGE["stages/sft.py"]
SAME = {
    "comment": {"stages/sft.py": STAGE.replace("# go", "# went") + "# the end\n"},
    "docstring": {"stages/sft.py": STAGE.replace("Run.", "Walk.").replace("A stage.", "One.")},
    "no docstring": {"stages/sft.py": STAGE.replace('    """Run."""\n', "")},
    "layout": {
        "stages/sft.py": STAGE.replace("(x, RATE)", "(\n        x,\n        (RATE),\n    )")
    },
    "blank lines": {"stages/sft.py": STAGE.replace("\n\n\n", "\n\n\n\n\n")},
    "quotes": {"models/load.py": PACKAGE["models/load.py"].replace('"', "'")},
    "import for the type checker": {
        "stages/sft.py": STAGE.replace(
            "\n\n\n", "\n\nif TYPE_CHECKING:\n    from rlhf.unrelated import X\n\n\n", 1
        )
    },
    "docstring of an imported module": {
        "training/loop.py": '"""Doc."""\n' + PACKAGE["training/loop.py"]
    },
    "comment in a code file": {"models/served.py": "# hm\n" + PACKAGE["models/served.py"]},
    "unrelated module": {"unrelated.py": "X = 2\n"},
    "new module": {"models/other.py": "X = 2\n"},
    "file that nobody names": {"models/other.jinja": "x"},
    "what a key means": {"config/sft.py": PACKAGE["config/sft.py"].replace('"passes"', '"rounds"')},
    "what a key is measured in": {
        "config/sft.py": PACKAGE["config/sft.py"].replace(', unit="passes"', "")
    },
    "where a default is from": {"config/sft.py": PACKAGE["config/sft.py"].replace("TRL", "OA")},
    "what carries a run out": {"runtime/progress.py": "EVERY = 1.0\n"},
}
DIFFERENT = {
    "constant": {"stages/sft.py": STAGE.replace("0.1", "0.2")},
    "name": {"stages/sft.py": STAGE.replace("RATE", "SPEED")},
    "text that is no docstring": {
        "models/load.py": PACKAGE["models/load.py"].replace('"x"', '"y"')
    },
    "imported module": {"training/loop.py": PACKAGE["training/loop.py"].replace("*", "+")},
    "module imported by that": {"errors.py": "class Fault(ValueError):\n    pass\n"},
    "dotted import": {"models/load.py": PACKAGE["models/load.py"] + "MORE = 1\n"},
    "package of a dotted import": {"models/__init__.py": "LAYERS = 3\n"},
    "code file": {"models/served.py": PACKAGE["models/served.py"].replace("1", "2")},
    "a key's default": {"config/sft.py": PACKAGE["config/sft.py"].replace("(1,", "(2,")},
    "a key's bound": {"config/sft.py": PACKAGE["config/sft.py"].replace("ge=1", "ge=2")},
    "text of another call": {"config/sft.py": PACKAGE["config/sft.py"].replace("key(", "made(")},
    "template": {"models/chat.jinja": "{{ text }}!\n"},
    "order of statements": {"models/served.py": "A = 1\nB = 2\n"},
}


@pytest.mark.parametrize("case", SAME)
def test_what_runs_the_same_has_the_same_digest(digest, case):
    assert digest(SAME[case]) == digest()


@pytest.mark.parametrize("case", DIFFERENT)
def test_what_runs_differently_has_another_digest(digest, case):
    assert digest(DIFFERENT[case]) != digest()


def test_an_import_inside_a_function_counts(digest):
    lazy = {"stages/sft.py": STAGE + "\n\ndef later():\n    from rlhf import unrelated\n"}
    changed = lazy | {"unrelated.py": "X = 2\n"}
    assert digest(lazy) != digest(changed)
    assert digest({"stages/sft.py": STAGE + "\n\ndef later():\n    pass\n"}) != digest(lazy)


def test_modules_that_import_each_other_have_a_digest(digest):
    circle = {"errors.py": "import rlhf.training.loop\n\n\nclass Fault(Exception):\n    pass\n"}
    assert digest(circle) not in (digest(), digest(circle | {"training/loop.py": "X = 1\n"}))


def test_an_edit_in_place_is_seen(tmp_path):
    import os

    root = tmp_path / "rlhf"
    root.mkdir()
    path = root / "one.py"
    path.write_text("X = 1\n")
    os.utime(path, ns=(1, 1))
    first = digest_code("one", root)
    path.write_text("X = 2\n")
    os.utime(path, ns=(2, 2))
    assert digest_code("one", root) != first


@pytest.mark.parametrize("stage", ["train_sft", "train_ppo", "export_store"])
def test_real_stages_have_digests_of_their_own(stage):
    assert (PACKAGE_ROOT / "stages" / f"{stage}.py").is_file()
    found = digest_code(f"stages.{stage}")
    assert len(found) == 64
    assert found == digest_code(f"stages.{stage}")
    assert found != digest_code("stages.train_reward")


def test_a_format_is_code_of_its_own_datasets_only(tmp_path):
    from rlhf.data.formats.source import FORMATS, module_of
    from rlhf.provenance.code import PACKAGE_ROOT

    root = tmp_path / "rlhf"
    shutil.copytree(PACKAGE_ROOT, root, ignore=shutil.ignore_patterns("__pycache__"))

    def digests():
        stages = ("tokenize", "train_sft", "train_reward", "train_ppo")
        found = {stage: digest_code(f"stages.{stage}", root) for stage in stages}
        return found | {
            name: digest_code("stages.fetch_data", root, [module_of(name)]) for name in FORMATS
        }

    before = digests()
    with (root / "data" / "formats" / "questions.py").open("a") as stream:
        stream.write("\nCHANGED = True\n")
    after = digests()
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"qa", "alpaca", "summary"}
