"""One rank of one update by every kind of engine: what its loss, norm and moments are."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rlhf.config.training import OptimizerConfig
from rlhf.models.head import find_head
from rlhf.models.layers import decoder_layers
from rlhf.models.load import disable_dropout
from rlhf.models.publish import below, save_model
from rlhf.models.roots import POOLING, ActorCritic, Critic, ReplyScorer, TokenScorer, ValueHead
from rlhf.runtime.options import EngineKind, EngineOptions, Offload
from rlhf.training import distributed
from rlhf.training.engine import fsdp, placing, zero
from rlhf.training.engine.open import open_engine
from rlhf.training.engine.placing import narrow_types
from rlhf.training.engine.protocol import Engine
from rlhf.training.engine.scale import LossScale
from rlhf.training.rounds import Round, equal_rounds
from support.architectures import SIZES
from support.tiny_models import VOCABULARY, rank_main, token_sequences

KINDS = ("replicated", "fsdp", "zero1", "zero2", "zero3")
LENGTHS = [9, 4, 12, 7, 5, 11, 6, 8]  # of the rows of a global batch
SETTINGS = OptimizerConfig(learning_rate=1e-2, eps=1e-3, weight_decay=0.1)
ARCHITECTURES = {
    "llama": SIZES | {"tie_word_embeddings": True},
    "gpt_neox": SIZES | {"tie_word_embeddings": False},
    "opt": SIZES | {"ffn_dim": 64, "word_embed_proj_dim": 16},
}


def language_model(architecture: str, seed: int = 0) -> TokenScorer:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    config = AutoConfig.for_model(architecture, **ARCHITECTURES[architecture])
    model = AutoModelForCausalLM.from_config(config)
    disable_dropout(model)
    return TokenScorer(model, find_head(model, architecture))


def scored_model(architecture: str, seed: int = 1) -> nn.Module:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    torch.manual_seed(seed)
    config = AutoConfig.for_model(architecture, **ARCHITECTURES[architecture], num_labels=1)
    model = AutoModelForSequenceClassification.from_config(config)
    disable_dropout(model)
    return model


FACTOR = 2.0**10  # of float16's loss, whose gradients are large here
RESUMED = ("ppo llama", "frozen llama")  # cases whose states are taken up
TAKEN_UP = {  # kind → kinds that go on from its states
    "replicated": ("replicated", "fsdp", "zero3"),
    "fsdp": ("replicated", "fsdp", "zero1", "zero2"),
    "zero1": ("zero1",),
    "zero2": ("zero2",),
    "zero3": ("replicated", "fsdp", "zero3"),
}
OFFLOADED = (("zero2", "optimizer"), ("zero3", "all"))
NARROW = ("bfloat16 llama", "float16 llama")
FEW = ("ppo llama", "reward llama", "frozen llama")
EVERY_CASE = "EVERY_CASE"  # set in the environment: every trainer, model and kind
CASES = {  # of DeepSpeed's kinds, which are slow; the others run all but `MORE`
    "zero1": (*FEW, "float16 llama"),
    "zero2": (*FEW, "float16 llama"),
    "zero3": (*FEW, "head llama", "critic llama", *NARROW, "sft gpt_neox", "ppo opt"),
}
MORE = ("reward gpt_neox", "dpo gpt_neox", "critic gpt_neox", "reward opt", "dpo opt", "critic opt")
Loss = Callable[[Engine, list[torch.Tensor]], torch.Tensor]


def sft(architecture: str) -> tuple[nn.Module, Loss]:
    def loss(engine: Engine, rows: list[torch.Tensor]) -> torch.Tensor:
        logprobs, _ = engine(rows, [torch.arange(1, len(ids)) for ids in rows])
        return -logprobs.sum()

    return language_model(architecture), loss


def reward(architecture: str) -> tuple[nn.Module, Loss]:
    def loss(engine: Engine, rows: list[torch.Tensor]) -> torch.Tensor:
        (scores,) = engine([ids[:2] for ids in rows], [[ids[2:], ids[2:4]] for ids in rows])
        return -sum(nn.functional.logsigmoid(pair[0] - pair[1]) for pair in scores.split(2))

    return ReplyScorer(scored_model(architecture)), loss


def dpo(architecture: str) -> tuple[nn.Module, Loss]:
    def loss(engine: Engine, rows: list[torch.Tensor]) -> torch.Tensor:
        replies = [ids[:end] for ids in rows for end in (len(ids), 4)]
        places = [torch.arange(2, len(ids)) for ids in replies]
        logprobs, _ = engine(replies, places, prompts=[1] * len(replies))
        totals = [each.sum() for each in logprobs.split([len(each) for each in places])]
        differences = torch.stack(totals).view(-1, 2) @ torch.tensor([1.0, -1.0])
        return -nn.functional.logsigmoid(0.1 * (differences - 0.3)).sum()

    return language_model(architecture), loss


def actor(architecture: str, critic: bool) -> tuple[nn.Module, Loss]:
    policy = language_model(architecture)
    value = Critic(scored_model(architecture), 0.1, 2.0) if critic else ValueHead(policy.width)

    def loss(engine: Engine, rows: list[torch.Tensor]) -> torch.Tensor:
        logprobs, values, _ = engine(rows, [2] * len(rows), with_entropy=True)
        return (logprobs.exp() + (values - 0.3) ** 2).sum()

    return ActorCritic(policy, value), loss


def cases() -> Iterator[tuple[str, nn.Module, Loss, dict[str, float]]]:
    """Name, root, loss and peak learning rates, made anew."""
    rates, two = {"": 1e-2}, {"policy.": 1e-2, "value.": 3e-2}
    for architecture in ARCHITECTURES:
        yield f"sft {architecture}", *sft(architecture), rates
        yield f"ppo {architecture}", *actor(architecture, critic=False), two
        yield f"dpo {architecture}", *dpo(architecture), rates
        yield f"reward {architecture}", *reward(architecture), rates
        yield f"critic {architecture}", *actor(architecture, critic=True), two
    frozen, loss = sft("llama")
    frozen.freeze(1)
    yield "frozen llama", frozen, loss, rates
    head, loss = reward("llama")
    setattr(head.model.config, POOLING, "mean")
    head.freeze_body()
    yield "head llama", head, loss, rates
    for name in NARROW:
        narrow, loss = sft("llama")
        narrow.compute_in(name.split()[0])
        yield name, narrow, loss, rates
    packed, loss = reward("llama")
    packed.attend("sdpa", packs=True)
    yield "packed llama", packed, loss, rates


def runs() -> Iterator[tuple[str, str]]:
    """Which cases are run by which kind."""
    every = EVERY_CASE in os.environ
    names = [name for name, *_ in cases() if every or name not in MORE]
    for kind in KINDS:
        yield from ((name, kind) for name in (names if every else CASES.get(kind, names)))


def case(name: str) -> tuple[nn.Module, Loss, dict[str, float]]:
    """Root, loss and peak learning rates, made anew."""
    return next(rest for each, *rest in cases() if each == name)


def rounds(step: int) -> tuple[list[torch.Tensor], list[Round]]:
    """The rows of a global batch, and this rank's rounds: very unlike shares of them.

    In the last step the first rank has all rows.
    """
    rows = token_sequences(LENGTHS, seed=step, vocabulary=VOCABULARY)
    ranks = distributed.world_size()
    share = 2 if step else 6
    batches = [[[0, 1], *([i] for i in range(2, share))], *([] for _ in range(ranks - 1))]
    for i in range(share, len(rows)):
        batches[1 + i % (ranks - 1) if ranks > 1 and not step else 0].append([i])
    shapes = [[(1, n) for n in LENGTHS]] * ranks
    return rows, equal_rounds(batches, shapes)[distributed.rank()]


def update(engine: Engine, loss: Loss, step: int) -> list[float]:
    """One update: the global loss and the norm of its gradient."""
    rows, own = rounds(step)
    mean = 0.0
    for each in own:
        share = each.weight * loss(engine, [rows[i] for i in each.rows]) / len(rows)
        engine.backward(share, last=each is own[-1])
        mean += float(share.detach())
    return [*distributed.total([mean]), engine.step(1.0)]


@torch.no_grad()
def look(engine: Engine, loss: Loss) -> None:
    """One pass without a backward pass, as when few held-out rows are measured before a save."""
    rows, (first, *_) = rounds(0)
    loss(engine, [rows[i] for i in first.rows])


def narrow(kind: EngineKind, architecture: str) -> list[float]:
    """Loss and norm of one update whose matrix products are bfloat16."""
    root, loss = sft(architecture)
    root.compute_in("bfloat16")
    return update(open_engine(root, {"": 1e-2}, SETTINGS, EngineOptions(kind)), loss, 0)


def spoil(engine: Engine, loss: Loss) -> tuple[float, bool]:
    """One update with an infinite loss: its norm, and whether all weights are as they were."""
    before, (rows, own) = whole(engine), rounds(0)
    engine.backward(float("inf") * loss(engine, [rows[i] for i in own[0].rows]), last=True)
    norm = engine.step(1.0)
    return norm, all(torch.equal(tensor, before[name]) for name, tensor in engine.weights())


def overflow(engine: Engine, loss: Loss) -> dict[str, Any]:
    """An update in which gradients of the first rank alone are too large for float16."""
    before, (rows, own) = whole(engine), rounds(0)
    share = 1e-3 if distributed.rank() else 1e3
    engine.backward(share * loss(engine, [rows[i] for i in own[0].rows]), last=True)
    norm = engine.step(1.0)
    unchanged = all(torch.equal(tensor, before[name]) for name, tensor in engine.weights())
    return {"norm": norm, "unchanged": unchanged, "scale": asdict(engine.loss_scale)}


def referred(engine: Engine) -> torch.Tensor:
    """Log probabilities of all rows under a model that the engine keeps, but does not train."""
    reference = language_model("gpt_neox", seed=5)
    reference.compute_in("bfloat16")
    engine.frozen(reference)
    logprobs, _ = reference(rounds(0)[0], [torch.arange(1, length) for length in LENGTHS])
    assert not logprobs.requires_grad
    layer = decoder_layers(reference.model)[0]
    assert layer.mlp.dense_4h_to_h.weight.dtype == torch.bfloat16
    assert layer.input_layernorm.weight.dtype == torch.float32
    return logprobs


def held_narrow(kind: EngineKind) -> dict[str, Any]:
    """An update of a model with a frozen layer, which is held as on a GPU."""

    def on_fake_gpu(root: nn.Module, _device: torch.device) -> dict[nn.Parameter, torch.dtype]:
        return narrow_types(root, torch.device("cuda"))

    root, loss = sft("gpt_neox")
    root.freeze(1)
    root.compute_in("bfloat16")
    with pytest.MonkeyPatch.context() as patch:
        for module in (placing, fsdp, zero):
            patch.setattr(module, "narrow_types", on_fake_gpu)
        engine = open_engine(root, {"": 1e-2}, SETTINGS, EngineOptions(kind))
    types = {name: tensor.dtype for name, tensor in engine.weights()}
    return {"figures": update(engine, loss, 0), "types": types, "weights": whole(engine)}


class NoTokenizer:
    """Has no files."""

    def save_pretrained(self, folder: Path) -> None:
        pass


def whole(engine: Engine) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in engine.weights()}


def resumed(name: str, kind: str, folder: Path) -> dict[str, torch.Tensor]:
    """Weights after the second update, from a state that was saved after the first."""
    root, loss, rates = case(name)
    engine = open_engine(root, rates, SETTINGS, EngineOptions(kind))
    engine.load(folder)
    update(engine, loss, 1)
    return whole(engine)


def work(folder: Path, state: Path) -> dict[str, Any]:
    """For each case and kind: figures of two updates, the weights then, and those resumed."""
    results: dict[str, Any] = {}
    alone = distributed.world_size() == 1
    if not alone:
        gc.freeze()  # DeepSpeed collects garbage at each engine, among all that was ever imported
    for name, kind in runs():
        if alone and kind != "replicated":
            continue
        root, loss, rates = case(name)
        engine = open_engine(root, rates, SETTINGS, EngineOptions(kind))
        if engine.loss_scale:
            engine.loss_scale.factor = FACTOR
        figures = [update(engine, loss, 0)]
        look(engine, loss)
        path = state / f"{name} {kind}"
        path.mkdir(parents=True, exist_ok=True)
        result = results[f"{name} {kind}"] = {"figures": figures}
        if name == "float16 llama":
            result["overflow"] = overflow(engine, loss)
        engine.save(path)
        distributed.wait()
        if engine.loss_scale:
            engine.loss_scale = LossScale(1.0)
            engine.load(path)
            result["restored"] = asdict(engine.loss_scale)
        if name == "reward llama":
            result["spoilt"], result["reference"] = spoil(engine, loss), referred(engine)
        figures.append(update(engine, loss, 1))
        look(engine, loss)
        result["weights"] = whole(engine)
        if name == "sft gpt_neox":
            save_model(root, below(engine.weights(), "model."), NoTokenizer(), path / "model")
        result["held"] = sum(part.numel() for _, part in engine.parts())
        if name in RESUMED and not alone:
            result |= {other: resumed(name, other, path) for other in TAKEN_UP[kind]}
    kinds: list[EngineKind] = ["replicated"] if alone else ["fsdp", "zero3"]
    results["held"] = {kind: held_narrow(kind) for kind in (KINDS[:1] if alone else KINDS)}
    results["narrow"] = {f"{kind} {a}": narrow(kind, a) for kind in kinds for a in ARCHITECTURES}
    if not alone:
        results["offloaded"] = {f"{kind} {kept}": offloaded(kind, kept) for kind, kept in OFFLOADED}
    return results


def offloaded(kind: EngineKind, kept: Offload) -> dict[str, Any]:
    """Two updates by an engine of DeepSpeed's that keeps something in the memory of the CPUs."""
    root, loss, rates = case("ppo llama")
    engine = open_engine(root, rates, SETTINGS, EngineOptions(kind, offload=kept))
    figures, deepspeed = [update(engine, loss, step) for step in range(2)], engine._engine
    return {
        "figures": figures,
        "optimizer": deepspeed.zero_cpu_offload(),
        "weights": deepspeed.zero_offload_param() is not None,
    }


if __name__ == "__main__":
    rank_main(work)
