"""One rank that trains adapters by every kind of engine: losses, norms, weights, the reference.

And what is to hold of every kind: frozen weights keep their bytes, all that is trained moves, and
a merged copy computes what the engine does.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rlhf.models.adapter_weights import merged
from rlhf.models.adapters import add_adapter
from rlhf.models.generate import generate
from rlhf.models.prefix_tuning import add_prefix
from rlhf.models.publish import below
from rlhf.models.replica import replica
from rlhf.models.roots import ActorCritic, TokenScorer
from rlhf.online.reference import AdapterOff
from rlhf.runtime.options import EngineOptions
from rlhf.training import distributed
from rlhf.training.engine.open import open_engine
from rlhf.training.engine.protocol import Engine
from support.programs.sharded_ranks import SETTINGS, Loss, actor, sft, update
from support.tiny_models import VOCABULARY, rank_main, token_sequences
from support.tiny_online import rollout_of
from support.tiny_settings import lora

PROMPTS = token_sequences([5, 3], seed=9, vocabulary=VOCABULARY)


CASES = {  # of DeepSpeed's kinds, which are slow
    "replicated": ("lora", "dora", "prefix", "policy and critic"),
    "fsdp": ("lora", "dora", "prefix", "policy and critic"),
    "zero1": ("lora",),
    "zero2": ("prefix",),
    "zero3": ("lora", "prefix"),
}


def cases() -> Iterator[tuple[str, nn.Module, Loss, dict[str, float]]]:
    """Name, root, loss and peak learning rates, made anew."""
    scorer, loss = sft("llama")
    add_adapter(scorer.model, lora(), 3, "adapter")
    yield "lora", scorer, loss, {"": 1e-2}
    scorer, loss = sft("gpt_neox")
    add_adapter(scorer.model, lora(dora=True, modules_to_save=["lm_head"]), 3, "adapter")
    yield "dora", scorer, loss, {"": 1e-2}
    scorer, loss = sft("llama")
    add_prefix(scorer.model, 3, 3, "adapter")
    yield "prefix", scorer, loss, {"": 1e-2}
    root, loss = actor("llama", critic=True)
    for seed, part in enumerate((root.policy, root.value)):
        add_adapter(part.model, lora(), seed, "adapter")
    yield "policy and critic", root, loss, {"policy.": 1e-2, "value.": 3e-2}


def responses(engine: Engine, policy: TokenScorer, prefix: str) -> list[list[int]]:
    """Sampled from a whole copy of the policy, as it is now."""
    copy = replica(policy, below(engine.weights(), prefix))
    draws = torch.rand(2, 6, generator=torch.Generator().manual_seed(5))
    return [response.ids.tolist() for response in generate(copy, PROMPTS, draws, eos_id=2)]


def difference(engine: Engine, root: nn.Module, policy: TokenScorer, prefix: str) -> float:
    """Largest between log probabilities of the engine's model and of a merged copy."""
    places = [torch.arange(2, len(ids)) for ids in PROMPTS]
    with torch.no_grad():
        given = [2] * len(PROMPTS) if isinstance(root, ActorCritic) else places
        own = engine(PROMPTS, given)[0]
        merged_copy = replica(policy, below(engine.weights(), prefix))(PROMPTS, places)[0]
    return float((own - merged_copy).abs().max())


def reference(engine: Engine, policy: TokenScorer) -> list[torch.Tensor]:
    """Log probabilities of the policy without its adapter."""
    rollout = rollout_of([torch.zeros(n) for n in (4, 6, 3)])
    rollout.sequences[:] = token_sequences([5, 7, 4], seed=2, vocabulary=VOCABULARY)
    return AdapterOff(engine, policy, 1.0, 16).logprobs(rollout)


def work(folder: Path, state: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind, names in CASES.items():
        if kind != "replicated" and distributed.world_size() == 1:
            continue
        for name, root, loss, rates in cases():
            if name not in names:
                continue
            before = {n: (p.detach().clone(), p.requires_grad) for n, p in root.named_parameters()}
            engine = open_engine(root, rates, SETTINGS, EngineOptions(kind))
            path = state / f"{name} {kind}"
            path.mkdir(parents=True, exist_ok=True)
            figures = [update(engine, loss, 0)]
            engine.save(path)
            distributed.wait()
            figures.append(update(engine, loss, 1))
            policy, prefix = root, "model."
            results: dict[str, Any] = {"figures": figures}
            if isinstance(root, ActorCritic):
                policy, prefix = root.policy, "policy.model."
                results["reference"] = reference(engine, policy)
            results["responses"] = responses(engine, policy, prefix)
            results["difference"] = difference(engine, root, policy, prefix)
            after = dict(engine.weights())
            same = {n: torch.equal(after[n], tensor) for n, (tensor, _) in before.items()}
            results["wrong"] = [n for n, (_, trained) in before.items() if same[n] == trained]
            weights = merged(root, engine.weights())
            results["weights"] = {key: tensor.clone() for key, tensor in weights}
            engine.load(path)
            results["again"] = update(engine, loss, 1)
            found[f"{name} {kind}"] = results
    return found


if __name__ == "__main__":
    rank_main(work)
