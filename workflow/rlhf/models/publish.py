"""A trained model as a plain Hugging Face folder."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist

from rlhf.core.files import write_json
from rlhf.models.adapter_weights import adapter_tensors, merged, save_adapter
from rlhf.models.adapters import is_adapted
from rlhf.models.backbone import Backbone
from rlhf.models.parts import bounded, write_tensors
from rlhf.provenance.bases import ADAPTER, write_base

MAX_BYTES = 5 * 10**9  # of one file of weights
Named = Iterable[tuple[str, torch.Tensor]]


def below(weights: Named, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights whose names begin with ``prefix``, which is cut off; the others are passed over.

    All of ``weights`` is taken, for ranks may have to give each together.
    """
    for name, tensor in weights:
        if name.startswith(prefix):
            yield name.removeprefix(prefix), tensor


def save_model(
    root: Backbone,
    weights: Named,
    tokenizer: Any,
    folder: Path,
    max_bytes: int = MAX_BYTES,
    base: dict[str, str] | None = None,
) -> None:
    """Write safetensors, config, tokenizer and chat template; one file of weights in memory.

    An adapter is merged into the weights, and stands beside them too, as peft reads it; or alone.
    Rank 0 alone writes: another rank that calls this gives its parts of the weights.

    Args:
        root: holds the model, for all but its weights.
        weights: whole tensors by their names in the model, tied ones once.
        tokenizer: the model's.
        folder: where to.
        max_bytes: of one file of weights; the names of several are in an index.
        base: what an adapter stands on that is published alone (``describe_base``).

    Raises:
        OSError: the disk is full, for one.
    """
    if dist.is_initialized() and dist.get_rank() != 0:
        for _ in weights:
            pass
        return
    model = root.model
    adapter: dict[str, torch.Tensor] = {}
    if base is None:
        save_weights(root, merged(model, weights, adapter), folder, max_bytes)
    else:
        _save_config(model, folder)
        adapter = adapter_tensors(model, weights)
    if is_adapted(model):
        save_adapter(model, adapter, folder / ADAPTER)
    if base is not None:
        write_base(folder, base)
    tokenizer.save_pretrained(folder)


def save_weights(root: Backbone, weights: Named, folder: Path, max_bytes: int = MAX_BYTES) -> None:
    """Write safetensors and config; one file of weights in memory.

    Args:
        root: holds the model, for all but its weights.
        weights: whole tensors by their names in the model without an adapter, tied ones once.
        folder: where to.
        max_bytes: of one file of weights; the names of several are in an index.

    Raises:
        OSError: the disk is full, for one.
    """
    _save_config(root.model, folder)
    write_weights(root.model, weights, folder, max_bytes)


def _save_config(model: Any, folder: Path) -> None:
    """All that transformers publishes but the weights."""
    model.config.use_cache = True
    with without_deepspeed():
        model.save_pretrained(folder, state_dict={})


def write_weights(model: Any, weights: Named, folder: Path, max_bytes: int = MAX_BYTES) -> None:
    """Write the weights alone, one file of them in memory.

    Args:
        model: says how its weights are published.
        weights: whole tensors by the names of a model without an adapter, tied ones once.
        folder: where to.
        max_bytes: of one file; the names of several are in an index.

    Raises:
        OSError: the disk is full, for one.
    """
    left_out = set(model._keys_to_ignore_on_save or ())
    kept = ((name, tensor) for name, tensor in weights if name not in left_out)
    groups: list[tuple[Path, dict[str, int]]] = []
    buffers, parameters = {name for name, _ in model.named_buffers()}, 0
    for group in bounded(_as_published(model, kept), max_bytes):
        path = folder / f"part-{len(groups)}.safetensors"
        write_tensors(path, group, {"format": "pt"})
        groups.append((path, {name: tensor.nbytes for name, tensor in group.items()}))
        # Counted here: a model that is kept in parts does not know how many it has.
        parameters += sum(each.numel() for name, each in group.items() if name not in buffers)
    if len(groups) == 1:
        groups[0][0].rename(folder / "model.safetensors")
    else:
        _number(folder, groups, parameters)


@contextmanager
def without_deepspeed() -> Iterator[None]:
    """Save a model of transformers without loading DeepSpeed, where it is installed but not used.

    transformers would load it to see whether the model is wrapped in its engine.
    """
    unused = "deepspeed" not in sys.modules
    if unused:
        sys.modules["deepspeed"] = cast(Any, None)  # as Python notes what can't be imported
    try:
        yield
    finally:
        if unused:
            del sys.modules["deepspeed"]


def _as_published(model: Any, weights: Named) -> Named:
    """The weights under the names and in the layout in which transformers publishes them.

    Few architectures are kept otherwise in memory; theirs are taken whole, for one tensor in
    memory may stand for many in a file.
    """
    if not getattr(model, "_weight_conversions", None):
        return weights
    from transformers.core_model_loading import revert_weight_conversion

    return revert_weight_conversion(model, dict(weights)).items()


def _number(folder: Path, groups: list[tuple[Path, dict[str, int]]], parameters: int) -> None:
    """Name the files as transformers does, and write their index."""
    places: dict[str, str] = {}
    for number, (path, group) in enumerate(groups, start=1):
        name = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        path.rename(folder / name)
        places |= dict.fromkeys(group, name)
    size = sum(bytes_ for _, group in groups for bytes_ in group.values())
    metadata = {"total_parameters": parameters, "total_size": size}
    write_json(
        folder / "model.safetensors.index.json", {"metadata": metadata, "weight_map": places}
    )
