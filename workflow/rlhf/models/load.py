"""Language models from plain Hugging Face folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from rlhf.models.folders import DeviceMap, Dtype, from_folder
from rlhf.models.head import find_head
from rlhf.models.roots import TokenScorer
from rlhf.models.trust import reading


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer of a model folder; the network is never asked."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, **reading(folder))


def load_token_scorer(
    folder: str | Path, dtype: Dtype = torch.float32, device_map: DeviceMap | None = None
) -> TokenScorer:
    """A language model from a plain folder, dropout disabled, in training mode.

    Args:
        folder: the model's.
        dtype: type of the weights; ``auto``: as they lie in the files, which are mapped then.
        device_map: where its modules go, from their files right to there; None: to the CPU.

    Raises:
        ConfigError: its logits do not follow from its last hidden states (``find_head``).
    """
    from transformers import AutoModelForCausalLM

    hush()
    model = from_folder(AutoModelForCausalLM, folder, dtype, device_map=device_map)
    disable_dropout(model)
    return TokenScorer(model, find_head(model, folder))


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
