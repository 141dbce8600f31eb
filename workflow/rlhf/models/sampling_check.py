"""Whether sampling from a model gives what its forward pass says: tried, once, on a tiny input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rlhf.errors import ConfigError
from rlhf.models.abilities import cache_problem
from rlhf.models.forward import sequence_logprobs
from rlhf.models.generate import generate
from rlhf.models.head import EARLIER, SAMPLED, probe, quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROUNDING = 0.01  # nats between sampling and the forward pass that are no mistake


def check_sampling(model: PreTrainedModel, where: object) -> None:
    """Refuse a model that can't be sampled from.

    Raises:
        ConfigError: says why.
    """
    if problem := cache_problem(model) or _sampling_problem(model):
        raise ConfigError(
            f"No responses can be sampled from this model: {problem}.",
            where=where,
            expected="a model whose layers keep keys and values, and nothing else",
            hint="choose a model of another architecture: of this one SFT is all that can be done",
        )


@torch.no_grad()
def _sampling_problem(model: PreTrainedModel) -> str:
    """Two prompts of unlike length: a token's log probability is known twice."""
    name = f"{type(model).__name__} ({model.config.model_type})"
    ids = probe(model).cpu()
    prompts, draws = [ids[0], ids[1, :EARLIER]], torch.full((2, SAMPLED), 0.5)
    starts = [len(prompt) for prompt in prompts]
    try:
        with quiet(model):
            made = generate(model, prompts, draws, eos_id=-1)
            sequences = [torch.cat([p, one.ids]) for p, one in zip(prompts, made, strict=True)]
            found = sequence_logprobs(model, sequences, starts, 1.0, max_tokens=64)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        said = " ".join([f"{type(error).__name__}:", *str(error).splitlines()[:1]])
        return f"a few tokens of {name} end in {said}"
    differ = [abs(float(p.sum()) - one.logprob) for p, one in zip(found, made, strict=True)]
    if model.dtype == torch.float32 and max(differ) > ROUNDING:
        return f"{name} samples by other probabilities than those of its forward pass"
    return ""
