"""Models, sets and processes that cost nothing: what the tests of training and PPO start from."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

VOCABULARY = 300


def configuration(vocabulary: int = VOCABULARY, **changes: Any) -> Any:
    from transformers import LlamaConfig

    values = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "attention_dropout": 0.1,  # so that forgetting to disable it shows
        "initializer_range": 0.1,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    return LlamaConfig(**values | changes)


def causal_lm(seed: int = 0, **changes: Any) -> Any:
    from transformers import LlamaForCausalLM

    from rlhf.models.load import disable_dropout

    torch.manual_seed(seed)
    model = LlamaForCausalLM(configuration(**changes))
    disable_dropout(model)
    return model


def reward_model(seed: int = 0, **changes: Any) -> Any:
    from transformers import LlamaForSequenceClassification

    from rlhf.models.load import disable_dropout

    torch.manual_seed(seed)
    model = LlamaForSequenceClassification(configuration(num_labels=1, **changes))
    torch.nn.init.normal_(model.score.weight, std=0.5)
    disable_dropout(model)
    return model


def token_scorer(seed: int = 0, **changes: Any) -> Any:
    from rlhf.models.roots import TokenScorer

    return TokenScorer(causal_lm(seed, **changes))


def reply_scorer(seed: int = 0, **changes: Any) -> Any:
    from rlhf.models.roots import ReplyScorer

    return ReplyScorer(reward_model(seed, **changes))


def token_sequences(
    lengths: list[int], seed: int = 0, vocabulary: int = VOCABULARY
) -> list[torch.Tensor]:
    """Random ids of the given lengths, without special ones."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, vocabulary, (n,), generator=generator) for n in lengths]


def labelled(lengths: list[int], seed: int = 0) -> list[dict[str, list[int]]]:
    """Rows of such ids, half of whose labels are masked; never the last."""
    from rlhf.data.labels import IGNORED

    generator = torch.Generator().manual_seed(seed)
    rows = []
    for ids in token_sequences(lengths, seed):
        masked = torch.rand(len(ids), generator=generator) < 0.5
        labels = torch.where(masked, torch.tensor(IGNORED), ids)
        labels[-1] = ids[-1]
        rows.append({"input_ids": ids.tolist(), "labels": labels.tolist()})
    return rows


def save_rows(folder: Path, **splits: list[dict[str, Any]]) -> Path:
    """A tokenized set in the layout that ``Mixture`` reads."""
    from datasets import Dataset

    for split, rows in splits.items():
        Dataset.from_list(rows).save_to_disk(str(folder / split))
    return folder


def gradients(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def assert_close(
    left: dict[str, torch.Tensor], right: dict[str, torch.Tensor], atol: float
) -> None:
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], atol=atol, rtol=1e-4, msg=name)


def run_ranks(script: Path, folder: Path, ranks: int = 2, timeout: float = 1800) -> None:
    """Run ``script folder`` in as many processes as ranks, joined over loopback by gloo."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    path = [str(script.parent), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]
    shared = {
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(folder)],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output[-4000:]


def rank_main(work: Callable[[Path, Path], dict[str, Any]]) -> None:
    """What a script of ``run_ranks`` does: keep this rank's ``work(folder, state)`` in a file."""
    from rlhf.training import distributed

    torch.set_num_threads(1)
    distributed.start()
    folder = Path(sys.argv[1])
    torch.save(work(folder, folder / "state"), folder / f"rank-{distributed.rank()}.pt")
    distributed.finish()
