"""What a model family calls its special tokens, for tokenizers that do not say.

Many base models name no padding token, some not even EOS. What stands here fills the gaps only:
the configuration comes first, then the tokenizer. After Open-Assistant's tokenizer settings,
except that Llama pads with ``<unk>`` and not with EOS.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """Special tokens of a family.

    Attributes:
        name: as people call it.
        architectures: ``model_type`` of its configurations.
        marker: a token that tells it from other families of these architectures; None: none needed.
        eos: names of the token that ends a turn, the first that the vocabulary has.
        pad: names of the padding token, likewise.
        pads_with_eos: where EOS is the only token to pad with, padding is EOS. Nothing here takes
            a token for padding by its id, and no embedding of these families leaves it out.
    """

    name: str
    architectures: tuple[str, ...]
    eos: tuple[str, ...]
    pad: tuple[str, ...] = ()
    marker: str | None = None
    pads_with_eos: bool = False


END, IM_END = "<|endoftext|>", "<|im_end|>"
# The first that fits is taken, so markers come before the rest of an architecture.
FAMILIES = (
    Family("pythia", ("gpt_neox",), eos=(END,), pad=("<|padding|>",)),
    Family("galactica", ("opt",), eos=("</s>",), pad=("<pad>",), marker="[START_REF]"),
    Family("opt", ("opt",), eos=("</s>",), pad=("<pad>",)),
    Family("bloom", ("bloom",), eos=("</s>",), pad=("<pad>",)),
    Family("gpt-j", ("gptj",), eos=(END,), pad=(END,), pads_with_eos=True),
    Family("codegen", ("codegen",), eos=(END,), pad=(END,), pads_with_eos=True),
    Family("cerebras", ("gpt2",), eos=(END,), pad=(END,), pads_with_eos=True),
    Family("falcon", ("falcon",), eos=(END,), pad=(END,), pads_with_eos=True),
    Family("qwen", ("qwen2", "qwen3"), eos=(IM_END, END), pad=(END, IM_END)),
    Family("smollm", ("llama",), eos=(IM_END, END), pad=(END, IM_END), marker=IM_END),
    Family(
        "llama3",
        ("llama",),
        eos=("<|eot_id|>", "<|end_of_text|>"),
        pad=("<|finetune_right_pad_id|>", "<|reserved_special_token_0|>"),
        marker="<|begin_of_text|>",
    ),
    Family("llama", ("llama", "mistral"), eos=("</s>",), pad=("<unk>",), marker="<unk>"),
)


def family_of(architecture: str, vocabulary: Collection[str]) -> Family | None:
    """The family of a model.

    Args:
        architecture: ``model_type`` of its configuration.
        vocabulary: its tokens.
    """
    return next(
        (
            one
            for one in FAMILIES
            if architecture in one.architectures
            and (one.marker is None or one.marker in vocabulary)
            and any(token in vocabulary for token in one.eos)
        ),
        None,
    )
