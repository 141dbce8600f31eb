"""Tokenizers that are trained in a moment, and message trees."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CORPUS = [
    "How do I bake bread? You need flour, water, yeast and salt.",
    "The quick brown fox jumps over the lazy dog; the dog does not mind.",
    "Human: what is a tree? Assistant: a tree is a graph without cycles.",
    "Ist das ein Baum? Ja, das ist ein Baum.\n\nUnd das auch.\n",
] * 20
SPECIAL = ["<|pad|>", "<|im_start|>", "<|im_end|>", "<|prompter|>", "<|assistant|>", "<|system|>"]
SPECIAL += ["<s>", "</s>"]


def train(bos: bool) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    if bos:
        start = backend.token_to_id("<s>")
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", start)]
        )
    names = {"eos_token": "</s>", "pad_token": "<|pad|>"} | ({"bos_token": "<s>"} if bos else {})
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


@pytest.fixture(scope="session")
def trained() -> dict[bool, Any]:
    return {bos: train(bos) for bos in (False, True)}


@pytest.fixture
def make_tokenizer(trained: dict[bool, Any]) -> Callable[..., Any]:
    """(template, bos) → a tokenizer of one's own with that template stored."""

    def make(template: str | None = "chatml", bos: bool = False) -> Any:
        from rlhf.data.templates.chat import set_template

        tokenizer = copy.deepcopy(trained[bos])
        if template == "chatml":
            tokenizer.eos_token = "<|im_end|>"
        if template is not None:
            set_template(tokenizer, template)
        return tokenizer

    return make


@pytest.fixture
def write_lines(tmp_path: Path) -> Callable[..., Path]:
    """Objects (or raw text lines) → a JSON lines file."""

    def write(*lines: Any, name: str = "data.jsonl") -> Path:
        texts = [one if isinstance(one, str) else json.dumps(one) for one in lines]
        path = tmp_path / name
        path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
        return path

    return write


@pytest.fixture
def rows_of(write_lines: Callable[..., Path]) -> Callable[..., Any]:
    """(format, objects, options) → the rows that a file of these objects becomes."""

    def rows_of(name: str, *records: Any, **options: Any) -> Any:
        from rlhf.data.formats.source import load

        return load(name, write_lines(*records), options)

    return rows_of


@pytest.fixture
def read(write_lines: Callable[..., Path]) -> Callable[..., tuple[Any, list[Any]]]:
    """(format, objects, options) → what was counted, and the rows."""

    def read(name: str, *records: Any, **options: Any) -> tuple[Any, list[Any]]:
        from rlhf.data.formats.source import Source

        source = Source(name, write_lines(*records), options)
        return source.faults, list(source)

    return read
