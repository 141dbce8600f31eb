from __future__ import annotations

import copy
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import random
import signal

import pytest
from support import fakes
from support.trained_tokenizers import train
from support.valid_config import VALID


@pytest.fixture
def leave_no_trace() -> Iterator[None]:
    """What a run changes in its process: threads, seeds, deterministic mode, signal handlers."""
    import numpy as np
    import torch  # here: most unit tests do without it

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    handlers = {
        one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
    }
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


@pytest.fixture
def no_launcher(monkeypatch):
    """The environment of a process that neither SLURM nor a launcher started."""
    for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "RLHF_ATTEMPT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fake_slurm(tmp_path_factory, monkeypatch):
    """Fakes of SLURM's commands, and a function that sets what they know: jobs, and faults."""
    path = tmp_path_factory.mktemp("fake_slurm") / "cluster.json"
    monkeypatch.setenv("FAKE_SLURM", str(path))
    monkeypatch.setenv("PATH", os.pathsep.join([str(fakes.SLURM), os.environ["PATH"]]))

    def put(*jobs: dict, **cluster) -> None:
        path.write_text(json.dumps({"jobs": jobs} | cluster))

    put()
    return put


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0:  # as root, where CI runs, a mount that fails is a failure
        pytest.skip("a disk can be filled only where a small one may be mounted: as root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


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
    from rlhf.sources.base_models.materialize import materialize

    folder = tmp_path_factory.mktemp("tiny") / "model"
    materialize(random_source, folder)
    return folder


@pytest.fixture(scope="session")
def trained() -> dict[bool, Any]:
    return {bos: train(bos) for bos in (False, True)}


@pytest.fixture
def make_tokenizer(trained: dict[bool, Any]) -> Callable[..., Any]:
    """(template, bos) → a tokenizer of one's own with that template stored."""

    def make(template: str | None = "chatml", bos: bool = False) -> Any:
        from rlhf.data.templates.chat import set_template

        tokenizer = copy.deepcopy(trained[bos])
        if template == "chatml":
            tokenizer.eos_token = "<|im_end|>"
        if template is not None:
            set_template(tokenizer, template)
        return tokenizer

    return make


@pytest.fixture
def write_lines(tmp_path: Path) -> Callable[..., Path]:
    """Objects (or raw text lines) → a JSON lines file."""

    def write(*lines: Any, name: str = "data.jsonl") -> Path:
        texts = [one if isinstance(one, str) else json.dumps(one) for one in lines]
        path = tmp_path / name
        path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
        return path

    return write


@pytest.fixture
def valid() -> dict[str, Any]:
    """A configuration in order, to be changed."""
    return copy.deepcopy(VALID)
