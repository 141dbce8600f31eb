"""Chat templates, what they ask of a tokenizer, and the digests that travel in manifests.

The templates are the ``.jinja`` files in this folder; ``{% generation %}`` marks what the
assistant says. ``rlhf.data.encoding`` turns messages into ids with them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf.core.digest import digest_text, digest_value
from rlhf.data.encoding import Encoder, adds_bos, encode_conversation, encode_prompt, encode_reply
from rlhf.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "TEMPLATES",
    "check_tokenizer",
    "encode_conversation",
    "encode_prompt",
    "encode_reply",
    "is_of_package",
    "required_tokens",
    "set_template",
    "template_digest",
    "template_text",
    "tokenizer_digest",
]

_REQUIRED = {
    "chatml": ["<|im_start|>", "<|im_end|>"],
    "oasst": ["<|prompter|>", "<|assistant|>", "<|system|>"],
    "hh": [],
    "deepspeed_chat": [],
}
CODE_FILES = ["chatml.jinja", "deepspeed_chat.jinja", "hh.jinja", "oasst.jinja"]
TEMPLATES = tuple(_REQUIRED)
_BOS = "{{- bos_token -}}\n"


def template_text(name: str) -> str:
    """Jinja source of a template of this package.

    Raises:
        ConfigError: there is no template of this name.
    """
    if name not in _REQUIRED:
        raise ConfigError(
            f"There is no chat template {name!r}.",
            where="models.<name>.template",
            expected=f"one of: own, {', '.join(TEMPLATES)}",
        )
    return Path(__file__).with_name(f"{name}.jinja").read_text(encoding="utf-8").rstrip("\n")


def required_tokens(name: str) -> list[str]:
    """Special tokens that a template writes, besides the tokenizer's own EOS and BOS."""
    template_text(name)
    return list(_REQUIRED[name])


def set_template(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Store a template of this package in a tokenizer, so that it is saved with it.

    A tokenizer that puts BOS before each text gets it from the template too, because
    ``apply_chat_template`` adds no special tokens by itself.
    """
    bos = _BOS if adds_bos(tokenizer) else ""
    tokenizer.chat_template = bos + template_text(name)


def is_of_package(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template that a tokenizer stores is one of this package."""
    template = (tokenizer.chat_template or "").removeprefix(_BOS)
    return any(template == template_text(name) for name in TEMPLATES)


def template_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 of the chat template that the tokenizer stores; ``""`` stands for none."""
    return digest_text(tokenizer.chat_template or "")


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 of all that decides how text becomes ids: vocabulary, merges, normalizer, special ids.

    It depends neither on paths nor on padding and truncation, which calls set and forget.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # a tokenizer in Python: its vocabulary is all that can be read off it
        content = {"class": type(tokenizer).__name__, "vocab": tokenizer.get_vocab()}
    else:
        content = json.loads(backend.to_str())
        content["padding"] = content["truncation"] = None
    special = {
        name: tokenizer.convert_tokens_to_ids(token)
        for name, token in tokenizer.special_tokens_map.items()
        if isinstance(token, str)
    }
    return digest_value({"tokenizer": content, "special": special})


def check_tokenizer(
    tokenizer: PreTrainedTokenizerBase, template: str | None = None, model: str = "<name>"
) -> None:
    """Refuse a tokenizer that would train something wrong without a word.

    Args:
        tokenizer: with or without a stored chat template.
        template: a template of this package, or None (also ``own``) for the stored one.
        model: the model's name in the configuration, for the message.

    Raises:
        ConfigError: pad or EOS is missing; a special token of the template is not one token; or
            the assistant's turn does not end with EOS.
    """
    where = f"models.{model}"
    name = None if template in (None, "own") else template
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            "The tokenizer has no EOS token, so no reply could ever end.",
            where=f"{where}.eos_token",
            expected="the token that ends the assistant's turn",
            hint="set `eos_token`" + (", to <|im_end|>" if template == "chatml" else ""),
        )
    if tokenizer.pad_token_id is None:
        raise ConfigError(
            "The tokenizer has no padding token.",
            where=f"{where}.pad_token",
            expected="a token of its own, never used in text",
            hint="set `pad_token` to a spare token of the vocabulary such as <|endoftext|>, <pad> "
            "or <unk>",
        )
    for token in required_tokens(name) if name else []:
        ids = tokenizer.encode(token, add_special_tokens=False)
        known = tokenizer.added_tokens_decoder.get(ids[0]) if len(ids) == 1 else None
        if known is None or ids[0] == tokenizer.unk_token_id or not known.special:
            raise ConfigError(
                f"The template {template!r} needs {token} as one special token; the tokenizer "
                f"makes {len(ids)} token(s) of it.",
                where=f"{where}.template",
                expected="each special token of the template is one special token of the "
                "vocabulary",
                hint="choose `own`, `hh` or `deepspeed_chat`, or add the tokens to the model's "
                "tokenizer and embeddings",
            )
    if template == "chatml" and tokenizer.eos_token != "<|im_end|>":
        raise ConfigError(
            f"Turns of the template 'chatml' end with <|im_end|>, but EOS is "
            f"{tokenizer.eos_token!r}: replies would never end.",
            where=f"{where}.eos_token",
            expected="<|im_end|>",
            hint="set `eos_token` to <|im_end|>",
        )
    # Encoding a turn checks the template itself: marks, turns as written, EOS at the end.
    if name:
        stored = tokenizer.chat_template
        set_template(tokenizer, name)
        try:
            Encoder(tokenizer, model)
        finally:
            tokenizer.chat_template = stored
    else:
        Encoder(tokenizer, model)
