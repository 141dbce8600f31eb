"""Memory of a rank of training, measured on CPU processes, beside what `rlhf plan` says.

A random Llama is written to a folder and trained for two updates of two micro-batches, by every
kind of engine on 1, 2 and 4 processes. Measured is the peak of a rank's anonymous memory over what
it had before it loaded the model; of all ranks the largest.

    python benchmarks/memory.py
    python benchmarks/memory.py --kinds fsdp --ranks 2 --tokens 1024 --checkpointing --bfloat16
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIZES = {
    "24m": {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 16},
    "110m": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12},
    "300m": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 16},
}
SHARED = {
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "vocab_size": 16384,
    "tie_word_embeddings": False,
    "max_position_embeddings": 4096,
}
# Freed blocks go back at once: the allocator of the CPU would keep them, and count them as used.
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}


def main() -> None:
    """Measure each kind on each number of processes, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="110m")
    parser.add_argument("--kinds", nargs="+", default=None, help="all that are there, if absent")
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--tokens", type=int, default=32, help="of the one row of a micro-batch")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--rank", help=argparse.SUPPRESS)  # folder: this is one of the ranks
    options = parser.parse_args()
    if options.rank:
        _rank(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        _write_model(Path(folder), options.size)
        print("| engine | ranks | measured MB | planned MB | planned ÷ measured |")
        print("| --- | --- | --- | --- | --- |")
        for kind in options.kinds or _kinds():
            for ranks in options.ranks:
                peak = max(one["peak"] for one in _run(folder, kind, ranks))
                planned = _planned(Path(folder), kind, ranks, options)
                print(f"| {kind} | {ranks} | {peak:.0f} | {planned:.0f} | {planned / peak:.2f} |",
                      flush=True)  # fmt: skip


def _kinds() -> list[str]:
    from importlib.util import find_spec
    from typing import get_args

    from rlhf.runtime.options import EngineKind

    kinds = list(get_args(EngineKind))
    known = find_spec("rlhf.training.engine.zero") and find_spec("deepspeed")
    return [kind for kind in kinds if known or not kind.startswith("zero")]


def _write_model(folder: Path, size: str) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = SIZES[size] | SHARED
    sizes["num_attention_heads"] = sizes["hidden_size"] // 64
    LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(folder)


def _planned(folder: Path, kind: str, ranks: int, options: argparse.Namespace) -> float:
    """What the plan says, in MB."""
    from rlhf.pipeline.memory import Model, Pass, Setting, training_bytes
    from rlhf.pipeline.shapes import read_shape

    shape = read_shape(folder)
    setting = Setting(kind, ranks=ranks, checkpointing=options.checkpointing)
    batch = Pass(options.tokens, options.tokens, narrow=options.bfloat16)
    return sum(training_bytes([Model(shape)], setting, batch).values()) / 1e6


def _run(folder: str, kind: str, ranks: int) -> list[dict[str, float]]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    shared = ENVIRONMENT | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    command = [sys.executable, __file__, *sys.argv[1:], "--rank", folder, "--kinds", kind]
    processes = [
        subprocess.Popen(
            command,
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit(f"{kind} on {ranks} ranks failed")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def _rank(options: argparse.Namespace) -> None:
    import torch

    from rlhf.config.training import OptimizerConfig
    from rlhf.models.load import load_token_scorer
    from rlhf.runtime.options import EngineOptions
    from rlhf.training import distributed
    from rlhf.training.engine.open import open_engine

    torch.set_num_threads(1)
    distributed.start()
    (kind,) = options.kinds
    if kind.startswith("zero"):
        import deepspeed  # noqa: F401  (its import is no memory of training)
    torch.ones(64, 64) @ torch.ones(64, 64)
    base = _anonymous()

    def train() -> None:
        root = load_token_scorer(Path(options.rank), dtype="auto")
        root.compute_in("bfloat16" if options.bfloat16 else "float32")
        how = EngineOptions(kind, activation_checkpointing=options.checkpointing)
        engine = open_engine(root, {"": 1e-4}, OptimizerConfig(), how)
        row = torch.arange(options.tokens) % 1000
        for _ in range(2):
            for last in (False, True):
                logprobs, _ = engine([row], [torch.arange(1, len(row))])
                engine.backward(-logprobs.mean(), last=last)
            engine.step(1.0)

    print(json.dumps({"peak": _peak(train) - base}))
    distributed.finish()


def _peak(work: Callable[[], None]) -> float:
    """Largest anonymous memory in MB while something is done, looked at every 2 ms."""
    peak, done = 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, _anonymous())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return peak


def _anonymous() -> float:
    """Of this process, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+)", status).group(1)) * 1.024e-3


if __name__ == "__main__":
    main()
