from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.open_assistant import names
from rlhf.open_assistant.reinforced import translate_reinforced
from rlhf.open_assistant.request import Request
from rlhf.open_assistant.supervised import translate_supervised

CONFIGS = Path(__file__).parent / "configs"
COMMIT = "c" * 40


@pytest.fixture(scope="session")
def collection():
    return names.read_files(names.files_of(CONFIGS))


@pytest.fixture
def translate(collection):
    """A draft: ``translate("sft", "name name --key value", gpus=8)``."""

    def one(trainer: str, line: str, revision: str | None = COMMIT, **given: object):
        words = line.split()
        split = next((i for i, word in enumerate(words) if word.startswith("--")), len(words))
        settings = names.merge(collection, words[:split], trainer)
        settings = names.override(settings, words[split:], trainer)
        request = Request(trainer, settings, collection.trlx, revision=revision, **given)
        return (translate_reinforced if trainer == "rl" else translate_supervised)(request)

    return one
