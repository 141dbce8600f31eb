"""How many tokens a model takes at once, and the refusal of runs that may have more.

Models with learned positions fail beyond; those with rotary ones go on, at positions that they
never saw in training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.errors import ConfigError
from rlhf.models.trust import reading

# Their frequencies follow from the longest row of a batch, beyond the context of pretraining: a
# row's result would depend on its neighbours.
BY_BATCH = ("dynamic", "longrope")
_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len")


@dataclass(frozen=True)
class Context:
    """What a model takes.

    Attributes:
        tokens: in one row at most; None: any number.
        why: what else is to be known about the limit, or nothing.
    """

    tokens: int | None
    why: str = ""


def context_of(folder: str | Path) -> Context:
    """The context of a model folder; the weights are not read."""
    from transformers import AutoConfig

    return context(AutoConfig.from_pretrained(folder, **reading(folder)))


def context(config: Any) -> Context:
    """The context of a model, by its configuration; scaled rotary positions count as scaled.

    Args:
        config: a model's configuration, as transformers has it.
    """
    config = config.get_text_config()
    named = [getattr(config, name, None) for name in _NAMES]
    trained = next((one for one in named if isinstance(one, int) and one > 0), None)
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    apart = [one for one in rope.values() if isinstance(one, Mapping)]  # layers of several kinds
    for one in apart or [rope]:
        kind = _kind(one)
        if kind in BY_BATCH:
            original = _original(config, one) if kind == "longrope" else None
            return Context(
                original or trained,
                f"with rope_type {kind} a longer row would change what stands beside it",
            )
    if trained is None or apart:
        return Context(trained)
    return Context(max(trained, _scaled(config, rope, trained)))


def check_length(found: Context, tokens: int, keys: str, model: object) -> None:
    """Refuse rows that may be longer than what the model takes.

    Args:
        found: the model's context.
        tokens: the longest row that these keys allow.
        keys: keys of the configuration; where there are several, their values add up.
        model: what to call the model.

    Raises:
        ConfigError: it takes fewer.
    """
    if found.tokens is None or tokens <= found.tokens:
        return
    raise ConfigError(
        f"Rows may have {tokens} tokens; {model} takes at most {found.tokens}"
        + (f": {found.why}." if found.why else "."),
        where=keys,
        expected=f"{found.tokens} or fewer" + (" in all" if "+" in keys else ""),
        hint=f"lower {'one of them' if '+' in keys else 'it'}, or choose a model with a longer "
        "context",
    )


def _kind(rope: Mapping[str, Any]) -> str:
    return str(rope.get("rope_type") or rope.get("type") or "default")


def _original(config: Any, rope: Mapping[str, Any]) -> int | None:
    """Tokens in pretraining, where the context was extended afterwards."""
    name = "original_max_position_embeddings"
    return getattr(config, name, None) or rope.get(name)


def _scaled(config: Any, rope: Mapping[str, Any], trained: int) -> int:
    """Tokens that the scaling of rotary positions is made for."""
    factor = rope.get("factor")
    if _kind(rope) not in ("linear", "yarn", "llama3") or not factor:
        return trained
    return int(factor * (_original(config, rope) or trained))
