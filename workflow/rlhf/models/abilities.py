"""What can be done with a model beyond SFT: responses sampled, a reward model made of it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rlhf.models.head import probe, quiet
from rlhf.provenance.facts import SAMPLING, SCORES

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def what_it_cannot(model: PreTrainedModel, trusted: bool = False) -> dict[str, str]:
    """Need → why the model does not meet it; empty for most.

    Args:
        model: a causal language model.
        trusted: whether the code that it brings may run.
    """
    problems = {
        SAMPLING: cache_problem(model),
        SCORES: scores_problem(model.config, trusted),
    }
    return {need: problem for need, problem in problems.items() if problem}


@torch.no_grad()
def cache_problem(model: PreTrainedModel) -> str:
    """Why sampling can't go on from what the model keeps of a prompt, or nothing.

    Keys and values of each layer can be cut, moved and put beside those of other rows; states of
    a recurrence can't.
    """
    from transformers.cache_utils import Cache, DynamicLayer, LinearAttentionCacheLayerMixin

    problem = f"{type(model).__name__} ({model.config.model_type}) keeps more of a prompt than keys"
    problem += " and values, or other things"
    try:
        with quiet(model):
            made = model.base_model(input_ids=probe(model)[:1], use_cache=True)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        return " ".join([f"{problem}: {type(error).__name__}:", *str(error).splitlines()[:1]])
    cache = getattr(made, "past_key_values", None)
    layers = cache.layers if isinstance(cache, Cache) else []
    fits = layers and all(
        isinstance(one, DynamicLayer) and not isinstance(one, LinearAttentionCacheLayerMixin)
        for one in layers
    )
    return "" if fits else problem


def scores_problem(config: Any, trusted: bool = False) -> str:
    """Why no reward model can be made of a model, or nothing; no memory is taken.

    Args:
        config: its configuration, as transformers has it.
        trusted: whether the code that it brings may run.
    """
    from transformers import AutoModelForSequenceClassification

    kind = config.model_type
    try:
        with torch.device("meta"):
            judge = AutoModelForSequenceClassification.from_config(
                copy.deepcopy(config), trust_remote_code=trusted
            )
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            return ""  # loading it will tell
        return f"transformers has no class for sequence classification with {kind}"
    if not isinstance(getattr(judge, "score", None), nn.Linear):
        return f"the class for sequence classification with {kind} has no linear layer `score`"
    return ""
