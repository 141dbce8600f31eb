from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rlhf.launch import images


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the definitions and locks, and a working directory without images."""
    root = tmp_path / "project"
    for folder in ("containers", "envs"):
        shutil.copytree(images.PROJECT / folder, root / folder)
    monkeypatch.setattr(images, "PROJECT", root)
    monkeypatch.chdir(root)
    return root
