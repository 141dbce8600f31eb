"""An adapter's weights outside of the model: merged into its own, and as peft keeps them."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from rlhf.core.files import read_json, write_json
from rlhf.errors import IntegrityError
from rlhf.models.adapters import NAME, SCORE, adapted_layers, is_adapted
from rlhf.models.parts import write_tensors
from rlhf.models.prefix import EMBEDDINGS, HEAD, WEIGHT, prefix_of

# What peft puts in place of a linear layer, and of a module that is trained whole.
_LAYER = ("base_layer", "lora_A", "lora_B", "lora_magnitude_vector")
_COPY = ("original_module", "modules_to_save")
_PREFIX = "base_model.model."  # of peft's names
_PART = re.compile(rf"(.+)\.({'|'.join(_LAYER + _COPY)})\.(?:{NAME}\.)?(.+)")


Parts = dict[str, dict[str, torch.Tensor]]  # part of an adapted module → name in it → tensor


def merged(
    model: nn.Module,
    weights: Iterable[tuple[str, torch.Tensor]],
    kept: dict[str, torch.Tensor] | None = None,
) -> Iterator[tuple[str, torch.Tensor]]:
    """W' in place of W and its adapter, by the names of the model without one.

    Args:
        model: its adapter's settings are read; without an adapter nothing changes.
        weights: whole tensors by their names in the model, those of a module together.
        kept: gets the adapter's own tensors, as ``adapter_tensors`` gives them.
    """
    if not is_adapted(model):
        yield from weights
        return
    layers = adapted_layers(model)
    for owner, parts in _modules(weights):
        if kept is not None:
            kept |= {name: tensor.cpu() for name, tensor in _published(owner, parts)}
        plain = parts.get("modules_to_save") or parts.get("base_layer") or parts[""]
        if "lora_A" in parts:
            layer = layers[owner]
            scaling, transposed = layer.scaling[NAME], layer.fan_in_fan_out
            plain["weight"] = _merge(plain["weight"], parts, scaling, transposed)
        for leaf, tensor in plain.items():
            yield f"{owner}.{leaf}" if parts.keys() != {""} else owner, tensor


def adapter_tensors(
    model: nn.Module, weights: Iterable[tuple[str, torch.Tensor]]
) -> dict[str, torch.Tensor]:
    """The adapter's own tensors, on the CPU, by the names that peft publishes.

    Args:
        model: has the adapter, or a prefix.
        weights: as ``merged`` takes them.
    """
    if prefix_of(model) is not None:
        head = f"{SCORE}."
        kept = ((n, t.cpu()) for n, t in weights if n == WEIGHT or n.startswith(head))
        return {EMBEDDINGS if n == WEIGHT else f"{HEAD}{n}": tensor for n, tensor in kept}
    return {
        name: tensor.cpu()
        for owner, parts in _modules(weights)
        for name, tensor in _published(owner, parts)
    }


class SavedAdapter:
    """An adapter as ``save_adapter`` wrote it, to be merged into the weights of its base.

    Args:
        folder: the adapter's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._settings: dict[str, Any] = read_json(folder / "adapter_config.json")
        self._modules: dict[str, Parts] = defaultdict(lambda: defaultdict(dict))
        for name, tensor in load_file(folder / "adapter_model.safetensors").items():
            owner, part, leaf = _split_published(name)
            self._modules[owner][part][leaf] = tensor

    @property
    def scored(self) -> bool:
        """Whether it is that of a reward model."""
        return self._settings["task_type"] == "SEQ_CLS"

    def merged(
        self, weights: Iterable[tuple[str, torch.Tensor]], body: str = ""
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """W' in place of W, float32; what the adapter does not change as it is.

        Args:
            weights: whole tensors by their names in the base.
            body: where the base has another head than the model that was adapted, name of what
                both share; the adapter's other modules are passed over.

        Raises:
            IntegrityError: the adapter changes what the base does not have.
        """
        left = {owner for owner in self._modules if not body or owner.startswith(f"{body}.")}
        for name, tensor in weights:
            owner, _, leaf = name.rpartition(".")
            parts = self._modules.get(owner, {})
            changed = parts.get("modules_to_save", {}).get(leaf)
            if changed is None and "lora_A" in parts and leaf == "weight":
                self._check(owner, tensor, parts)
                transposed = self._settings["fan_in_fan_out"]
                changed = _merge(tensor.float(), parts, self._scaling(owner, parts), transposed)
            left.discard(owner)
            yield name, tensor if changed is None else changed
        if left:
            raise self._other_model(f"it has no {min(left)}")

    def _scaling(self, owner: str, parts: Parts) -> float:
        rank = parts["lora_A"]["weight"].shape[0]
        alpha: float = self._settings["alpha_pattern"].get(owner, self._settings["lora_alpha"])
        return alpha / math.sqrt(rank) if self._settings["use_rslora"] else alpha / rank

    def _check(self, owner: str, weight: torch.Tensor, parts: Parts) -> None:
        shape = parts["lora_B"]["weight"].shape[0], parts["lora_A"]["weight"].shape[1]
        own = tuple(weight.T.shape if self._settings["fan_in_fan_out"] else weight.shape)
        if own != shape:
            raise self._other_model(f"its {owner} is {list(own)}, not {list(shape)}")

    def _other_model(self, what: str) -> IntegrityError:
        return IntegrityError(
            f"This adapter does not belong to its base: {what}.",
            where=self._folder,
            expected="the model that it was trained beside",
            hint="run snakemake: it trains what was made from another base again",
        )


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


def _modules(weights: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, Parts]]:
    """Each module with the parts that an adapter makes of it; of one without, name and tensor."""
    for owner, group in groupby(weights, key=lambda named: _split(named[0])[0]):
        parts: Parts = defaultdict(dict)
        for name, tensor in group:
            _, part, leaf = _split(name)
            parts[part][leaf] = tensor
        yield owner, parts


def _split(name: str) -> tuple[str, str, str]:
    """A weight's module, what part of an adapted module it is of, and its name there."""
    part = _PART.fullmatch(name)
    return (part[1], part[2], part[3]) if part else (name, "", "")


@torch.no_grad()
def _merge(
    weight: torch.Tensor,
    parts: Mapping[str, Mapping[str, torch.Tensor]],
    scaling: float,
    transposed: bool,
) -> torch.Tensor:
    """W' of W; both [in, out] where ``transposed``."""
    update = scaling * (parts["lora_B"]["weight"] @ parts["lora_A"]["weight"])
    summed = (weight.T if transposed else weight) + update  # [out, in]
    if norms := parts.get("lora_magnitude_vector"):
        summed *= (norms["weight"] / torch.linalg.norm(summed, dim=1))[:, None]
    return summed.T if transposed else summed


def _published(
    owner: str, parts: Mapping[str, Mapping[str, torch.Tensor]]
) -> Iterator[tuple[str, torch.Tensor]]:
    """The trained parts of a module by peft's names."""
    for part in ("lora_A", "lora_B"):
        for leaf, tensor in parts.get(part, {}).items():
            yield f"{_PREFIX}{owner}.{part}.{leaf}", tensor
    for tensor in parts.get("lora_magnitude_vector", {}).values():
        yield f"{_PREFIX}{owner}.lora_magnitude_vector", tensor
    for leaf, tensor in parts.get("modules_to_save", {}).items():
        yield f"{_PREFIX}{owner}.{leaf}", tensor


def _split_published(name: str) -> tuple[str, str, str]:
    """``_split`` of one of peft's names."""
    owner, _, leaf = name.removeprefix(_PREFIX).rpartition(".")
    if leaf == "lora_magnitude_vector":
        return owner, leaf, "weight"
    inner, _, part = owner.rpartition(".")
    return (inner, part, leaf) if part in _LAYER else (owner, "modules_to_save", leaf)
