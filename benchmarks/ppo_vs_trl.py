"""PPO: seconds per update, TRL's PPOTrainer against ours, on the same prompts, in turn.

    pip install --no-deps --target PEER_PPO -r benchmarks/requirements-peers-ppo.txt
    python benchmarks/ppo_vs_trl.py --peer PEER_PPO --model results/models/smollm2/model \\
        --rows results/datasets/demo/rows

Policy, reference, reward model and (TRL, ours with a critic) value model have one size, and all of
the policy and the value model is trained. Responses are sampled, so their lengths and scores
differ from contestant to contestant; with --full-length nobody may stop early, and all do the same
work. It stops unless TRL's scores of its own responses are what our scoring gives them.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from alternate import Contestant, Gate, counted, processor, spread, table
from versus import command_line, compete, parse, shuffled

CONTESTANTS = {
    "trl": "TRL, defaults",
    "critic": "ours, critic",
    "head": "ours, value head",
}
PHASES = ("generation", "reference", "scores and values", "old log probabilities", "optimisation")
SEED, NEVER = 0, -1


def main() -> None:
    parser = command_line(__doc__, CONTESTANTS, list(CONTESTANTS))
    parser.add_argument("--episodes", type=int, default=8, help="responses in one update")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=1, help="passes over the responses")
    parser.add_argument("--precision", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--full-length", action="store_true", help="nothing ends a response")
    parser.add_argument("--freeze-layers", type=int, default=0, help="ours alone")
    parser.add_argument("--judge", type=Path, help=argparse.SUPPRESS)
    options = parse(parser, _trl, _ours)
    with tempfile.TemporaryDirectory() as judge:
        _make_judge(options.model, Path(judge))
        contestants = compete(options, CONTESTANTS, ["--judge", judge])
    _report(contestants, options)


def _make_judge(model: Path, folder: Path) -> None:
    """A reward model with random weights in its head, the same for all."""
    from rlhf.models.load import load_tokenizer
    from rlhf.models.publish import below, save_model
    from rlhf.models.reward import new_reply_scorer

    judge = new_reply_scorer(model, SEED)
    save_model(judge, below(judge.named_parameters(), "model."), load_tokenizer(model), folder)


def _report(contestants: dict[str, Contestant], options: argparse.Namespace) -> None:
    print(f"\n{processor()}, {options.threads} threads; {options.episodes} episodes of at most")
    print(
        f"{options.max_new_tokens} tokens, {options.epochs} epochs, {options.rounds} updates that"
    )
    print("count; seconds per update: median (range)\n")
    seconds = {name: counted(one, "seconds") for name, one in contestants.items()}
    cpu = {name: counted(one, "cpu_seconds") for name, one in contestants.items()}
    phases = {name: counted(one, "phases") for name, one in contestants.items()}
    rows = [["whole update", *(spread(values) for values in seconds.values())]]
    for phase in PHASES:
        found = ([one.get(phase, 0.0) for one in each] for each in phases.values())
        rows.append([phase, *(spread(values) if any(values) else "" for values in found)])
    rows.append(["CPU seconds", *(spread(values) for values in cpu.values())])
    for title, key in (("response tokens", "tokens"), ("mean score", "score")):
        rows.append([title, *(spread(counted(one, key), 2) for one in contestants.values())])
    if "trl" in contestants:
        for title, values in (("× TRL", seconds), ("× TRL, CPU seconds", cpu)):
            base = statistics.median(values["trl"])
            rows.append([title, *(f"{base / statistics.median(v):.2f}" for v in values.values())])
    print(table(["", *(one.name for one in contestants.values())], rows))


def _prompts(options: argparse.Namespace) -> list[list[int]]:
    """Ids of the prompts of all updates in their order."""
    from rlhf.data.encoding import Encoder
    from rlhf.data.rows_file import read_rows
    from rlhf.models.load import load_tokenizer

    encoder = Encoder(load_tokenizer(options.model))
    rows = [
        encoder.prompt(row.history).tolist() for row in read_rows(options.rows, "prompt", "train")
    ]
    return shuffled(rows, _updates(options) * options.episodes, SEED)


def _updates(options: argparse.Namespace) -> int:
    return options.rounds + 2  # one to warm up; one whose beginning ends the last round


class Clock:
    """Seconds spent in functions, by phase; an inner phase does not count for the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = [0.0]

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what happens inside."""
        started = time.perf_counter()
        self._inner.append(0.0)
        try:
            yield
        finally:
            spent = time.perf_counter() - started
            self.seconds[name] += spent - self._inner.pop()
            self._inner[-1] += spent

    def wrap(self, owner: Any, attribute: str, name: str | Callable[..., str]) -> None:
        """Count every call of ``owner.attribute``; the phase may follow from the arguments."""
        function = getattr(owner, attribute)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name if isinstance(name, str) else name(*args)):
                return function(*args, **kwargs)

        setattr(owner, attribute, timed)

    def take(self) -> dict[str, float]:
        """What was counted since the last call."""
        taken = dict(self.seconds)
        self.seconds.clear()
        return taken


def _trl(options: argparse.Namespace, scratch: Path) -> None:
    import torch
    from datasets import Dataset
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        PrinterCallback,
        TrainerCallback,
    )
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    torch.set_num_threads(options.threads)
    tokenizer = AutoTokenizer.from_pretrained(options.model, padding_side="left")
    data = Dataset.from_dict({"input_ids": _prompts(options)})
    config = PPOConfig(
        output_dir=str(scratch),
        use_cpu=True,
        bf16=options.precision == "bfloat16",  # its default
        per_device_train_batch_size=options.episodes,
        gradient_accumulation_steps=1,
        num_mini_batches=1,
        num_ppo_epochs=options.epochs,
        total_episodes=len(data),
        response_length=options.max_new_tokens,
        temperature=1.0,
        missing_eos_penalty=1.0,
        num_sample_generations=0,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=SEED,
        **({"stop_token_id": NEVER} if options.full_length else {"stop_token": "eos"}),
    )

    def language_model() -> Any:
        return AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)

    def judge() -> Any:
        folder = options.judge
        return AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)

    collator = DataCollatorWithPadding(tokenizer)
    trainer = PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=language_model(),
        ref_model=language_model(),
        reward_model=judge(),
        value_model=judge(),
        train_dataset=data,
        eval_dataset=data.select(range(1)),
        data_collator=collator,
    )
    trainer.dataloader = torch.utils.data.DataLoader(  # the prompts in their order
        data, batch_size=options.episodes, collate_fn=collator
    )

    clock, figures = Clock(), {"tokens": 0, "score": math.nan}
    clock.wrap(ppo_trainer, "batch_generation", "generation")
    clock.wrap(
        ppo_trainer,
        "forward",
        lambda model, *_: "reference" if model is trainer.ref_model else "optimisation",
    )
    _compare_scores(ppo_trainer, options)
    clock.wrap(ppo_trainer, "get_reward", "scores and values")
    clock.wrap(trainer.accelerator, "backward", "optimisation")
    clock.wrap(trainer.optimizer, "step", "optimisation")
    first_true = ppo_trainer.first_true_indices

    def count(pads: torch.Tensor, *args: Any) -> torch.Tensor:
        found = first_true(pads, *args)
        figures["tokens"] = int(found.sum())
        return found

    ppo_trainer.first_true_indices = count

    class Pause(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            gate.passed()

        def on_log(self, _args: Any, _state: Any, _control: Any, logs: Any, **__: Any) -> None:
            if "objective/scores" in logs:
                figures["score"] = logs["objective/scores"]

        def on_step_end(self, *_: Any, **__: Any) -> None:
            gate.passed()

    gate = Gate(1, lambda: {"phases": clock.take()} | figures)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Pause())
    trainer.train()


def _compare_scores(ppo_trainer: Any, options: argparse.Namespace) -> None:
    """Score TRL's first responses with our code too: the two have to agree.

    The models are loaded for the warm-up round alone, so that no counted round holds them.
    """
    import torch

    from rlhf.models.reward import load_reply_scorer
    from rlhf.models.scoring import score

    get_reward = ppo_trainer.get_reward

    def compared(model: Any, sequences: torch.Tensor, pad_id: int, context: int) -> Any:
        found = get_reward(model, sequences, pad_id, context)
        ppo_trainer.get_reward = get_reward
        ends = (found[2] + 1).tolist()  # a sampled pad token ends a response for TRL
        rows = [row[:end][row[:end] != pad_id] for row, end in zip(sequences, ends, strict=True)]
        with torch.no_grad():
            ours = score(load_reply_scorer(options.judge).eval(), rows, options.micro_batch_tokens)
        gap = float((found[1].flatten() - ours).abs().max())
        if gap > 1e-3:
            raise SystemExit(f"TRL and ours score the same response {gap:.2g} apart")
        return found

    ppo_trainer.get_reward = compared


def _ours(options: argparse.Namespace, scratch: Path) -> None:
    import torch

    from rlhf.algorithms.ppo import Ppo
    from rlhf.config.ppo import PpoConfig
    from rlhf.models.load import load_token_scorer, load_tokenizer
    from rlhf.models.reward import load_reply_scorer
    from rlhf.models.roots import ActorCritic, Critic, ValueHead
    from rlhf.online import rewards, sampler
    from rlhf.online.loop import OnlineTrainer
    from rlhf.online.reference import ReferenceModel
    from rlhf.runtime.options import RunOptions
    from rlhf.training.engine.replicated import Replicated

    torch.set_num_threads(options.threads)
    prompts = [
        {"dataset": "any", "id": str(i), "input_ids": ids}
        for i, ids in enumerate(_prompts(options))
    ]

    class Stream:
        """The prompts in their order; an update begins with taking some, so it holds the gate."""

        def __init__(self) -> None:
            self.position = 0

        def take(self, count: int) -> list[dict[str, Any]]:
            gate.passed()
            self.position += count
            return prompts[self.position - count : self.position]

        def state(self) -> dict[str, int]:
            return {"position": self.position}

    clock, figures = Clock(), {"tokens": 0, "score": math.nan}
    gate = Gate(1, lambda: {"phases": clock.take()} | figures)

    policy = load_token_scorer(options.model)
    policy.freeze(options.freeze_layers)
    value: Critic | ValueHead
    if options.worker == "critic":
        value = Critic(load_reply_scorer(options.judge).model, 0.0, 1.0)
        value.freeze(options.freeze_layers)
    else:
        value = ValueHead(policy.width)
    config = PpoConfig(
        sft="any",
        reward="any",
        data={"any": {}},
        updates=_updates(options),
        rollout_batch_size=options.episodes,
        minibatch_size=options.episodes,
        epochs=options.epochs,
        sampling={"max_new_tokens": options.max_new_tokens},
        kl={"coefficient": 0.05},
        max_approx_kl=1e9,  # no epoch is skipped
        optimizer={"learning_rate": 3e-6},
        value={"kind": "critic" if options.worker == "critic" else "head", "learning_rate": 3e-6},
        precision=options.precision,
    )
    tokenizer = load_tokenizer(options.model)
    judge, reference = load_reply_scorer(options.judge), load_token_scorer(options.model)
    for root in (policy, judge, reference, *([value] if isinstance(value, Critic) else [])):
        root.compute_in(options.precision)
    temperature, tokens = config.sampling.temperature, options.micro_batch_tokens
    eos = tokenizer.eos_token_id
    referee = ReferenceModel(reference, temperature, tokens)
    clock.wrap(sampler, "generate", "generation")
    clock.wrap(rewards, "score", "scores and values")
    clock.wrap(referee, "logprobs", "reference")
    rates = {"policy.": config.optimizer.learning_rate, "value.": config.value.learning_rate}
    trainer = OnlineTrainer(
        Ppo(config),
        Replicated(ActorCritic(policy, value, temperature), rates, config.optimizer),
        sampler.ModelSampler(
            policy,
            NEVER if options.full_length else eos,
            config.sampling.max_new_tokens,
            temperature,
        ),
        rewards.RewardModel(judge, eos, tokens),
        referee,
        Stream(),  # type: ignore[arg-type]
        (0.0, 1.0),
        tokenizer,
        config,
        RunOptions("ppo.benchmark", scratch / "state", {}, save_seconds=1e9),
        tokens,
    )
    clock.wrap(trainer, "_evaluate", "old log probabilities")
    clock.wrap(trainer, "optimise", "optimisation")
    measure = trainer._measure

    def measured(experience: Any) -> dict[str, Any]:
        record = measure(experience)
        figures["tokens"] = sum(map(len, experience.rollout.logprobs))
        figures["score"] = record["shaped_score"]
        return record

    trainer._measure = measured
    trainer.train()


if __name__ == "__main__":
    main()
