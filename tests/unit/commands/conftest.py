from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf.core.digest import digest_file
from rlhf.provenance.manifest import Manifest


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A tiny random model's folder; not to be changed."""
    from rlhf.sources.base_models.materialize import materialize

    folder = tmp_path_factory.mktemp("model")
    corpus = folder / "corpus.txt"
    corpus.write_text("How many legs have spiders? They have eight legs.\n" * 40)
    source = {"random": {"vocab_size": 300, "tokenizer_text": str(corpus), "seed": 1}}
    materialize(source, folder / "model", template="chatml")
    return folder / "model"


class Results:
    """Writes small artifacts as stages do."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def make(
        self,
        place: str,
        stage: str,
        config: dict | None = None,
        parents: dict[str, Path] | None = None,
        content: str = "weights",
        **rest: object,
    ) -> Path:
        folder = self.root / place
        (folder / "model").mkdir(parents=True, exist_ok=True)
        (folder / "model" / "model.bin").write_text(content)
        (folder / "metrics.jsonl").write_text(json.dumps({"loss": 1.0}) + "\n")
        manifest = Manifest(
            stage,
            folder.name,
            config or {},
            rest.pop("code", "code:" + "a" * 64),
            rest.pop("image", "image:none"),
            {role: digest_file(path) for role, path in (parents or {}).items()},
            facts={"threads": 2, "processes": 1},
            **rest,
        )
        manifest.write(folder, [folder / "model", folder / "metrics.jsonl"], 0.0)
        return folder / "manifest.json"


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Results(tmp_path / "results")
