"""Tiny tokenizers built as those of the model families are: same steps, same special tokens.

The vocabulary is the bytes and 217 merges, written down here, so that ids never depend on how a
trainer breaks ties.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import PreTrainedTokenizerFast

# ``first second`` of each merge, as bytes are written in byte-level vocabularies: Ġ is a space.
WRITTEN = """
a n|Ġ t|s t|h e|r e|Ġ d|i t|Ġ a|Ġ c|Ġt he|e r|i s|u m|a l|a t|i n|o u|Ġ b|Ġ o|Ġ w|Ġ an|Ġ is|
Ġd o|a p|a s|e s|i st|q u|s e|Ġ 0|Ġ 1|Ġ e|Ġ f|Ġ s|Ġ qu|Ġt re|Ġd as|Ġo f|9 9|B a|F r|T he|c e|
e m|e x|h at|n d|o n|o w|s s|s w|y st|Ġ A|Ġ l|Ġ n|Ġ Ba|Ġ Fr|an t|an ce|it h|it y|it al|Ġc ap|
in d|ou r|Ġw ith|Ġan d|Ġan sw|Ġdo g|ist ant|Ġ1 0|Ġe in|Ġf o|Ġtre e|ex t|ss istant|yst em|ĠBa um|
ĠFr ance|Ġcap ital|Ġansw er|0 2|2 02|H um|H ow|I st|J a|M an|P a|S ystem|U nd|W hat|Y ou|a d|
a k|a z|a st|c h|c k|c l|e d|e n|e st|e ast|e ed|g r|g t|h o|h um|i v|i on|i ck|j um|k ind|l an|
l our|m e|m ind|o r|o t|o me|p s|r is|r ow|s er|t ext|u ch|u ser|v er|y cl|y east|Ġ 4|Ġ I|Ġ ist|
Ġ The|Ġ 202|Ġ Ja|Ġ Man|Ġ Pa|Ġ System|Ġ Und|Ġ You|Ġ gr|Ġ hum|Ġ jum|Ġ kind|Ġ mind|Ġ yeast|Ġt ext|
Ġt ho|re st|re at|re ad|Ġa ssistant|Ġa uch|Ġc on|Ġc our|Ġc ycl|Ġc reat|Ġthe n|Ġthe re|Ġthe se|
al t|al ity|at er|ou t|Ġb e|Ġb ak|Ġb row|Ġb read|Ġo ver|Ġw hat|Ġw ater|Ġdo es|ap h|Ġ1 99|Ġe n|
Ġf lour|Ġs ystem|Ġs ome|Ġs alt|Ġqu est|Ġqu ick|Ġqu ality|Ġtre es|ĠA nd|ĠA ssistant|Ġl az|Ġl en|
Ġn eed|Ġn ot|Ġwith out|Ġ10 0|Ġfo x|Ġfo rest|Ġanswer s|Hum an|gt h|iv ity|lan g|Ġ202 4|ĠMan y|
ĠPa ris|Ġgr aph|Ġhum or|Ġjum ps|Ġtho se|Ġcon text|Ġcour se|Ġcycl es|Ġcreat ivity|Ġbak e|Ġbrow n|
Ġ199 9|Ġquest ion|Ġlaz y|Ġlen gth
"""
MERGES = [tuple(merge.split(" ")) for merge in WRITTEN.replace("\n", "").split("|")]
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
# The pattern of the larger byte-level vocabularies: it takes line ends with what stands before.
MODERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(
    specials: list[str],
    *,
    steps: list[Any] | None = None,
    bos: str | None = None,
    normalizer: Any = None,
    last: bool = False,
    **named: str,
) -> Any:
    """A byte-level BPE tokenizer.

    Args:
        specials: its special tokens.
        steps: pre-tokenizers; None: those of GPT-2.
        bos: is put before each text.
        normalizer: of texts.
        last: the special tokens' ids are the highest, not the lowest.
        named: ``eos_token`` and the like, as the tokenizer names them.
    """
    plain = [*BYTES, *("".join(merge) for merge in MERGES)]
    tokens = [*plain, *specials] if last else [*specials, *plain]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, MERGES))
    if normalizer is not None:
        backend.normalizer = normalizer
    steps = [pre_tokenizers.ByteLevel(add_prefix_space=False)] if steps is None else steps
    backend.pre_tokenizer = steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    return finished(backend, specials, bos, named)


def sentence_piece(prefix: str, specials: list[str], **named: str) -> Any:
    """A BPE tokenizer with byte fall-back, as converted from SentencePiece.

    Args:
        prefix: where a space is put: ``segments`` (by a normalizer) or ``first`` (at the start).
        specials: its special tokens.
        named: ``eos_token`` and the like.
    """
    merges = [tuple(part.replace("Ġ", "▁") for part in merge) for merge in MERGES]
    letters = sorted({letter for merge in merges for part in merge for letter in part})
    tokens = [*specials, *(f"<0x{i:02X}>" for i in range(256)), *letters]
    tokens += ["".join(merge) for merge in merges]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    backend = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    if prefix == "segments":
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return finished(backend, specials, "<s>", named)


def finished(backend: Tokenizer, specials: list[str], bos: str | None, named: dict) -> Any:
    backend.add_special_tokens(
        [AddedToken(one, special=True, normalized=False) for one in specials]
    )
    if bos is not None:
        start = (bos, backend.token_to_id(bos))
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[start]
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, **named)


def modern() -> list[Any]:
    split = pre_tokenizers.Split(Regex(MODERN), "isolated")
    return [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]


def neox() -> Any:
    """Pythia and GPT-NeoX: the padding token is there but unnamed."""
    end = "<|endoftext|>"
    return byte_level(
        [end, "<|padding|>"],
        normalizer=normalizers.NFC(),
        bos_token=end,
        eos_token=end,
        unk_token=end,
    )


def gpt2() -> Any:
    """GPT-2, GPT-J, CodeGen, Cerebras-GPT: nothing to pad with but EOS."""
    end = "<|endoftext|>"
    return byte_level([end], last=True, bos_token=end, eos_token=end, unk_token=end)


def opt() -> Any:
    """OPT: BOS is the same token as EOS, and is put before each text."""
    return byte_level(
        ["<s>", "<pad>", "</s>", "<unk>"],
        bos="</s>",
        bos_token="</s>",
        eos_token="</s>",
        unk_token="</s>",
        pad_token="<pad>",
    )


def galactica() -> Any:
    """Galactica: it has special tokens, and names none."""
    return byte_level(["<s>", "<pad>", "</s>", "<unk>", "[START_REF]", "[END_REF]"])


def bloom() -> Any:
    split = pre_tokenizers.Split(Regex(r" ?[^(\s|[.,!?…。，、।۔،])]+"), "isolated")
    return byte_level(
        ["<unk>", "<s>", "</s>", "<pad>"],
        steps=[split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)],
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
    )


def falcon() -> Any:
    digits = pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated")
    return byte_level(
        [">>TITLE<<", ">>ABSTRACT<<", "<|endoftext|>"],
        steps=[
            pre_tokenizers.Punctuation("contiguous"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            pre_tokenizers.Digits(individual_digits=False),
            digits,
        ],
        eos_token="<|endoftext|>",
    )


def llama() -> Any:
    """Llama and Llama 2 as they were: a space before each text after a special token."""
    specials = ["<unk>", "<s>", "</s>"]
    return sentence_piece(
        "segments", specials, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def llama_first() -> Any:
    """Llama 2 without the legacy behaviour: a space at the very start only."""
    specials = ["<unk>", "<s>", "</s>"]
    return sentence_piece("first", specials, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def llama3() -> Any:
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|finetune_right_pad_id|>"]
    return byte_level(
        specials,
        steps=modern(),
        bos=specials[0],
        last=True,
        bos_token=specials[0],
        eos_token=specials[1],
    )


def qwen() -> Any:
    return byte_level(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        steps=modern(),
        normalizer=normalizers.NFC(),
        last=True,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )


def smollm() -> Any:
    """SmolLM2: digits by themselves."""
    return byte_level(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<file_sep>"],
        steps=[
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ],
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        unk_token="<|endoftext|>",
    )


# name → architecture in transformers, tokenizer
FAMILIES: dict[str, tuple[str, Callable[[], Any]]] = {
    "bloom": ("bloom", bloom),
    "codegen": ("codegen", gpt2),
    "cerebras": ("gpt2", gpt2),
    "falcon": ("falcon", falcon),
    "galactica": ("opt", galactica),
    "gpt-j": ("gptj", gpt2),
    "llama": ("llama", llama),
    "llama-first": ("llama", llama_first),
    "llama3": ("llama", llama3),
    "opt": ("opt", opt),
    "pythia": ("gpt_neox", neox),
    "qwen": ("qwen2", qwen),
    "smollm": ("llama", smollm),
}


def for_oasst(name: str) -> Any:
    """The tokenizer of a family, made ready for the template ``oasst``."""
    tokenizer = FAMILIES[name][1]()
    roles = ["<|prompter|>", "<|assistant|>", "<|system|>"]
    tokenizer.add_tokens([AddedToken(one, special=True, normalized=False) for one in roles], True)
    if tokenizer.eos_token is None:
        tokenizer.eos_token = "</s>"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer
