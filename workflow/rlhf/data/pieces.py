"""Pieces of a text to ids, so that they join to the ids of the whole.

Most tokenizers give a piece the same ids wherever it stands. Those of the Llama family put a
space before a text: some before each text that follows a special token, some only at the very
start. A piece that stands elsewhere is tokenized without that space.
"""

from __future__ import annotations

import json
import re
from array import array
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

Ids: TypeAlias = "array[int]"  # 32 bits each; joining and storing them takes no object for each id
Places = Literal["nowhere", "segments", "start"]

REMEMBERED = 2**18  # words whose ids a tokenizer keeps, some 50 MB; its own 10,000 are soon full


class Pieces:
    """Tokenizes pieces with a tokenizer.

    Args:
        tokenizer: a tokenizer; one in Python is taken to put no space anywhere.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        self._bare, self._places = _without_space(self._backend)
        for backend in (self._backend, self._bare):
            model: Any = getattr(backend, "model", None)
            if hasattr(model, "_resize_cache"):  # whole words are in no need of one
                model._resize_cache(REMEMBERED)
        added = tokenizer.added_tokens_decoder.items()
        self._special = {token.content: one for one, token in added if token.special}

    def __reduce__(self) -> tuple[type[Pieces], tuple[PreTrainedTokenizerBase]]:
        # made anew in another process: a pickled tokenizer forgets how much it may remember
        return Pieces, (self._tokenizer,)

    def texts(self, texts: list[str], joined: bool) -> list[Ids]:
        """Ids of texts that people wrote; special tokens in them are plain text.

        Args:
            texts: the texts.
            joined: no space belongs before them.
        """
        if not texts:
            return []
        backend = self._bare if joined and self._bare is not None else self._backend
        if backend is None:
            return [array("i", one) for one in self._encode(texts, split_special_tokens=True)]
        # Not by the tokenizer's own call, which takes long to tidy up; it sets these three too.
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        found = backend.encode_batch_fast(texts, add_special_tokens=False)  # without offsets
        return [array("i", one.ids) for one in found]

    def written(self, text: str, joined: bool) -> list[int]:
        """Ids of what a template writes; special tokens in it are special."""
        if not joined or self._bare is None:
            return self._encode([text], split_special_tokens=False)[0]
        # The first plain text goes on from what stands before; each later one follows a special
        # token of its own.
        marks = "|".join(map(re.escape, sorted(self._special, key=len, reverse=True)))
        parts = [one for one in (re.split(f"({marks})", text) if marks else [text]) if one]
        ids: list[int] = []
        for part in parts:
            if part in self._special:
                ids.append(self._special[part])
                joined = self.joins(ids[-1])
            else:
                ids += (
                    self._bare.encode(part, add_special_tokens=False).ids
                    if joined
                    else self._encode([part], split_special_tokens=False)[0]
                )
        return ids

    def joins(self, last: int | None) -> bool:
        """Whether a piece goes without a space of its own.

        Args:
            last: the id before it; None: the end of a text.
        """
        return self._places == "start" or (
            self._places == "segments" and last not in self._special.values()
        )

    def _encode(self, texts: list[str], split_special_tokens: bool) -> list[list[int]]:
        return self._tokenizer(
            texts,
            add_special_tokens=False,
            split_special_tokens=split_special_tokens,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]


def _without_space(backend: Tokenizer | None) -> tuple[Tokenizer | None, Places]:
    """A copy of a tokenizer that puts no space before a text, and where the original does."""
    from tokenizers import Tokenizer

    if backend is None:
        return None, "nowhere"
    content = json.loads(backend.to_str())
    found: set[Places] = set()
    for key, members in (("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers")):
        node = content[key]
        steps = node[members] if node and node["type"] == "Sequence" else [node] if node else []
        content[key] = {"type": "Sequence", members: [_bare(step, found) for step in steps]}
        content[key][members] = [step for step in content[key][members] if step]
    if not found:
        return None, "nowhere"
    return Tokenizer.from_str(json.dumps(content)), "segments" if "segments" in found else "start"


def _bare(step: dict[str, Any], found: set[Places]) -> dict[str, Any] | None:
    """One step of a normalizer or pre-tokenizer without its space; None when nothing is left."""
    if step["type"] == "Prepend":
        found.add("segments")
        return None
    if step["type"] == "Metaspace" and step["prepend_scheme"] != "never":
        found.add("start" if step["prepend_scheme"] == "first" else "segments")
        return step | {"prepend_scheme": "never"}
    if step["type"] == "ByteLevel" and step.get("add_prefix_space"):
        found.add("segments")
        return step | {"add_prefix_space": False}
    return step
