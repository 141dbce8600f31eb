"""SFT: real tokens per second, TRL's SFTTrainer against ours, on the same batches, in turn.

    pip install --no-deps --target PEER -r benchmarks/requirements-peers.txt
    python benchmarks/sft_vs_trl.py --peer PEER --model results/models/smollm2/model \\
        --rows results/datasets/demo/rows
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from alternate import Contestant, Gate, counted, processor, spread, table
from versus import command_line, compete, parse, shuffled

CONTESTANTS = {
    "trl": "TRL, defaults",
    "trl-tuned": "TRL, no gradient checkpointing",
    "trl-fp32": "TRL, fp32",
    "ours": "ours, defaults",
    "ours-frozen": "ours, frozen layers",
    "ours-fp32": "ours, fp32",
}
LEARNING_RATE, SEED = 1e-5, 0


def main() -> None:
    parser = command_line(__doc__, CONTESTANTS, ["trl", "ours"])
    parser.add_argument("--batch", type=int, default=16, help="rows in one update")
    parser.add_argument("--steps", type=int, default=3, help="updates in one round")
    parser.add_argument("--max-length", type=int, default=384)
    parser.add_argument("--freeze-layers", type=int, default=20, help="of ours-frozen alone")
    options = parse(parser, _trl, _ours)
    contestants = compete(options, CONTESTANTS)
    _report(contestants, options)


def _report(contestants: dict[str, Contestant], options: argparse.Namespace) -> None:
    speeds = {
        name: [t / s for t, s in zip(counted(one, "tokens"), counted(one, "seconds"), strict=True)]
        for name, one in contestants.items()
    }
    per_cpu = {
        name: [
            t / s for t, s in zip(counted(one, "tokens"), counted(one, "cpu_seconds"), strict=True)
        ]
        for name, one in contestants.items()
    }
    cpu_medians = {name: statistics.median(values) for name, values in per_cpu.items()}
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    print(f"\n{processor()}, {options.threads} threads; batch {options.batch}, {options.rounds}")
    print(f"rounds of {options.steps} updates; real tokens/s: median (range)\n")
    base = medians.get("trl")
    rows = []
    for name, one in contestants.items():
        losses = one.rounds[0]["losses"]
        rows.append(
            [
                one.name,
                spread(speeds[name]),
                f"{medians[name] / base:.2f}" if base else "",
                spread(per_cpu[name]),
                f"{cpu_medians[name] / cpu_medians['trl']:.2f}" if base else "",
                f"{losses[0]:.4f}",
                f"{losses[-1]:.4f}",
            ]
        )
    header = ["", "tokens/s", "× TRL", "tokens per CPU second", "× TRL", "loss 1"]
    header += [f"loss {options.steps}"]
    print(table(header, rows))
    _check_same_work(contestants)


def _check_same_work(contestants: dict[str, Contestant]) -> None:
    """Same ids and labels, so same tokens; same loss in the first update of the same weights.

    The later updates agree too where everything is trained: same gradients, same optimizer. What
    is rounded to bf16 may differ by as much as that moves a loss.
    """
    for rounds in zip(*(one.rounds for one in contestants.values()), strict=True):
        if len({(r["tokens"], r["labelled"]) for r in rounds}) > 1:
            raise SystemExit("the contestants saw different tokens")
    print("\nSame tokens and labels in every round. The losses of the first update differ by at")
    print("most, and those of the first round's updates where nothing is frozen:")
    for precision, limit in (("fp32", 1e-3), ("bf16", 2e-2)):
        losses = {
            name: one.rounds[0]["losses"]
            for name, one in contestants.items()
            if _precision(name) == precision
        }
        starts = [steps[0] for steps in losses.values()]
        whole = [steps for name, steps in losses.items() if name != "ours-frozen"]
        first = max(starts, default=0.0) - min(starts, default=0.0)
        apart = max((max(step) - min(step) for step in zip(*whole, strict=True)), default=0.0)
        if first > limit or apart > 5 * limit:
            raise SystemExit(f"{precision}: the losses differ: {losses}")
        print(f"{precision}: {first:.1e}, {apart:.1e}")


def _precision(name: str) -> str:
    return "fp32" if name.endswith("fp32") else "bf16"


def _conversations(options: argparse.Namespace) -> list[Any]:
    """The rows of all updates in their order."""
    from rlhf.data.rows_file import read_rows

    rows = list(read_rows(options.rows, "conversation", "train"))
    return shuffled(rows, _updates(options) * options.batch, SEED)


def _updates(options: argparse.Namespace) -> int:
    return (options.rounds + 1) * options.steps + 1  # one more: its beginning ends the last round


def _trl(options: argparse.Namespace, scratch: Path) -> None:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(options.threads)
    conversations = [
        {"messages": [{"role": m.role, "content": m.content} for m in one.messages]}
        for one in _conversations(options)
    ]
    extra = {"gradient_checkpointing": False} if options.worker == "trl-tuned" else {}
    config = SFTConfig(
        output_dir=str(scratch),
        use_cpu=True,
        bf16=_precision(options.worker) == "bf16",  # so by default
        assistant_only_loss=True,
        per_device_train_batch_size=options.batch,
        max_length=options.max_length,
        max_steps=_updates(options),
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        train_sampling_strategy="sequential",  # the rows come shuffled
        logging_steps=1,  # ours reports every update too
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=SEED,
        **extra,
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(options.model),
        args=config,
        train_dataset=Dataset.from_list(conversations),
    )
    data = trainer.train_dataset
    counts = [(len(row["input_ids"]), _labelled(row)) for row in data]
    losses: list[float] = []

    class Pause(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            gate.passed()

        def on_log(self, _args: Any, _state: Any, _control: Any, logs: Any, **__: Any) -> None:
            if "loss" in logs:
                losses.append(float(logs["loss"]))
                gate.passed()

    gate = Gate(options.steps, lambda: _describe(counts, losses, options))
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Pause())
    trainer.train()


def _labelled(row: dict[str, Any]) -> int:
    """Labelled tokens that have a token before them."""
    if "assistant_masks" in row:
        return sum(row["assistant_masks"][1:])
    return sum(label != -100 for label in row["labels"][1:])


def _describe(
    counts: list[tuple[int, int]], losses: list[float], options: argparse.Namespace
) -> dict[str, Any]:
    done = len(losses)
    rows = counts[(done - options.steps) * options.batch : done * options.batch]
    return {
        "tokens": sum(tokens for tokens, _ in rows),
        "labelled": sum(labelled for _, labelled in rows),
        "losses": losses[-options.steps :],
    }


def _ours(options: argparse.Namespace, scratch: Path) -> None:
    import numpy as np
    import torch

    from rlhf.algorithms.sft import SftObjective
    from rlhf.config.sft import SftConfig
    from rlhf.data.encoding import Encoder
    from rlhf.models.load import load_token_scorer, load_tokenizer
    from rlhf.runtime.options import RunOptions
    from rlhf.training.engine.replicated import Replicated
    from rlhf.training.loop import train

    torch.set_num_threads(options.threads)
    encoder, most = Encoder(load_tokenizer(options.model)), options.max_length
    rows = []
    for conversation in _conversations(options):
        ids, labels = (x[:most].tolist() for x in encoder.conversation(conversation.messages))
        rows.append({"input_ids": ids, "labels": labels})
    counts = [(len(row["input_ids"]), _labelled(row)) for row in rows]
    state = scratch / "state"

    class Sequential:
        """All rows in their order; an update begins with its first, so it holds the gate."""

        rows_per_epoch = len(rows)

        def __getitem__(self, index: int) -> dict[str, Any]:
            if index % options.batch == 0:
                gate.passed()
            return rows[index]

        def order(self, *_: Any) -> np.ndarray:
            return np.arange(len(rows))

    def describe() -> dict[str, Any]:
        (journal,) = state.glob("*/metrics.jsonl")
        records = [json.loads(line) for line in journal.read_text().splitlines()]
        return _describe(counts, [r["loss"] for r in records if "loss" in r], options)

    gate = Gate(options.steps, describe)
    precision = {"bf16": "bfloat16", "fp32": "float32"}[_precision(options.worker)]
    values = {
        "model": "any",
        "data": {"any": {}},
        "precision": precision,
        "seed": SEED,
        "epochs": 1,
        "evaluations": 1,
        "global_batch_size": options.batch,
        "length_grouping": 0,
        "optimizer": {
            "learning_rate": LEARNING_RATE,
            "schedule": "constant",
            "warmup": 0.0,
            "weight_decay": 0.0,
            "beta1": 0.9,
            "beta2": 0.999,  # as in transformers
            "eps": 1e-8,
            "max_grad_norm": 1.0,
        },
    }
    config = SftConfig.model_validate(values)
    scorer = load_token_scorer(options.model)
    scorer.freeze(options.freeze_layers if options.worker == "ours-frozen" else 0)
    scorer.compute_in(precision)
    run_options = RunOptions("sft.benchmark", state, {}, save_seconds=1e9)
    train(
        Replicated(scorer, {"": LEARNING_RATE}, config.optimizer),
        SftObjective(),
        Sequential(),  # type: ignore[arg-type]
        config,
        run_options,
        options.micro_batch_tokens,
        dict,
    )


if __name__ == "__main__":
    main()
