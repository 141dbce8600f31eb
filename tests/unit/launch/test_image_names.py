from __future__ import annotations

import re
from pathlib import Path

import pytest

from rlhf.cli import main
from rlhf.errors import RlhfError
from rlhf.launch import images


def names() -> dict[str, str]:
    return {kind: images.image_name(kind) for kind in images.KINDS}


def changed_by(before: dict[str, str]) -> set[str]:
    return {kind for kind, name in names().items() if name != before[kind]}


def append(path: Path, text: str = "\n# more\n") -> None:
    path.write_text(path.read_text() + text)


@pytest.mark.usefixtures("project")
def test_names_and_identities():
    for kind, name in names().items():
        assert re.fullmatch(rf"{kind}-[0-9a-f]{{12}}", name)
        assert images.image_path(kind) == Path(f"images/{name}.sif")
    assert images.image_id("train") == f"image:{images.image_name('train')}"
    assert images.image_id("train", "serve") == (
        f"image:{images.image_name('train')}+{images.image_name('serve')}"
    )
    with pytest.raises(RlhfError, match="no such image"):
        images.image_name("gpu")


@pytest.mark.parametrize(
    ("file", "kinds"),
    [
        ("containers/train.def", {"train"}),
        ("containers/serve.def", {"serve"}),
        ("envs/locks/train.txt", {"train"}),
        ("envs/locks/serve.txt", {"serve"}),
        ("envs/locks/torch.txt", {"serve", "sample"}),
        ("containers/sample.def", {"sample"}),
        ("envs/locks/sample.txt", {"sample"}),
        ("envs/locks/tritonserver.txt", {"serve"}),
        ("containers/check.py", {"train", "serve", "sample"}),
        ("envs/run.txt", set()),
        ("envs/lock.txt", set()),
    ],
)
def test_a_change_renames_exactly_the_images_made_from_it(project, file, kinds):
    before = names()
    append(project / file)
    assert changed_by(before) == kinds


def test_another_base_renames_and_the_default_brings_the_old_name_back(project):
    before = names()
    base = project / "base.sif"
    base.write_bytes(b"one")
    images.choose_base("train", "base.sif")
    assert changed_by(before) == {"train"}
    one = images.image_name("train")
    base.touch()
    images.choose_base("train", str(base))
    assert images.image_name("train") == one
    base.write_bytes(b"two")
    images.choose_base("train", "base.sif")
    assert images.image_name("train") not in (one, before["train"])
    images.choose_base("train", "docker://nvcr.io/nvidia/pytorch:26.06-py3")
    assert images.image_name("train") not in (one, before["train"])
    images.choose_base("train", None)
    assert names() == before


@pytest.mark.usefixtures("project")
def test_a_base_that_is_not_there():
    with pytest.raises(RlhfError, match="base image is not there") as caught:
        images.choose_base("train", "nowhere.sif")
    assert "nowhere.sif" in str(caught.value)
    assert not images.read_bases()


def test_missing_stale_and_present(project):
    with pytest.raises(RlhfError, match="not built yet") as caught:
        images.require_image("train")
    assert "rlhf images build" in str(caught.value)

    path = images.image_path("train")
    path.parent.mkdir()
    path.touch()
    assert images.require_image("train") == path

    append(project / "envs/locks/train.txt")
    with pytest.raises(RlhfError, match="stale") as caught:
        images.require_image("train")
    assert str(path) in str(caught.value)
    assert str(images.image_path("train")) in str(caught.value)
    assert images.old_images("train") == [path]
    with pytest.raises(RlhfError, match="not built yet"):
        images.require_image("serve")


def test_the_image_of_samplers_is_asked_for_by_name(project):
    """Most sites need none."""
    assert images.present() == ["train", "serve"]
    with pytest.raises(RlhfError, match="not built yet") as caught:
        images.require_image("sample")
    assert "rlhf images build sample" in str(caught.value)
    path = images.image_path("sample")
    path.parent.mkdir()
    path.touch()
    assert images.present() == ["train", "serve", "sample"]


@pytest.mark.parametrize("action", ["build", "check"])
def test_no_runtime(project, action, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(project))
    assert main(["images", action]) == 2
    assert "apptainer or singularity" in capsys.readouterr().err


def test_unknown_kind(project, capsys):
    assert main(["images", "build", "trian"]) == 2
    assert "train or serve" in capsys.readouterr().err
