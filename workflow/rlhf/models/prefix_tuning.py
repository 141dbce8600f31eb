"""Adding a prefix to a model, copying it, keeping it as peft does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import nn

from rlhf.core.files import read_json
from rlhf.core.seeds import derived_seed
from rlhf.errors import ConfigError, IntegrityError
from rlhf.models.abilities import cache_problem
from rlhf.models.adapters import NAME, SCORE
from rlhf.models.head import probe, quiet
from rlhf.models.prefix import EMBEDDINGS, HEAD, MODULE, Prefix, cache_of, prefix_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

STD = 0.02  # of a new prefix: small beside keys and values, and not the same for all tokens


def add_prefix(
    model: PreTrainedModel, tokens: int, seed: int, where: object, number: int = 0
) -> None:
    """Put a prefix before all that a model reads, in place; all else of it is frozen.

    The score of a reward model is trained too. A model that was loaded with a prefix goes on with
    it, and without the new one it is the model with the old.

    Args:
        model: its weights in place.
        tokens: n, keys and values of each layer.
        seed: the run's; the prefix is drawn from N(0, 0.02²).
        where: the key of the settings, for messages.
        number: tells a run's models apart.

    Raises:
        ConfigError: its layers do not keep plain keys and values, or it has a prefix of another
            length.
    """
    generator = torch.Generator().manual_seed(derived_seed(seed, "prefix", number))
    before = prefix_of(model)
    start = None if before is None else before.encoder.get_parameter("embedding.weight").data
    if start is not None and len(start) != tokens:
        raise ConfigError(
            f"The run starts from a prefix of {len(start)} tokens.",
            where=f"{where}.virtual_tokens",
            expected=str(len(start)),
            hint="write that number, or start from the model that the prefix was trained for",
        )
    if problem := cache_problem(model):
        raise _no_prefix(problem, where)
    model.requires_grad_(False)
    made = _attach(model, tokens, _keys(model), None if start is None else start.clone())
    weight = made.encoder.get_parameter("embedding.weight")
    shape = weight.shape
    weight.data = STD * torch.randn(shape, generator=generator) if start is None else start.float()
    if isinstance(score := getattr(model, SCORE, None), nn.Module):
        score.requires_grad_(True)
    if problem := _problem(model):
        raise _no_prefix(problem, where)


def load_prefix(model: PreTrainedModel, folder: Path) -> None:
    """Put a prefix that was published before what a model reads, and its score in place.

    Raises:
        IntegrityError: the prefix is another model's.
    """
    keys, tensors = _keys(model), load_file(folder / "adapter_model.safetensors")
    weight = tensors.pop(EMBEDDINGS)
    made = _attach(model, len(weight), keys, None)
    own = made.encoder.get_parameter("embedding.weight")
    settings, known = read_json(folder / "adapter_config.json"), dict(model.named_parameters())
    names = {name: name.removeprefix(HEAD) for name in tensors}
    heads = settings["num_attention_heads"]
    theirs = settings["num_layers"], heads, settings["token_dim"] // heads
    if keys != theirs or not {*names.values()} <= known.keys():
        raise IntegrityError(
            "This prefix does not belong to its base.",
            where=folder,
            expected="the model that it was trained for",
            hint="run snakemake: it trains what was made from another base again",
        )
    own.data = weight
    for name, tensor in tensors.items():
        known[names[name]].data = tensor
    own.requires_grad_(False)


def copy_prefix(model: PreTrainedModel, copy: PreTrainedModel, weight: torch.Tensor) -> None:
    """Give a copy of a model the same prefix, with this weight."""
    prefix = prefix_of(model)
    assert prefix is not None
    made = _attach(copy, len(weight), prefix.keys, prefix.start)
    made.encoder.get_parameter("embedding.weight").data = weight


@torch.no_grad()
def _keys(model: PreTrainedModel) -> tuple[int, int, int]:
    """Layers, heads of keys and values, and features of a head, as a model keeps them.

    Not every configuration says: some have names for what other architectures use.
    """
    with quiet(model):
        made = model.base_model(input_ids=probe(model)[:1], use_cache=True).past_key_values
    _, heads, _, width = made.layers[0].keys.shape
    return len(made.layers), heads, width


def _attach(
    model: Any, tokens: int, keys: tuple[int, int, int], start: torch.Tensor | None
) -> Prefix:
    from peft import PrefixTuningConfig
    from peft.tuners.prefix_tuning import PrefixEncoder

    layers, heads, width = keys
    scored = hasattr(model, SCORE)
    settings = PrefixTuningConfig(
        base_model_name_or_path=model.name_or_path,
        task_type="SEQ_CLS" if scored else "CAUSAL_LM",
        num_virtual_tokens=tokens,
        token_dim=heads * width,
        num_transformer_submodules=1,
        num_attention_heads=heads,
        num_layers=layers,
        modules_to_save=[SCORE] if scored else None,
    )
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):  # it draws, to be drawn anew
        prefix = Prefix(PrefixEncoder(settings), keys, start)
    setattr(model, MODULE, prefix)
    model.peft_config = {NAME: settings}
    return prefix


@torch.no_grad()
def _problem(model: PreTrainedModel) -> str:
    """Why a model does not attend to a prefix, or nothing: tried on a tiny input."""
    name = f"{type(model).__name__} ({model.config.model_type})"
    ids = probe(model)[:1]
    try:
        with quiet(model):
            rows = [
                model.base_model(input_ids=ids, use_cache=False, **given).last_hidden_state
                for given in ({}, cache_of(model))
            ]
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        said = " ".join([f"{type(error).__name__}:", *str(error).splitlines()[:1]])
        return f"a few tokens of {name} after a prefix end in {said}"
    return f"{name} passes over it" if torch.equal(*rows) else ""


def _no_prefix(problem: str, where: object) -> ConfigError:
    return ConfigError(
        f"This model can't have a prefix: {problem}.",
        where=f"{where}.kind",
        expected="a model whose layers keep keys and values of one shape",
        hint="write kind: lora, or choose a model of another architecture",
    )
