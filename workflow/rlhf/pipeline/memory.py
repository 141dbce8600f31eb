"""Memory of training and sampling, in bytes a rank: the formulas of ``docs/memory.md``.

Weights, gradients and AdamW's moments are float32: 4 + 4 + 8 bytes a trained parameter, of which
sharding leaves each rank a part (Rajbhandari et al. 2020, arXiv 1910.02054, section 5). Bytes of
activations are what torch's graph keeps of transformers' layers, counted; a test counts again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rlhf.models.spread import share_out
from rlhf.pipeline.shapes import Shape
from rlhf.runtime.options import EngineKind, Offload

GB = 1e9
QUANTIZED = (4 + 0.127) / 8  # bytes of a weight with its scales: Dettmers et al. 2023, section 3
# Of models.logprobs: probabilities that are kept, and logits that are there at a time.
KEPT_PROBABILITIES, CHUNK = 2**26, 2**24
# CUDA's context, NCCL's buffers and cuBLAS's workspace of a process on a GPU.
CONTEXT = 1.5 * GB


@dataclass(frozen=True)
class Model:
    """A transformer in a stage.

    Attributes:
        shape: its sizes.
        scored: whether a score takes the place of the output head.
        frozen_layers: decoder layers that are not trained, and then the embeddings are not.
        rank: of adapters beside the layers' matrices; they alone are trained then. 0: none.
        narrow: whether matrices that are not trained are held in 16 bits.
        trains: whether anything is trained.
        prefix: tokens whose keys and values in every layer alone are trained. 0: none.
        quantized: whether the frozen weights of the layers are kept in 4 bits.
        averaged: whether a moving average of the trained weights is kept.
        narrow_moments: whether AdamW's moments are kept in 8 bits, but for the embeddings'.
        q_heads: heads over the whole vocabulary for the values of tokens, each with a copy that
            follows it; with them stands one for the values of states.
    """

    shape: Shape
    scored: bool = False
    frozen_layers: int = 0
    rank: int = 0
    narrow: bool = False
    trains: bool = True
    prefix: int = 0
    quantized: bool = False
    averaged: bool = False
    narrow_moments: bool = False
    q_heads: int = 0

    @property
    def adapted(self) -> bool:
        """Whether what is trained stands beside the model's own weights."""
        return bool(self.rank or self.prefix)

    @property
    def other(self) -> int:
        """Parameters outside of the layers."""
        scored = self.shape.head_parameters if self.scored else 0
        return self.shape.other_parameters - scored + self.value_heads + self.targets

    @property
    def value_heads(self) -> int:
        """Those of the heads for the values of states and tokens."""
        return self.targets + _value_head(self.shape.hidden, 1) if self.q_heads else 0

    @property
    def targets(self) -> int:
        """Those of the copies that follow the heads for the values of tokens."""
        return self.q_heads * _value_head(self.shape.hidden, self.shape.vocabulary)

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.shape.layers * self.shape.layer_parameters + self.other

    @property
    def head(self) -> int:
        """Those of an output head of its own."""
        return 0 if self.scored else self.shape.head_parameters

    @property
    def narrow_layers(self) -> int:
        """Layers whose matrices are held in 16 bits."""
        every = self.adapted or not self.trains
        return (self.shape.layers if every else self.frozen_layers) if self.narrow else 0

    @property
    def weight_bytes(self) -> float:
        """Of all weights: 4 each, but 2 of a narrow matrix, and half of one of layers in 4 bits."""
        head = self.head if self.narrow and (self.adapted or not self.trains) else 0
        layer = self.shape.layer_parameters
        if self.quantized:
            layers = QUANTIZED * self.shape.layers * layer
        else:
            layers = (4.0 * self.shape.layers - 2 * self.narrow_layers) * layer
        return layers + 4 * self.other - 2 * head

    @property
    def trained(self) -> int:
        """Those that are trained."""
        if not self.trains:
            return 0
        heads = self.value_heads
        if self.prefix:
            keys = self.shape.kv_heads * self.shape.head_width
            return self.shape.layers * 2 * keys * self.prefix + heads
        if self.rank:
            return self.shape.layers * self.rank * self.shape.linear_features + heads
        if not self.frozen_layers:
            return self.parameters - self.targets
        layers = self.shape.layers - self.frozen_layers
        return layers * self.shape.layer_parameters + self.head + heads

    @property
    def moment_bytes(self) -> float:
        """AdamW's moments, two of 4 bytes or of 1 with a scale for 256; and a moving average."""
        average = 4 * self.trained if self.averaged else 0
        if not self.narrow_moments:
            return 8 * self.trained + average
        whole = self.trains and not self.adapted and not self.frozen_layers
        embeddings = self.shape.vocabulary * self.shape.hidden if whole else 0
        return 8 * embeddings + 2 * (1 + 4 / 256) * (self.trained - embeddings) + average


def _value_head(hidden: int, outputs: int) -> int:
    """Parameters of two layers with biases, the first of twice the width."""
    return (hidden + 1) * 2 * hidden + (2 * hidden + 1) * outputs


@dataclass(frozen=True)
class Setting:
    """How an engine keeps what it holds.

    Attributes:
        kind: the kind of engine.
        ranks: over which slices are spread.
        offload: what is kept in the memory of the CPUs.
        checkpointing: whether activations are computed again in the backward pass.
    """

    kind: EngineKind = "replicated"
    ranks: int = 1
    offload: Offload = "none"
    checkpointing: bool = False


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass.

    Attributes:
        tokens: padded tokens.
        longest: of them in one row.
        narrow: whether matrix products are bfloat16 or float16.
        eager: whether attention keeps scores, in every family.
    """

    tokens: int
    longest: int
    narrow: bool = True
    eager: bool = False


@dataclass(frozen=True)
class _Kept:
    """Bytes of one layer that the graph keeps of a token: multiples of H, of the width of keys
    and values, of I, and of heads × tokens of the row where scores are kept (eager attention).
    """

    hidden: float
    kv: float
    inner: float
    scores: float = 0

    def bytes(self, shape: Shape, longest: int) -> float:
        return (
            self.hidden * shape.hidden
            + self.kv * shape.kv_heads * shape.head_width
            + self.inner * shape.inner
            + self.scores * shape.heads * longest
        )


# Family → under autocast to bfloat16 over a float32 residual stream, and in float32.
_LLAMA = (_Kept(30, 4, 8), _Kept(32, 8, 16))
_KEPT = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": (_Kept(36, 10, 8), _Kept(40, 16, 16)),
    "olmo2": (_Kept(46, 4, 8), _Kept(48, 8, 16)),
    "gpt_neox": (_Kept(18, 4, 4), _Kept(32, 8, 8)),
    "opt": (_Kept(20, 4, 2), _Kept(24, 8, 4)),
    "bloom": (_Kept(16, 4, 4, 6), _Kept(24, 8, 8, 4)),
    "gptj": (_Kept(30, 4, 6.5, 6), _Kept(52, 8, 11, 4)),
    "gpt2": (_Kept(30, 4, 6.5), _Kept(52, 8, 13)),
}
_OTHERS = _KEPT["olmo2"]  # the most of those with a gate


def layer_bytes(shape: Shape, batch: Pass) -> float:
    """Activations of one layer for the backward pass."""
    narrow, wide = _KEPT.get(shape.family, _OTHERS)
    kept = narrow if batch.narrow else wide
    if batch.eager:
        # Probabilities in float32, and as the products take them.
        kept = replace(kept, scores=6 if batch.narrow else 4)
    return batch.tokens * kept.bytes(shape, batch.longest)


def activation_bytes(model: Model, setting: Setting, batch: Pass) -> float:
    """Activations of all layers and of what stands before and after them.

    With checkpointing a layer keeps its input, float32, and one layer at a time all of it.
    """
    shape = model.shape
    layers = shape.layers - model.frozen_layers
    ends = batch.tokens * 20 * shape.hidden  # embeddings, last norm and its float32 copies
    if not setting.checkpointing:
        return layers * layer_bytes(shape, batch) + ends
    return layers * batch.tokens * 4 * shape.hidden + layer_bytes(shape, batch) + ends


def logits_bytes(model: Model, batch: Pass) -> float:
    """The output head: probabilities, a chunk of logits, its weight as products take it."""
    if model.scored:
        return 0
    shape = model.shape
    numbers = batch.tokens * shape.vocabulary
    kept = (1 + model.q_heads) * 4 * numbers if numbers <= KEPT_PROBABILITIES else 0
    width = 2 if batch.narrow else 4
    matrix = shape.vocabulary * shape.hidden
    # The gradient of the head in the type of the products, and its narrow copy; heads for the
    # values of tokens are twice as wide, and a gradient of one's rows stands beside the sum.
    copies = (width + (2 if batch.narrow else 0)) * matrix
    copies += model.q_heads * 2 * (width + (2 if batch.narrow else 0) + 4) * matrix
    # What such heads keep of a token: their layer between, twice, and rows of the matrix.
    inner = batch.tokens * 2 * shape.hidden * 4 * 4 * (2 * model.q_heads + bool(model.q_heads))
    return kept + 12 * min(numbers, CHUNK) + copies + inner


def state_bytes(models: Iterable[Model], setting: Setting) -> dict[str, float]:
    """Weights, gradients and moments on the GPU, and what of them is on the host instead.

    Returns:
        ``weights``, ``gradients``, ``moments`` and ``host``.
    """
    chosen = list(models)
    every = sum(model.weight_bytes for model in chosen)
    trained = sum(model.trained for model in chosen)
    kind, ranks = setting.kind, setting.ranks
    zero = kind.startswith("zero")
    whole, part = 1.0, 1.0 / ranks
    state = {
        "weights": every * (part if kind in ("fsdp", "zero3") else whole),
        "gradients": 4 * trained * (whole if kind in ("replicated", "zero1") else part),
        # DeepSpeed keeps a second copy of the trained weights, to update.
        "moments": (sum(model.moment_bytes for model in chosen) + (4 * trained if zero else 0))
        * (whole if kind == "replicated" else part),
    }
    leaves = {
        "none": (),
        "optimizer": ("moments", "gradients") if kind != "zero1" else ("moments",),
        "all": tuple(state),
    }[setting.offload]
    host = sum(state[name] for name in leaves)
    return {name: 0.0 if name in leaves else size for name, size in state.items()} | {"host": host}


def copies_bytes(models: Iterable[Model], setting: Setting, batch: Pass) -> float:
    """What is gathered, cast or reduced while passes go on.

    Replicas and ZeRO-1 and 2 keep narrow copies of all weights from the forward to the backward
    pass. FSDP and ZeRO-3 gather two layers at a time. What is outside of the layers stays gathered,
    and its whole gradient is there before it is reduced. ZeRO-2 and 3 make a flat copy of a rank's
    gradients to update with.
    """
    chosen, ranks = list(models), setting.ranks
    width = 2 if batch.narrow else 4
    largest = max(model.shape.layer_parameters for model in chosen)
    flat = 4 * sum(model.trained for model in chosen) / ranks
    total = flat if setting.kind in ("zero2", "zero3") else 0.0
    if setting.kind in ("fsdp", "zero3"):
        others = sum(_others_bytes(model, setting) for model in chosen)
        return total + (3 * width + 8) * largest + others
    for model in chosen:
        shape = model.shape
        wide = shape.layers - model.narrow_layers if batch.narrow else 0
        # Weights of 4 bits are widened for one product at a time.
        total += width * (1 if model.quantized else wide) * shape.layer_parameters
        # A new gradient of the embeddings stands beside the sum that it is added to.
        total += 4 * shape.vocabulary * shape.hidden
    return total if setting.kind == "replicated" else total + 8 * largest  # DeepSpeed's buckets


def _others_bytes(model: Model, setting: Setting) -> float:
    """What is gathered outside of the layers, and its gradient.

    FSDP gathers embeddings and head apart, where they are two: while the head's gradient is
    reduced, it is there twice, and the embeddings are not.
    """
    each = 4 if model.frozen_layers or model.adapted else 8
    heads = 8 * model.value_heads + 4 * model.targets
    other = model.other - model.value_heads - model.targets
    if setting.kind != "fsdp":
        return each * other + heads
    trained_head = 0 if model.adapted else model.head
    return each * (other - model.head) + (12 - each) * trained_head + heads


def training_bytes(models: Sequence[Model], setting: Setting, batch: Pass) -> dict[str, float]:
    """A rank's memory of training on its GPU, by component.

    Args:
        models: what is trained.
        setting: how the engine keeps it.
        batch: the largest pass.
    """
    state = state_bytes(models, setting)
    return {
        **{name: state[name] for name in ("weights", "gradients", "moments")},
        "working copies": copies_bytes(models, setting, batch),
        "activations": sum(activation_bytes(model, setting, batch) for model in models),
        "logits": sum(logits_bytes(model, batch) for model in models),
    }


def held_bytes(model: Model, width: int, gpus: int) -> tuple[float, float]:
    """A model that is not trained, on the fullest of its GPUs: bytes, and its share of the layers.

    Args:
        model: the model.
        width: bytes of a weight.
        gpus: over which its layers are spread; the first has all else.
    """
    layers = [float(width * model.shape.layer_parameters)] * model.shape.layers
    other = float(width * model.other)
    room = other + sum(layers) / gpus + layers[0]
    places = share_out(other, layers, [room] * gpus) or []
    counts = [places.count(gpu) for gpu in range(gpus)]
    fullest = max(count * layers[0] + other * (gpu == 0) for gpu, count in enumerate(counts))
    return fullest, max(counts) / len(layers)


def cache_bytes(shape: Shape, columns: int, width: int) -> float:
    """Keys and values of a row that is sampled.

    Args:
        shape: the model's.
        columns: tokens of prompt and response.
        width: bytes of a number.
    """
    return 2.0 * width * shape.layers * shape.kv_heads * shape.head_width * columns
