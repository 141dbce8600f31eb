"""Where an architecture keeps its decoder layers, and what stands before them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from rlhf.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Between the embeddings and the first layer: of OPT 350M, of BLOOM.
_AFTER_EMBEDDINGS = ("project_in", "word_embeddings_layernorm")


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The stack of decoder layers, under whatever name the architecture keeps it.

    Raises:
        ConfigError: the model has none.
    """
    outer, _ = _lists(model.base_model)
    if not outer:
        raise ConfigError(
            f"{type(model).__name__} ({model.config.model_type}) keeps its decoder layers in no "
            "list of modules, so they can't be frozen, or gathered one at a time.",
            where="cluster.engine, freeze_layers",
            expected="an nn.ModuleList of decoder layers",
            hint="choose another architecture; or the engine replicated, and freeze_layers: 0",
        )
    return max(outer.values(), key=len)


def partly_used(model: PreTrainedModel) -> str | None:
    """The name of a list inside of a layer, such as one of experts; None: there is none.

    A row may pass through a part of such a list, and another rank's row through another part.
    """
    _, inner = _lists(model.base_model)
    several = (name for name, each in inner.items() if len(each) > 1)
    return next((name for name in several if any(True for _ in inner[name].parameters())), None)


def _lists(module: nn.Module) -> tuple[dict[str, nn.ModuleList], dict[str, nn.ModuleList]]:
    """Lists of modules by name, and those that are inside of others."""
    named = module.named_modules()
    every = {name: each for name, each in named if isinstance(each, nn.ModuleList)}
    within = [name for name in every if any(name.startswith(f"{other}.") for other in every)]
    outer = {name: each for name, each in every.items() if name not in within}
    return outer, {name: every[name] for name in within}


def embeddings(model: PreTrainedModel) -> list[nn.Module]:
    """What makes the first layer's input: embeddings of tokens and positions, and what follows."""
    return [
        module
        for name, module in model.base_model.named_modules()
        if isinstance(module, nn.Embedding) or name.endswith(_AFTER_EMBEDDINGS)
    ]
