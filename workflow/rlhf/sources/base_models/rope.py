"""Rotary positions for longer rows than a model was pretrained on.

What is written into the model's configuration says how its frequencies θ_i = b^(−2i/d) change, by
a factor s; the weights stay. transformers and model servers read it.

    linear    θ_i / s: positions are interpolated (Chen et al. 2023, arXiv 2306.15595)
    ntk       base b·s^(d/(d−2)): high frequencies stay (bloc97 2023)
    yarn      by wavelength, and attention is scaled (Peng et al. 2023, arXiv 2309.00071)
    llama3    by wavelength, with Llama 3.1's bounds (Grattafiori et al. 2024, arXiv 2407.21783)
    dynamic   ntk by the longest row of a batch, from the context of pretraining on
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf.errors import ConfigError
from rlhf.models.context import context

LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}  # of Llama 3.1
_REMEMBER = ("yarn", "llama3")  # kinds that ask for the context of pretraining by name
_STRETCHED = ("ntk", *_REMEMBER)  # kinds for which the configuration states the longer context


def scale_positions(config: Any, kind: str, factor: float, where: str) -> None:
    """Change a model's configuration so that its rotary positions are scaled.

    Args:
        config: of a model, as transformers has it; changed in place.
        kind: see above.
        factor: s: how much longer rows get.
        where: the key of the setting, for messages.

    Raises:
        ConfigError: the model has no rotary positions, or they are scaled already.
    """
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None)
    family = f"{text.model_type} models"
    if not rope:
        raise ConfigError(
            f"{family} have no rotary positions that could be scaled.",
            where=where,
            expected="a model with rotary positions (RoPE), such as Llama, Qwen or Pythia",
            hint="leave rope_scaling out, or choose another model",
        )
    if any(isinstance(each, Mapping) for each in rope.values()):
        raise ConfigError(
            f"{family} have rotary positions of several kinds, layer by layer.",
            where=where,
            expected="one kind for all layers",
            hint="leave rope_scaling out; or write it into the config.json of a copy of the model",
        )
    if rope.get("rope_type", "default") != "default":
        raise ConfigError(
            f"The model's rotary positions are scaled already: {rope['rope_type']}.",
            where=where,
            expected="a model as it was pretrained",
            hint="leave rope_scaling out, or start from the model's first version",
        )
    trained = context(config).tokens
    if trained is None:
        raise ConfigError(
            "The model's configuration does not say how long its rows may be.",
            where=where,
            expected="max_position_embeddings",
            hint="write it into the config.json of a copy of the model",
        )
    scaled = dict(rope)
    if kind == "ntk":
        heads = text.num_attention_heads
        width = getattr(text, "head_dim", None) or text.hidden_size // heads
        turned = int(width * rope.get("partial_rotary_factor", 1.0))
        scaled["rope_theta"] = rope["rope_theta"] * factor ** (turned / (turned - 2))
    else:
        scaled |= {"rope_type": kind, "factor": factor}
        scaled |= LLAMA3 if kind == "llama3" else {}
        scaled |= {"original_max_position_embeddings": trained} if kind in _REMEMBER else {}
    text.rope_parameters = scaled
    if kind in _STRETCHED:
        text.max_position_embeddings = int(trained * factor)
