"""A model in memory, and the checks that any way of loading one shares."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.errors import DataError, RlhfError


@dataclass
class Loaded:
    """A model in memory, and what is known of its origin.

    Attributes:
        model: the causal language model.
        tokenizer: its tokenizer.
        identity: what pins the source down: version, revision or digest.
        licence: as the source states it, or None.
        root: the folder that it was read from, or None.
        brings_code: whether it runs code of its own, which then belongs to it.
    """

    model: Any
    tokenizer: Any
    identity: dict[str, Any]
    licence: str | None
    root: Path | None = None
    brings_code: bool = False


@contextlib.contextmanager
def loading(what: str, where: str) -> Iterator[None]:
    """Turn whatever a loader raises on a damaged or foreign model into a sentence."""
    try:
        yield
    except (RlhfError, MemoryError):
        raise
    except Exception as error:
        if "trust_remote_code" in str(error):
            model = where.partition(".source")[0]
            raise DataError(
                f"{what} brings its own code (auto_map), which is not run.",
                where=where,
                expected="a causal language model of an architecture that transformers has",
                hint=f"choose another model; or read the code, and if you trust it with all that "
                f"you may do yourself, set {model}.trust_remote_code: true",
            ) from error
        raise DataError(
            f"{what} cannot be loaded: {type(error).__name__}: {str(error).splitlines()[0]}"
            if str(error)
            else f"{what} cannot be loaded: {type(error).__name__}",
            where=where,
            expected="a causal language model of an architecture that transformers has",
            hint="a damaged file? fetch the model anew, or load it by hand with transformers",
        ) from error


def load_complete(
    folder: Path, what: str, *, trust_remote_code: bool = False, **options: Any
) -> Any:
    """The causal language model of a folder that holds all its weights.

    Args:
        folder: where its files are.
        what: name of the model in messages.
        trust_remote_code: whether the model may run the code that it brings.
        options: further arguments of ``from_pretrained``.

    Raises:
        DataError: weights are absent; they would silently be random.
    """
    from transformers import AutoModelForCausalLM

    # Annotated as if nobody could ask for `info`.
    found: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        local_files_only=True,
        trust_remote_code=trust_remote_code,
        output_loading_info=True,
        **options,
    )
    model, info = found
    missing = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if missing:
        raise DataError(
            f"{len(missing)} weights are missing or of another shape: {', '.join(missing[:3])} …",
            where=what,
            expected="all weights of a causal language model",
            hint="a reward model or an encoder cannot be a base model",
        )
    return model
