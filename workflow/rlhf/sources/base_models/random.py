"""Tiny untrained models, each with a tokenizer trained for it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlhf.core.digest import digest_file
from rlhf.core.seeds import derived_seed
from rlhf.errors import ConfigError, DataError
from rlhf.sources.base_models.loaded import Loaded

logger = logging.getLogger(__name__)

RANDOM_DEFAULTS: dict[str, Any] = {
    "architecture": "llama",
    "hidden_size": 64,
    "layers": 2,
    "heads": 4,
    "kv_heads": None,  # as many as heads
    "intermediate_size": None,  # four times hidden_size
    "context_length": 2048,
    "vocab_size": 512,
    "tie_embeddings": True,
    "tokenizer_text": None,
    "seed": 0,
}
RANDOM_ARCHITECTURES = ("llama", "mistral", "qwen2", "gpt_neox")
RANDOM_SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def load_random(source: dict[str, Any], dtype: str | None, where: str, _trust: bool) -> Loaded:
    """A tiny untrained model, for tests and smoke runs."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    where = f"{where}.source.random"
    given = {key: value for key, value in source["random"].items() if value is not None}
    if unknown := sorted(set(given) - set(RANDOM_DEFAULTS)):
        raise ConfigError(
            f"A random model has no key {unknown[0]!r}.",
            where=f"{where}.{unknown[0]}",
            expected=", ".join(RANDOM_DEFAULTS),
        )
    values = RANDOM_DEFAULTS | given
    if values["architecture"] not in RANDOM_ARCHITECTURES:
        raise ConfigError(
            f"Random models of architecture {values['architecture']!r} are not supported.",
            where=f"{where}.architecture",
            expected=" | ".join(RANDOM_ARCHITECTURES),
        )
    hidden, heads = values["hidden_size"], values["heads"]
    if hidden % (2 * heads):
        raise ConfigError(
            f"hidden_size {hidden} does not divide among {heads} heads of even size.",
            where=f"{where}.heads",
            expected="hidden_size a multiple of 2 × heads (rotary embeddings pair the dimensions)",
        )
    tokenizer = _train_tokenizer(values["tokenizer_text"], values["vocab_size"], where)
    config = AutoConfig.for_model(
        values["architecture"],
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=values["intermediate_size"] or 4 * hidden,
        num_hidden_layers=values["layers"],
        num_attention_heads=heads,
        num_key_value_heads=values["kv_heads"] or heads,
        max_position_embeddings=values["context_length"],
        tie_word_embeddings=values["tie_embeddings"],
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):  # the caller's random state is none of our business
        torch.manual_seed(derived_seed(values["seed"], "random model"))
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model = model.to(getattr(torch, dtype or "float32"))
    text = values.pop("tokenizer_text")
    identity = {"kind": "random", **values, "tokenizer_text": digest_file(text) if text else None}
    return Loaded(model, tokenizer, identity, None)


def _train_tokenizer(text: str | None, vocab_size: int, where: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    smallest = len(RANDOM_SPECIALS) + 256
    if vocab_size < smallest:
        raise ConfigError(
            f"A vocabulary of {vocab_size} does not hold every byte.",
            where=f"{where}.vocab_size",
            expected=f"at least {smallest}",
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=RANDOM_SPECIALS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = _texts(Path(text), f"{where}.tokenizer_text") if text else iter(())
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() < vocab_size:
        logger.info("vocabulary: %d; the text gives no more", tokenizer.get_vocab_size())
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )


def _texts(path: Path, where: str) -> Iterator[str]:
    """The lines of a text file, or every string in a JSON lines file."""
    if not path.is_file():
        raise ConfigError(
            "There is no such text file.",
            where=f"{where}: {path}",
            expected="a .txt or .jsonl file",
        )
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            if path.suffix != ".jsonl":
                yield line
            elif line.strip():
                try:
                    yield from _strings(json.loads(line))
                except ValueError as error:
                    raise DataError(f"Not JSON: {error}", where=f"{path}:{number}") from None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _strings(one)
