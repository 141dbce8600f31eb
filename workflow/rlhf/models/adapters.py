"""Low-rank adapters: small trained matrices beside the frozen weights of a transformer.

A linear layer with weights W [out, in] gets B [out, r] and A [r, in], and computes W' x with

    W' = W + s·B·A,  s = α/r                LoRA, Hu et al. 2021 (arXiv 2106.09685), equation 3
                     s = α/√r               rsLoRA, Kalajdzievski 2023 (arXiv 2312.03732)
    W' = m ⊙ (W + s·B·A) / ‖W + s·B·A‖      DoRA, Liu et al. 2024 (arXiv 2402.09353), equation 5

‖·‖ being the norm of each row, and m [out] trained from ‖W‖ on. B is zero at first, so W' = W.

peft's layers stand in the model in place of its own, and the model stays what it was: whoever looks
for its layers, its head or its body finds them. Outside of it weights are plain ones
(``models.adapter_weights``).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rlhf.core.seeds import derived_seed
from rlhf.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ALL_LINEAR = "all-linear"
SCORE = "score"  # head of a reward model
NAME = "default"  # of the one adapter that a model has


@dataclass(frozen=True)
class Lora:
    """An adapter's settings.

    Attributes:
        rank: r.
        alpha: α.
        dropout: share of the inputs of A that are dropped where gradients are computed.
        dora: train the norms of the rows apart.
        rank_stabilized: s = α/√r.
        target_modules: ends of the names of the layers that get one, or ``all-linear``.
        modules_to_save: ends of the names of modules that are trained whole.
        rank_pattern: ends of the names of some of the layers → their rank.
        alpha_pattern: likewise → their α.
    """

    rank: int
    alpha: float
    dropout: float
    dora: bool
    rank_stabilized: bool
    target_modules: Sequence[str] | str
    modules_to_save: Sequence[str]
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]


def add_adapter(
    model: PreTrainedModel, lora: Lora, seed: int, where: object, number: int = 0
) -> None:
    """Put an adapter into a model, in place; all else of it is frozen.

    The score of a reward model is trained too.

    Args:
        model: its weights in place.
        lora: the adapter's settings.
        seed: the run's; A's weights are drawn from U(−1/√in, 1/√in).
        where: the key of the settings, for messages.
        number: tells a run's models apart.

    Raises:
        ConfigError: a name is not that of a layer, or a layer can't be adapted.
    """
    from peft import LoraConfig, inject_adapter_in_model

    targets = _targets(model, lora.target_modules, where)
    whole = _whole(model, lora.modules_to_save, targets, where)
    has_score = isinstance(getattr(model, SCORE, None), nn.Module)
    config = LoraConfig(
        base_model_name_or_path=model.name_or_path,
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # a fraction works as well
        lora_dropout=lora.dropout,
        use_dora=lora.dora,
        use_rslora=lora.rank_stabilized,
        target_modules=_shortened(model, targets),
        rank_pattern=_by_layer(lora.rank_pattern, targets, f"{where}.rank_pattern"),
        alpha_pattern=_by_layer(lora.alpha_pattern, targets, f"{where}.alpha_pattern"),
        modules_to_save=sorted({*whole, *([SCORE] if has_score else [])}) or None,
        task_type="SEQ_CLS" if has_score else "CAUSAL_LM",
        fan_in_fan_out=not isinstance(model.get_submodule(targets[0]), nn.Linear),
    )
    with torch.random.fork_rng(devices=[]):  # it draws weights, which are drawn anew
        try:
            inject_adapter_in_model(config, model)
        except ValueError as error:  # such as a layer of Mamba whose weights are used elsewhere
            raise ConfigError(
                f"An adapter does not fit {type(model).__name__}: {error}",
                where=f"{where}.target_modules",
                hint="name the layers that get one, without those that can't",
            ) from error
    generator = torch.Generator().manual_seed(derived_seed(seed, "adapter", number))
    for name, layer in adapted_layers(model).items():
        _initialize(layer, generator)
        if lora.dora and not layer.lora_magnitude_vector[NAME].weight.all():
            raise ConfigError(
                f"DoRA divides by the norms of a layer's rows, and {name} has rows of zeros.",
                where=f"{where}.dora",
                hint="leave dora out, or the layer, by target_modules",
            )


class _Dropout(nn.Dropout):
    """Dropout where gradients are computed: validating and sampling know none."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return super().forward(inputs) if torch.is_grad_enabled() else inputs


@torch.no_grad()
def _initialize(layer: Any, generator: torch.Generator) -> None:
    """A random, B zero, m the norms of W: float32, whatever the type of the frozen weights."""
    down, up = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
    down.data = nn.init.kaiming_uniform_(
        torch.empty(down.shape), a=math.sqrt(5), generator=generator
    )
    up.data = torch.zeros(up.shape)
    if NAME in layer.lora_magnitude_vector:
        layer.lora_magnitude_vector[NAME].update_layer(
            base_layer=layer.get_base_layer(),
            lora_A=down,
            lora_B=up,
            scaling=layer.scaling[NAME],
        )
    if layer.lora_dropout[NAME].__class__ is nn.Dropout:
        layer.lora_dropout[NAME] = _Dropout(layer.lora_dropout[NAME].p)


def is_adapted(model: nn.Module) -> bool:
    """Whether ``add_adapter`` was called with a model, or with one in it."""
    return any(hasattr(part, "peft_config") for part in model.modules())


def adapted_layers(model: nn.Module) -> dict[str, Any]:
    """Name → peft's layer, of each layer that has an adapter."""
    from peft.tuners.lora import LoraLayer

    return {name: part for name, part in model.named_modules() if isinstance(part, LoraLayer)}


@contextlib.contextmanager
def switched_off(model: nn.Module) -> Iterator[None]:
    """The model as it was before ``add_adapter``, with the weights that it had then.

    peft's own switch also changes which parameters are trained, and what shards a model has to
    know that beforehand.
    """
    parts: list[Any] = [part for part in model.modules() if hasattr(part, "_disable_adapters")]
    for part in parts:
        part._disable_adapters = True
    try:
        yield
    finally:
        for part in parts:
            part._disable_adapters = False


def _targets(model: PreTrainedModel, wanted: Sequence[str] | str, where: object) -> list[str]:
    """Names of the layers that get an adapter."""
    from transformers.pytorch_utils import Conv1D

    body = set(model.base_model.modules())
    linear = [
        name
        for name, module in model.named_modules()
        if module in body and isinstance(module, (nn.Linear, Conv1D))
    ]
    if wanted == ALL_LINEAR and linear:
        return linear
    wanted = [wanted] if isinstance(wanted, str) else wanted
    missing = [want for want in wanted if not any(_ends(name, want) for name in linear)]
    if missing:
        known = sorted({name.rpartition(".")[2] for name in linear})
        raise ConfigError(
            f"No linear layer of {type(model).__name__} is called {', '.join(missing)}.",
            where=f"{where}.target_modules",
            expected=f"some of {', '.join(known)}" if known else "linear layers",
            hint="name layers that the model has, or write all-linear; a head can be trained whole "
            "by modules_to_save",
        )
    return [name for name in linear if any(_ends(name, want) for want in wanted)]


def _by_layer(pattern: Mapping[str, Any], targets: Sequence[str], where: str) -> dict[str, Any]:
    """Full name of each layer that a pattern means → its value, by the longest end that fits.

    Raises:
        ConfigError: an end is that of no layer with an adapter.
    """
    values: dict[str, Any] = {}
    for end in sorted(pattern, key=len):
        names = [name for name in targets if _ends(name, end)]
        if not names:
            raise ConfigError(
                f"No adapted layer is called {end}.",
                where=where,
                expected=f"some of {', '.join(sorted({n.rpartition('.')[2] for n in targets}))}",
                hint="name layers that target_modules names too",
            )
        values |= dict.fromkeys(names, pattern[end])
    return values


def _shortened(model: nn.Module, names: Sequence[str]) -> list[str]:
    """The ends of these names where they are those of no other module; else the names."""
    ends = sorted({name.rpartition(".")[2] for name in names})
    meant = [name for name, _ in model.named_modules() if any(_ends(name, end) for end in ends)]
    return ends if meant == list(names) else list(names)


def _whole(
    model: PreTrainedModel, wanted: Sequence[str], targets: Sequence[str], where: object
) -> list[str]:
    """Full names of the modules that are trained whole, if all can be: peft knows no dots here."""
    problems = []
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    tied = getattr(ends[1], "weight", None) is ends[0].weight
    for want in wanted:
        names = [name for name, _ in model.named_modules() if name and _ends(name, want)]
        modules = [model.get_submodule(name) for name in names]
        if not names:
            problems.append(f"no module is called {want}")
        elif any(isinstance(module, (nn.ModuleList, nn.ModuleDict)) for module in modules):
            problems.append(f"{want} is a list of modules")
        elif any(f"{target}.".startswith(f"{name}.") for name in names for target in targets):
            problems.append(f"{want} has adapters, by target_modules")
        elif tied and any(module in ends for module in modules):
            problems.append(f"embeddings and head are one matrix, of which {want} is a part")
    if problems:
        known = sorted({name.rpartition(".")[2] for name, part in model.named_modules()
                        if name and any(True for _ in part.parameters(recurse=False))})  # fmt: skip
        raise ConfigError(
            f"These modules of {type(model).__name__} can't be trained whole beside an adapter: "
            f"{'; '.join(problems)}.",
            where=f"{where}.modules_to_save",
            expected=f"modules without adapters, of {', '.join(known)}",
            hint="leave them out of the list",
        )
    return [name for name, _ in model.named_modules() if any(_ends(name, w) for w in wanted)]


def _ends(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")
