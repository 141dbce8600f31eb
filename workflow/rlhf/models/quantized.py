"""Frozen weights in 4 bits below an adapter: QLoRA.

Dettmers et al. 2023 (arXiv 2305.14314): weights of linear layers are kept as NormalFloat4, a value
of 16 for each weight and a scale for each block of 64, which is quantized in turn. A product widens
them first, so gradients pass through them to the adapters, which are float32. By bitsandbytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from rlhf.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FLAG = "is_loaded_in_4bit"  # of a model, as peft looks for it


def check_quantizing(device: torch.device, engine: str, where: object) -> None:
    """Refuse to quantize where it can't be done, before a model is loaded.

    Args:
        device: what computes.
        engine: the kind that trains.
        where: the key of the setting, for messages.

    Raises:
        ConfigError: there is no GPU, the engine holds slices, or bitsandbytes is not installed.
    """
    if device.type != "cuda":
        raise ConfigError(
            "Weights of 4 bits need a GPU: on a CPU there is nothing to gain from them.",
            where=where,
            expected="a job with a GPU",
            hint="leave adapter.quantize out, or give the stage gpus_per_node: 1 or more",
        )
    if engine != "replicated":
        raise ConfigError(
            f"The engine {engine} can't keep weights of 4 bits: it cuts and widens them.",
            where=where,
            expected="cluster.engine: replicated",
            hint="write it, or leave adapter.quantize out",
        )
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "Weights of 4 bits are bitsandbytes', which is not installed.",
            where=where,
            hint="`make setup`, or install envs/train.txt in the ranks' environment",
        ) from error


def quantize(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Let the linear layers of a model's body keep 4 bits a weight from when a GPU gets them.

    An adapter is added afterwards; what it stands beside is frozen.

    Args:
        model: its weights in place, on the CPU.
        dtype: type of the matrix products.
    """
    from bitsandbytes.nn import Linear4bit, Params4bit

    layers = [
        (name, layer) for name, layer in model.base_model.named_modules()
        if isinstance(layer, nn.Linear)
    ]  # fmt: skip
    for name, layer in layers:
        with torch.device("meta"):
            narrow = Linear4bit(
                layer.in_features,
                layer.out_features,
                bias=layer.bias is not None,
                compute_dtype=dtype,
                compress_statistics=True,
                quant_type="nf4",
            )
        narrow.weight = Params4bit(
            layer.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True,
            module=narrow,
        )  # fmt: skip
        narrow.bias = layer.bias
        model.base_model.set_submodule(name, narrow)
    setattr(model, FLAG, True)


def is_quantized(model: nn.Module) -> bool:
    """Whether ``quantize`` was called with a model."""
    return getattr(model, FLAG, False)
