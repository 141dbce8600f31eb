"""Loading models from plain Hugging Face folders, and how much of them is trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from rlhf.errors import ConfigError
from rlhf.models.head import own_head, settle_head
from rlhf.models.trunk import Trunk
from rlhf.models.trust import reading

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Between the embeddings and the first layer: of OPT 350M, of BLOOM.
_AFTER_EMBEDDINGS = ("project_in", "word_embeddings_layernorm")


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer of a model folder; the network is never asked."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, **reading(folder))


def load_causal_lm(folder: str | Path, dtype: torch.dtype = torch.float32) -> Any:
    """A language model from a plain folder, dropout disabled, in training mode.

    Raises:
        ConfigError: its logits do not follow from its last hidden states (``settle_head``).
    """
    from transformers import AutoModelForCausalLM

    hush()
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, **reading(folder)
    )
    disable_dropout(model)
    settle_head(model, folder)
    return model


def hush() -> None:
    """Switch off transformers' progress bars and load reports: stages say what matters."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def disable_dropout(model: nn.Module) -> None:
    """Make two forward passes of one input equal, in training mode too.

    The probability ratio is 1 at step 0 only so (The N Implementation Details of RLHF with PPO).
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout", "layerdrop"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def freeze_lower_layers(model: PreTrainedModel, layers: int) -> None:
    """Keep the embeddings and the lowest ``layers`` decoder layers as they are.

    An output head that is tied to the embeddings is frozen with them. 0 freezes nothing. The
    frozen part's output is remembered where the architecture allows it (``Trunk``).

    Raises:
        ConfigError: the model has fewer layers.
    """
    if layers == 0:
        return
    stack = decoder_layers(model)
    if layers > len(stack):
        raise ConfigError(
            f"freeze_layers is {layers}, but the model has {len(stack)} layers.",
            where="freeze_layers",
            expected=f"0 to {len(stack)}",
        )
    for module in (*_embeddings(model), *stack[:layers]):
        for parameter in module.parameters():
            parameter.requires_grad_(False)
    if Trunk.fits(model):
        cast(Any, model).trunk = Trunk(model, layers)  # no module: it has no weights of its own


def _embeddings(model: PreTrainedModel) -> list[nn.Module]:
    """What makes the first layer's input: embeddings of tokens and positions, and what follows."""
    return [
        module
        for name, module in model.base_model.named_modules()
        if isinstance(module, nn.Embedding) or name.endswith(_AFTER_EMBEDDINGS)
    ]


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The stack of decoder layers, under whatever name the architecture keeps it."""
    stacks = [m for m in model.base_model.modules() if isinstance(m, nn.ModuleList)]
    return max(stacks, key=len)


def hidden_width(model: PreTrainedModel) -> int:
    """Width of the last hidden states; of OPT 350M it is not its ``hidden_size``."""
    own = own_head(model)
    return cast(nn.Linear, model.get_output_embeddings()).in_features if own is None else own.width


def trainable_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters that training changes, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def load_trainable_state(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Copy saved values into the trainable parameters.

    Raises:
        KeyError: the state has other parameters than the model.
    """
    parameters = trainable_state(model)
    if parameters.keys() != state.keys():
        raise KeyError(f"saved and trainable parameters differ: {parameters.keys() ^ state.keys()}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[name])


def save_model(model: PreTrainedModel, tokenizer: Any, folder: str | Path) -> None:
    """Write a plain Hugging Face folder: safetensors, config, tokenizer, chat template."""
    model.config.use_cache = True
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
