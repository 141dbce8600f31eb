"""An adapter's weights outside of the model: merged into its own, and as peft keeps them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rlhf.core.files import write_json
from rlhf.models.adapters import NAME, adapted_layers, is_adapted
from rlhf.models.parts import write_tensors

# What peft puts in place of a linear layer, and of a module that is trained whole.
_LAYER = ("base_layer", "lora_A", "lora_B", "lora_magnitude_vector")
_COPY = ("original_module", "modules_to_save")
_PART = re.compile(rf"(.+)\.({'|'.join(_LAYER + _COPY)})\.(?:{NAME}\.)?(.+)")


def merged(
    model: nn.Module,
    weights: Iterable[tuple[str, torch.Tensor]],
    kept: dict[str, torch.Tensor] | None = None,
) -> Iterator[tuple[str, torch.Tensor]]:
    """W' in place of W and its adapter, by the names of the model without one.

    Args:
        model: its adapter's settings are read; without an adapter nothing changes.
        weights: whole tensors by their names in the model, those of a module together.
        kept: gets the adapter's own tensors, on the CPU, by the names that peft publishes.
    """
    if not is_adapted(model):
        yield from weights
        return
    layers = adapted_layers(model)
    for owner, group in groupby(weights, key=lambda named: _split(named[0])[0]):
        parts: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
        for name, tensor in group:
            _, part, leaf = _split(name)
            parts[part][leaf] = tensor
        if kept is not None:
            kept |= {name: tensor.cpu() for name, tensor in _published(owner, parts)}
        plain = parts.get("modules_to_save") or parts.get("base_layer") or parts[""]
        if "lora_A" in parts:
            plain["weight"] = _merge(layers[owner], parts)
        for leaf, tensor in plain.items():
            yield f"{owner}.{leaf}" if parts.keys() != {""} else owner, tensor


def save_adapter(model: nn.Module, tensors: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write an adapter as peft reads it.

    Args:
        model: holds its settings.
        tensors: what ``merged`` kept.
        folder: where to; it is made.

    Raises:
        OSError: the disk is full, for one.
    """
    peft_config: Any = model.peft_config
    values = peft_config[NAME].to_dict() | {"inference_mode": True}
    folder.mkdir()
    settings = {k: sorted(v) if isinstance(v, set) else v for k, v in values.items()}
    write_json(folder / "adapter_config.json", settings)
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_tensors(folder / "adapter_model.safetensors", whole, {"format": "pt"})


def _split(name: str) -> tuple[str, str, str]:
    """A weight's module, what part of an adapted module it is of, and its name there."""
    part = _PART.fullmatch(name)
    return (part[1], part[2], part[3]) if part else (name, "", "")


@torch.no_grad()
def _merge(layer: Any, parts: Mapping[str, Mapping[str, torch.Tensor]]) -> torch.Tensor:
    update = layer.scaling[NAME] * (parts["lora_B"]["weight"] @ parts["lora_A"]["weight"])
    weight = parts["base_layer"]["weight"]
    summed = (weight.T if layer.fan_in_fan_out else weight) + update  # [out, in]
    if norms := parts.get("lora_magnitude_vector"):
        summed *= (norms["weight"] / torch.linalg.norm(summed, dim=1))[:, None]
    return summed.T if layer.fan_in_fan_out else summed


def _published(
    owner: str, parts: Mapping[str, Mapping[str, torch.Tensor]]
) -> Iterator[tuple[str, torch.Tensor]]:
    """The trained parts of a module by peft's names."""
    for part in ("lora_A", "lora_B"):
        for leaf, tensor in parts.get(part, {}).items():
            yield f"base_model.model.{owner}.{part}.{leaf}", tensor
    for tensor in parts.get("lora_magnitude_vector", {}).values():
        yield f"base_model.model.{owner}.lora_magnitude_vector", tensor
    for leaf, tensor in parts.get("modules_to_save", {}).items():
        yield f"base_model.model.{owner}.{leaf}", tensor
