"""What one GPU makes of training, sampling and scoring, with random weights and no network.

    python benchmarks/gpu.py                    # at most 10 minutes on one H200
    python benchmarks/gpu.py --sizes 135M 1B --engines replicated
    python benchmarks/gpu.py --smoke            # tiny sizes, on a CPU too: whether it runs

One JSON line for each measurement. Training: tokens per second, MFU (6 FLOPs for each parameter
and token, and attention's 6 · layers · width · length for a token; causal) and peak memory of SFT,
reward modelling and PPO's optimisation, in bfloat16 products; and of SFT on rows of unlike lengths,
in one sequence (flash, flex) or padded (sdpa). Decoding and scoring: tokens per
second. What does not fit is reported with its error, and the next size goes on.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch

from rlhf.algorithms.ppo import Ppo
from rlhf.algorithms.reward import ranking_loss
from rlhf.config.ppo import PpoConfig
from rlhf.config.training import OptimizerConfig
from rlhf.core.seeds import generator
from rlhf.errors import RlhfError
from rlhf.models.devices import own_device, peak_memory
from rlhf.models.generate import generate, uniforms
from rlhf.models.head import find_head
from rlhf.models.precision import exact_float32
from rlhf.models.roots import ActorCritic, ReplyScorer, TokenScorer, ValueHead, from_starts
from rlhf.models.scoring import score, sequence_logprobs
from rlhf.online.algorithm import ActorOutput, Batch
from rlhf.runtime.options import AttentionChoice, EngineKind, EngineOptions
from rlhf.runtime.performance import peak_flops
from rlhf.training import distributed
from rlhf.training.engine.open import open_engine
from rlhf.training.engine.protocol import Engine

SECONDS = 540.0  # nothing new is begun after so many
STEPS = 3  # measured, after one that is not
RATES = OptimizerConfig(learning_rate=1e-5)
NO_EOS = -1  # no token: responses have their full length


@dataclass(frozen=True)
class Size:
    """A Llama, and the rows that it is measured on."""

    width: int
    layers: int
    heads: int
    key_heads: int
    inner: int
    vocabulary: int
    rows: int = 8
    length: int = 1024
    decoded: int = 128

    def config(self, **more: Any) -> Any:
        from transformers import LlamaConfig

        return LlamaConfig(
            hidden_size=self.width, num_hidden_layers=self.layers,
            num_attention_heads=self.heads, num_key_value_heads=self.key_heads,
            intermediate_size=self.inner, vocab_size=self.vocabulary,
            max_position_embeddings=4 * self.length, pad_token_id=0, **more,
        )  # fmt: skip


SIZES = {
    "135M": Size(576, 30, 9, 3, 1536, 49152),
    "1B": Size(2048, 16, 32, 8, 8192, 128256),
    "7B": Size(4096, 32, 32, 32, 11008, 32000, rows=4),
}
SMOKE = {"tiny": Size(32, 2, 4, 2, 64, 256, rows=2, length=16, decoded=4)}


def language_model(size: Size, dtype: torch.dtype = torch.float32) -> TokenScorer:
    from transformers import LlamaForCausalLM

    with own_device():
        model = LlamaForCausalLM(size.config()).to(dtype)
    return TokenScorer(model, find_head(model, "random weights"))


def reward_model(size: Size, dtype: torch.dtype = torch.float32) -> ReplyScorer:
    from transformers import LlamaForSequenceClassification

    with own_device():
        model = LlamaForSequenceClassification(size.config(num_labels=1)).to(dtype)
    model.score.float()  # as stores and trainers keep it
    return ReplyScorer(model)


def rows_of(size: Size, count: int | None = None, length: int | None = None) -> list[torch.Tensor]:
    random = generator(0, "benchmark")
    shape = (count or size.rows, length or size.length)
    return list(torch.from_numpy(random.integers(1, size.vocabulary, shape)))


Method = tuple[torch.nn.Module, Callable[[Engine], torch.Tensor]]


def sft(size: Size, lengths: Sequence[int] | None = None) -> Method:
    rows = [row[:most] for row, most in zip(rows_of(size), lengths or [size.length] * size.rows,
                                            strict=True)]  # fmt: skip
    places = from_starts(rows, [1] * len(rows))
    return language_model(size), lambda engine: -engine(rows, places)[0].mean()


def reward(size: Size) -> Method:
    rows = rows_of(size)
    half = size.length // 2
    histories = [row[:half] for row in rows[::2]]
    replies = [[a[half:], b[half:]] for a, b in zip(rows[::2], rows[1::2], strict=True)]
    return reward_model(size), lambda engine: ranking_loss(engine(histories, replies), 0.001)


def ppo(size: Size) -> Method:
    rows, policy = rows_of(size), language_model(size)
    starts = [size.length // 2] * len(rows)
    values = {"sft": "s", "reward": "r", "data": {"d": {}}, "value": {"learning_rate": 1e-5}}
    algorithm = Ppo(PpoConfig.model_validate(values))

    def loss(engine: Engine) -> torch.Tensor:
        new = ActorOutput(*engine(rows, starts, with_entropy=True))
        old, ones = new.logprobs.detach(), torch.ones_like(new.logprobs.detach())
        sizes = [len(row) - start for row, start in zip(rows, starts, strict=True)]
        values = new.values.detach()
        batch = Batch(new, old, values, ones, ones, ones, old, ones, sizes, kl_coefficient=0.0)
        total, _ = algorithm.loss(batch)
        return total / len(ones)

    return ActorCritic(policy, ValueHead(policy.width).to(own_device())), loss


METHODS = {"sft": sft, "reward": reward, "ppo": ppo}


def train(size: Size, method: str, kind: EngineKind) -> dict[str, float]:
    """Tokens per second, MFU and memory of whole optimizer steps."""
    return steps(size, METHODS[method](size), size.rows * size.length, EngineOptions(kind))


def uneven(size: Size, attention: AttentionChoice) -> dict[str, float]:
    """The same of SFT on short rows and longer ones, up to the full length, without padding."""
    lengths = [size.length * (i + 1) // size.rows for i in range(size.rows)]
    return steps(size, sft(size, lengths), sum(lengths), EngineOptions(attention=attention))


def steps(size: Size, method: Method, tokens: int, options: EngineOptions) -> dict[str, float]:
    root, loss = method
    for module in root.modules():
        if isinstance(module, TokenScorer | ReplyScorer):
            module.compute_in("bfloat16")
    parameters = sum(parameter.numel() for parameter in root.parameters())
    engine = open_engine(root, {"": RATES.learning_rate}, RATES, options)

    def step() -> None:
        engine.backward(loss(engine), last=True)
        engine.step(1.0)

    step()
    seconds = timed(step, STEPS)
    flops = 6 * tokens * (parameters + size.layers * size.width * size.length)
    found = {"tokens_per_second": tokens / seconds, "peak_memory_gb": peak_memory() / 1e9}
    peak = peak_flops(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    return found | ({"mfu": flops / seconds / peak} if peak else {})


@torch.no_grad()
def decode(size: Size, rows: int) -> dict[str, float]:
    """Sampled tokens per second of ``rows`` responses."""
    policy = language_model(size, torch.bfloat16).eval()
    prompts = rows_of(size, rows, size.length // 4)
    draws = uniforms(generator(0, "draws"), rows, size.decoded)

    def run() -> None:
        generate(policy, prompts, draws, NO_EOS)

    seconds = timed(run, 1)
    return {"tokens_per_second": rows * size.decoded / seconds,
            "peak_memory_gb": peak_memory() / 1e9}  # fmt: skip


@torch.no_grad()
def scoring(size: Size, kind: str) -> dict[str, float]:
    """Scored tokens per second, as a store's model or one in the trainer's process computes."""
    rows, tokens = rows_of(size, 4 * size.rows), 8 * size.length
    starts = [size.length // 2] * len(rows)
    run: Callable[[], object]
    if kind == "reward":
        judge = reward_model(size, torch.bfloat16).eval()

        def run() -> object:
            return score(judge, rows, tokens, starts)
    else:
        scorer = language_model(size, torch.bfloat16).eval()

        def run() -> object:
            return sequence_logprobs(scorer, rows, starts, 1.0, tokens)

    run()
    return {"tokens_per_second": len(rows) * size.length / timed(run, STEPS)}


def timed(run: Callable[[], object], times: int) -> float:
    """Seconds of one of several runs, the GPU's work included."""
    wait()
    began = time.monotonic()
    for _ in range(times):
        run()
    wait()
    return (time.monotonic() - began) / times


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--engines", nargs="+", choices=get_args(EngineKind),
                        default=list(get_args(EngineKind)))  # fmt: skip
    args = parser.parse_args()
    exact_float32()
    began = time.monotonic()
    ways = ("flash", "flex", "sdpa") if torch.cuda.is_available() else ("sdpa", "eager")
    sizes = SMOKE if args.smoke else {name: SIZES[name] for name in args.sizes}
    for name, size in sizes.items():
        work: list[tuple[dict[str, Any], Callable[..., dict[str, float]], tuple[Any, ...]]] = [
            ({"work": "decode", "rows": rows}, decode, (size, rows)) for rows in (1, 32, 128)
        ]
        work += [
            ({"work": f"score {kind}"}, scoring, (size, kind)) for kind in ("reward", "reference")
        ]
        work += [
            ({"work": method, "engine": engine}, train, (size, method, engine))
            for method in METHODS
            for engine in args.engines
        ]
        work += [
            ({"work": "sft, uneven rows", "attention": way}, uneven, (size, way)) for way in ways
        ]
        for what, measure, given in work:
            if time.monotonic() - began > SECONDS:
                print(json.dumps({"size": name, **what, "error": "no time left"}), flush=True)
                continue
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            try:
                found: dict[str, Any] = measure(*given)
            except (RuntimeError, torch.OutOfMemoryError, RlhfError) as error:
                if args.smoke:
                    raise
                found = {"error": str(error).splitlines()[0]}
            print(json.dumps({"size": name, **what, **found}), flush=True)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    distributed.finish()


if __name__ == "__main__":
    main()
