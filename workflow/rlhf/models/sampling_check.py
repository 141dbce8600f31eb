"""Whether sampling from a model gives what its forward pass says: tried, once, on a tiny input."""

from __future__ import annotations

import torch

from rlhf.errors import ConfigError
from rlhf.models.abilities import cache_problem
from rlhf.models.generate import generate
from rlhf.models.head import EARLIER, SAMPLED, probe, quiet
from rlhf.models.roots import TokenScorer
from rlhf.models.scoring import sequence_logprobs

ROUNDING = 0.01  # nats between sampling and the forward pass that are no mistake


def check_sampling(policy: TokenScorer, where: object) -> None:
    """Refuse a model that can't be sampled from.

    Raises:
        ConfigError: says why.
    """
    if problem := cache_problem(policy.model) or _sampling_problem(policy.plain()):
        raise ConfigError(
            f"No responses can be sampled from this model: {problem}.",
            where=where,
            expected="a model whose layers keep keys and values, and nothing else",
            hint="choose a model of another architecture: of this one SFT is all that can be done",
        )


@torch.no_grad()
def _sampling_problem(policy: TokenScorer) -> str:
    """Two prompts of unlike length: a token's log probability is known twice."""
    model = policy.model
    name = f"{type(model).__name__} ({model.config.model_type})"
    ids = probe(model).cpu()
    prompts, draws = [ids[0], ids[1, :EARLIER]], torch.full((2, SAMPLED), 0.5)
    starts = [len(prompt) for prompt in prompts]
    try:
        with quiet(model):
            made = generate(policy, prompts, draws, eos_id=-1)
            sequences = [torch.cat([p, one.ids]) for p, one in zip(prompts, made, strict=True)]
            found = sequence_logprobs(policy, sequences, starts, 1.0, max_tokens=64)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        said = " ".join([f"{type(error).__name__}:", *str(error).splitlines()[:1]])
        return f"a few tokens of {name} end in {said}"
    differ = [abs(float(p.sum()) - one.logprob) for p, one in zip(found, made, strict=True)]
    if model.dtype == torch.float32 and max(differ) > ROUNDING:
        return f"{name} samples by other probabilities than those of its forward pass"
    return ""
