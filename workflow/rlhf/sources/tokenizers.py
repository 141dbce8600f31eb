"""Settle a model's special tokens: template, end of turn, padding, and the rows that they need."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Sequence
from typing import Any

from rlhf.data import outside
from rlhf.data.encoding import adds_bos
from rlhf.data.templates.chat import check_tokenizer, required_tokens, set_template
from rlhf.errors import ConfigError
from rlhf.sources.families import Family, family_of

logger = logging.getLogger(__name__)

OWN = "own"
# Names that models give to tokens made for padding, or never written in a conversation.
PAD_NAMES = (
    "<pad>",
    "[PAD]",
    "<|pad|>",
    "<|padding|>",
    "<|finetune_right_pad_id|>",
    "<|endoftext|>",
    "<unk>",
)
EOS_NAMES = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "</s>", "<eos>", "<|endoftext|>", "[SEP]")
PROBE = "\ue000reply\ue001"  # private use characters: in no template


def prepare_tokenizer(
    tokenizer: Any,
    model: Any,
    template: str | None,
    pad_token: str | None,
    eos_token: str | None,
    where: str,
    *,
    new_tokens: Sequence[str] = (),
    multiple: int = 1,
    date: str | None = None,
) -> list[str]:
    """Give a tokenizer its template and special tokens, and a model the rows and ids to match.

    New rows of the embeddings are the mean of the old ones: no token starts out as an outlier,
    and no random state is used.

    Args:
        tokenizer: changed in place.
        model: changed in place: embeddings, ``config`` and ``generation_config``.
        template: name of a template, or None or ``"own"`` for the model's own.
        pad_token: padding token (added when new), or None for the model's own.
        eos_token: token that ends a turn, or None for the one that the template writes.
        where: configuration key of the model, such as ``models.base``.
        new_tokens: special tokens to add first; ``eos_token`` may be one of them.
        multiple: the embeddings get rows up to a multiple of this.
        date: what the model's own template writes for the date of the day, as 2024-07-26.

    Returns:
        The tokens that were added to the vocabulary.
    """
    known = len(tokenizer)
    name = None if template in (None, OWN) else template
    required = list(required_tokens(name)) if name else []
    if name:
        set_template(tokenizer, name)
    else:
        _settle_own(tokenizer, where)
    if date is not None:
        _stop_clock(tokenizer, date, where)
    family = family_of(model.config.model_type, tokenizer.get_vocab())
    added = _add(tokenizer, [*new_tokens, *required])
    _set_eos(tokenizer, eos_token, family, where)
    added += _set_pad(tokenizer, pad_token, required, family, where)
    check_tokenizer(tokenizer, name, where.rpartition(".")[2])
    _grow_embeddings(model, known, len(tokenizer), multiple)
    _set_ids(model, tokenizer)
    if added:
        logger.info("%s: added to the vocabulary: %s", where, ", ".join(added))
    return added


def _settle_own(tokenizer: Any, where: str) -> None:
    """The one template of a tokenizer: of several, the one for dialogues without tools."""
    templates = tokenizer.chat_template
    if isinstance(templates, dict):
        tokenizer.chat_template = templates.get("default")
        logger.info("%s.template: 'default' of %s", where, ", ".join(sorted(templates)))
    if not tokenizer.chat_template:
        raise ConfigError(
            "The model has no chat template of its own"
            + (
                f" for plain dialogues, only: {', '.join(sorted(templates))}." if templates else "."
            ),
            where=f"{where}.template",
            expected="the name of a template",
            hint="base models have none: set template to chatml, oasst, hh or deepspeed_chat",
        )


def _stop_clock(tokenizer: Any, date: str, where: str) -> None:
    """Write a date into the template, so that all who read it write the same."""
    if not outside.reads_clock(tokenizer.chat_template):
        raise ConfigError(
            "The chat template reads no clock, so there is no date to set.",
            where=f"{where}.template_date",
            hint="leave template_date out",
        )
    tokenizer.chat_template = outside.with_date(
        tokenizer.chat_template, datetime.date.fromisoformat(date)
    )


def _add(tokenizer: Any, tokens: list[str]) -> list[str]:
    """Make tokens special; return those that the vocabulary did not have."""
    from transformers import AddedToken

    vocabulary = tokenizer.get_vocab()
    special = {str(one) for one in tokenizer.added_tokens_decoder.values() if one.special}
    tokenizer.add_tokens(
        [AddedToken(one, special=True, normalized=False) for one in tokens if one not in special],
        special_tokens=True,
    )
    return [token for token in tokens if token not in vocabulary]


def split_digits(tokenizer: Any) -> Any:
    """The tokenizer with a token for each digit, as a tokenizer of no particular class.

    The class of an architecture may rebuild its steps when it is loaded, and so undo the change.
    """
    from tokenizers import Tokenizer, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    steps, digits = backend.pre_tokenizer, pre_tokenizers.Digits(individual_digits=True)
    if steps is None:
        backend.pre_tokenizer = digits
    else:
        # A step that puts a space before what it is given must not be given single digits.
        spaced = "".join(piece for piece, _ in steps.pre_tokenize_str("a")) != "a"
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [steps, digits] if spaced else [digits, steps]
        )
    named = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=tokenizer.chat_template,
        model_max_length=tokenizer.model_max_length,
        clean_up_tokenization_spaces=False,
        **named,
    )


def _set_eos(tokenizer: Any, eos_token: str | None, family: Family | None, where: str) -> None:
    """The token that ends a turn, which is where a generation stops."""
    if eos_token is not None and eos_token not in tokenizer.get_vocab():
        raise ConfigError(
            f"The vocabulary has no token {eos_token!r}.",
            where=f"{where}.eos_token",
            expected=_candidates(tokenizer, EOS_NAMES),
            hint="a new one has to be in `new_tokens` too",
        )
    if eos_token is not None:
        _add(tokenizer, [eos_token])
        tokenizer.eos_token = eos_token
    written = _end_of_turn(tokenizer)
    if eos_token is None and written is not None:
        tokenizer.eos_token = written
    if tokenizer.eos_token is None and family:
        tokenizer.eos_token = next(one for one in family.eos if one in tokenizer.get_vocab())
        _add(tokenizer, [tokenizer.eos_token])
        written = _end_of_turn(tokenizer)
    if tokenizer.eos_token is None:
        raise ConfigError(
            "The model names no end-of-sequence token, and its template writes none.",
            where=f"{where}.eos_token",
            expected=_candidates(tokenizer, EOS_NAMES),
            hint="set it to the token that ends an assistant's turn",
        )
    if written is not None and written != tokenizer.eos_token:
        raise ConfigError(
            f"The template ends a reply with {written!r}, not with {tokenizer.eos_token!r}.",
            where=f"{where}.eos_token",
            expected=written,
            hint="leave eos_token out, or choose another template: a model never learns to write "
            "a token that its template does not write",
        )


def _end_of_turn(tokenizer: Any) -> str | None:
    """The special token that the template writes right after a reply."""
    conversation = [
        {"role": "user", "content": "question"},
        {"role": "assistant", "content": PROBE},
    ]
    try:
        text = tokenizer.apply_chat_template(conversation, tokenize=False)
    except Exception:  # templates may demand other roles or a tokenizer with EOS: then it is silent
        return None
    rest = text.partition(PROBE)[2].lstrip()
    special = {str(one) for one in tokenizer.added_tokens_decoder.values() if one.special}
    special |= {tokenizer.eos_token} - {None}
    return max((token for token in special if rest.startswith(token)), key=len, default=None)


def _set_pad(
    tokenizer: Any, pad_token: str | None, required: list[str], family: Family | None, where: str
) -> list[str]:
    """A padding token that is not EOS, so that masking padding never masks an end.

    Only where a family has no other does EOS pad.
    """
    key, eos = f"{where}.pad_token", tokenizer.eos_token
    if pad_token is None and tokenizer.pad_token in (None, eos):
        pad_token = _unused(tokenizer, required, family)
        if pad_token is not None:
            logger.info("%s: %s", key, pad_token)
    if family and family.pads_with_eos and (pad_token or tokenizer.pad_token or eos) == eos:
        logger.info("%s: EOS (%s), as the family %s has no other token", key, eos, family.name)
        tokenizer.pad_token = eos
        return []
    pad_token = pad_token if pad_token is not None else tokenizer.pad_token
    if pad_token is None or pad_token == eos:
        what = "is the same as EOS" if pad_token else "is missing"
        raise ConfigError(
            f"The padding token {what}.",
            where=key,
            expected=_candidates(tokenizer, PAD_NAMES),
            hint="name one of these, or a new one such as <pad>: it is added",
        )
    if pad_token in required:
        raise ConfigError(
            f"The padding token {pad_token!r} is a token of the template.",
            where=key,
            expected=_candidates(tokenizer, PAD_NAMES),
        )
    added = _add(tokenizer, [pad_token])
    tokenizer.pad_token = pad_token
    return added


def _unused(tokenizer: Any, required: list[str], family: Family | None) -> str | None:
    """A token to pad with, where the tokenizer names none or EOS: the family's, or its own."""
    vocabulary, taken = tokenizer.get_vocab(), {tokenizer.eos_token, *required}
    names = list(family.pad) if family else []
    if tokenizer.pad_token is not None:
        names += [one for one in (tokenizer.unk_token, *PAD_NAMES) if one != tokenizer.bos_token]
    if adds_bos(tokenizer):
        taken.add(tokenizer.bos_token)
    return next((one for one in names if one in vocabulary and one not in taken), None)


def _candidates(tokenizer: Any, names: tuple[str, ...]) -> str:
    """What the vocabulary offers: conventional names first, then other special tokens."""
    vocabulary = tokenizer.get_vocab()
    found = [name for name in names if name in vocabulary]
    found += sorted(
        str(one)
        for one in tokenizer.added_tokens_decoder.values()
        if one.special and str(one) not in found
    )
    found = [token for token in found if token != tokenizer.eos_token]
    return (
        f"one of {', '.join(found[:8])}"
        if found
        else "a token (the vocabulary has no special ones)"
    )


def _grow_embeddings(model: Any, known: int, size: int, multiple: int) -> None:
    """Rows for new tokens, and up to the multiple, in the input and the output embeddings."""
    import torch

    rows = model.get_input_embeddings().num_embeddings
    wanted = -(-max(size, rows) // multiple) * multiple
    if wanted > rows:
        model.resize_token_embeddings(wanted, mean_resizing=False)  # its mean is drawn at random
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    parameters = [inputs.weight]
    if outputs is not None and outputs.weight is not inputs.weight:
        parameters.append(outputs.weight)
    if getattr(outputs, "bias", None) is not None:
        parameters.append(outputs.bias)
    with torch.no_grad():
        for parameter in parameters:
            mean = parameter[:known].float().mean(0).to(parameter.dtype)
            parameter[known:size] = mean
            parameter[rows:wanted] = mean


def _set_ids(model: Any, tokenizer: Any) -> None:
    """The same ids in all the places where a library may look for them."""
    from transformers import GenerationConfig

    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    for key, value in ids.items():
        setattr(model.config, key, value)
    # A new one, not the model's: temperatures and the like that came with a model would silently
    # change what a rollout samples.
    model.generation_config = GenerationConfig(**ids)
