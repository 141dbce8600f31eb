"""Tokenizers that are trained in a moment."""

from __future__ import annotations

from typing import Any

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
