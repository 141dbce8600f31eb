"""Model folders as they are published: all weights, or an adapter alone beside its base."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch

from rlhf.models.adapter_weights import SavedAdapter
from rlhf.models.publish import write_weights
from rlhf.models.trust import reading
from rlhf.provenance.bases import ADAPTER, bases

Dtype = torch.dtype | Literal["auto"]


def from_folder(loader: Any, folder: str | Path, dtype: Dtype, config: Any = None) -> Any:
    """A model of transformers from a folder; an adapter alone is merged into its base.

    Args:
        loader: one of transformers' automatic classes.
        folder: the model's.
        dtype: type of the weights; ``auto``: as they lie in the files, which are mapped then; of
            an adapter alone float32, as it would have been published whole.
        config: its configuration, changed; None: as it is in the folder.

    Raises:
        IntegrityError: an adapter's base is not there, or is another.
    """
    whole, adapters = _chain(Path(folder))
    if not adapters:
        given = {} if config is None else {"config": config}
        return _load(loader, folder, dtype, **given)
    model = _under(loader, Path(folder), whole, config)
    for name, tensor in _merged(model, model.named_parameters(), adapters):
        model.get_parameter(name).data = tensor
    model.name_or_path = model.config._name_or_path = str(folder)
    return model.to(torch.float32 if dtype == "auto" else dtype)


def write_merged(loader: Any, folder: Path, target: Path) -> None:
    """Write the weights of a model that was published as an adapter alone, one file in memory.

    They are the bytes of the model that would have been published whole: float32.

    Args:
        loader: one of transformers' automatic classes.
        folder: the model's.
        target: folder for the files of weights.

    Raises:
        IntegrityError: an adapter's base is not there, or is another.
        OSError: the disk is full, for one.
    """
    whole, adapters = _chain(folder)
    model = _under(loader, folder, whole)
    parameters = dict(model.named_parameters())
    buffers = {name: each for name, each in model.named_buffers() if name in model.state_dict()}
    plain = _merged(model, (parameters | buffers).items(), adapters)
    wide = ((name, each.float() if each.is_floating_point() else each) for name, each in plain)
    write_weights(model, wide, target)


def _chain(folder: Path) -> tuple[Path, list[SavedAdapter]]:
    """The whole model that a folder's stands on, and the adapters to merge, in that order."""
    below = [folder, *bases(folder)]
    return below[-1], [SavedAdapter(each / ADAPTER) for each in reversed(below[:-1])]


def _load(loader: Any, folder: str | Path, dtype: Dtype, **given: Any) -> Any:
    return loader.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, **given, **reading(folder)
    )


def _under(loader: Any, folder: Path, whole: Path, config: Any = None) -> Any:
    """The model that adapters are merged into, its weights as they lie in the files."""
    from transformers import AutoConfig

    config = config or AutoConfig.from_pretrained(folder, **reading(folder))
    config.dtype = AutoConfig.from_pretrained(whole, **reading(whole)).dtype
    with torch.random.fork_rng(devices=[]):  # it draws a head that the whole model does not have
        return _load(loader, whole, "auto", config=config)


def _merged(
    model: Any, weights: Iterable[tuple[str, torch.Tensor]], adapters: Iterable[SavedAdapter]
) -> Iterator[tuple[str, torch.Tensor]]:
    body = model.base_model_prefix if model.base_model is not model else ""
    scored = hasattr(model, "score")
    for adapter in adapters:
        weights = adapter.merged(weights, body if scored and not adapter.scored else "")
    yield from weights
