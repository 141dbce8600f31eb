from __future__ import annotations

import json

import pytest


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    rows = [
        {"id": i, "messages": [{"role": "user", "content": f"How many legs have {i} spiders?"},
                               {"role": "assistant", "content": f"They have {8 * i} legs."}]}
        for i in range(50)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def random_source(corpus):
    return {"random": {"vocab_size": 300, "tokenizer_text": str(corpus), "seed": 1}}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, random_source):
    """A tiny random model's folder; not to be changed."""
    from rlhf.models.fetch import materialize

    folder = tmp_path_factory.mktemp("tiny") / "model"
    materialize(random_source, folder)
    return folder
