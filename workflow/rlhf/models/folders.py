"""Model folders as they are published: all weights, or an adapter alone beside its base."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from rlhf.core.files import read_json
from rlhf.models.adapter_weights import SavedAdapter
from rlhf.models.prefix_tuning import load_prefix
from rlhf.models.publish import write_weights
from rlhf.models.trust import reading
from rlhf.provenance.bases import ADAPTER, bases

Dtype = torch.dtype | Literal["auto"]
DeviceMap = Mapping[str, int]  # module → GPU


def from_folder(
    loader: Any,
    folder: str | Path,
    dtype: Dtype,
    config: Any = None,
    device_map: DeviceMap | None = None,
) -> Any:
    """A model of transformers from a folder; an adapter alone is merged into its base.

    Args:
        loader: one of transformers' automatic classes.
        folder: the model's.
        dtype: type of the weights; ``auto``: as they lie in the files, which are mapped then;
            where an adapter is merged float32, as it would have been published whole.
        config: its configuration, changed; None: as it is in the folder.
        device_map: where each of its modules goes; None: all stay on the CPU.

    Raises:
        IntegrityError: an adapter's base is not there, or is another.
    """
    whole, *adapters = _chain(Path(folder))
    if not adapters:
        given = {} if config is None else {"config": config}
        return _load(loader, folder, dtype, device_map=device_map, **given)
    prefix = adapters.pop() if has_prefix(folder) else None
    model = _under(loader, Path(folder), whole, config)
    if adapters:
        for name, tensor in _merged(model, model.named_parameters(), adapters):
            model.get_parameter(name).data = tensor
        model = model.to(torch.float32)
    model.name_or_path = model.config._name_or_path = str(folder)
    if prefix is not None:
        load_prefix(model, prefix / ADAPTER)
    model = model if dtype == "auto" else model.to(dtype)
    return model if device_map is None else _placed(model, device_map)


def has_prefix(folder: str | Path) -> bool:
    """Whether what was published in a model's folder is a prefix, which weights can't hold."""
    try:
        settings = read_json(Path(folder) / ADAPTER / "adapter_config.json")
    except FileNotFoundError:
        return False
    return settings["peft_type"] == "PREFIX_TUNING"


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
    whole, *adapters = _chain(folder)
    model = _under(loader, folder, whole)
    parameters = dict(model.named_parameters())
    buffers = {name: each for name, each in model.named_buffers() if name in model.state_dict()}
    plain = _merged(model, (parameters | buffers).items(), adapters)
    wide = ((name, each.float() if each.is_floating_point() else each) for name, each in plain)
    write_weights(model, wide, target)


def _chain(folder: Path) -> list[Path]:
    """The whole model that a folder's stands on, then those with adapters, the folder last."""
    return [folder, *bases(folder)][::-1]


def _load(loader: Any, folder: str | Path, dtype: Dtype, **given: Any) -> Any:
    return loader.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, **given, **reading(folder)
    )


def _placed(model: Any, device_map: DeviceMap) -> Any:
    from accelerate import dispatch_model

    return dispatch_model(model, device_map=dict(device_map))


def _under(loader: Any, folder: Path, whole: Path, config: Any = None) -> Any:
    """The model that adapters are merged into, its weights as they lie in the files."""
    from transformers import AutoConfig

    config = config or AutoConfig.from_pretrained(folder, **reading(folder))
    config.dtype = AutoConfig.from_pretrained(whole, **reading(whole)).dtype
    with torch.random.fork_rng(devices=[]):  # it draws a head that the whole model does not have
        return _load(loader, whole, "auto", config=config)


def _merged(
    model: Any, weights: Iterable[tuple[str, torch.Tensor]], folders: Iterable[Path]
) -> Iterator[tuple[str, torch.Tensor]]:
    body = model.base_model_prefix if model.base_model is not model else ""
    scored = hasattr(model, "score")
    for folder in folders:
        adapter = SavedAdapter(folder / ADAPTER)
        weights = adapter.merged(weights, body if scored and not adapter.scored else "")
    yield from weights
