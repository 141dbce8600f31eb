"""Texts that are read as they stand but look as if they held a structure that nobody reads."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rlhf.data.formats.faults import Faults
from rlhf.data.rows import Row, texts_of

_LIST = re.compile(r"""\s*\[\s*\{\s*["'](?:role|from|content|value)["']\s*:""")
_TEXTS = re.compile(r"""\s*\[\s*"(?:[^"\\]|\\.)*"\s*[],]""", re.DOTALL)
_TOKEN = re.compile(r"<[|｜][^|｜<>\s]{1,30}[|｜]>")
# What chat templates put around a turn, besides tokens such as `<|im_start|>`.
_MARKS = (
    *("[INST]", "[/INST]", "<<SYS>>", "<start_of_turn>", "<end_of_turn>", "<extra_id_1>"),
    *("## Instruction:", "## Response:"),
)
_USERS = ("Human:", "HUMAN:", "User:", "USER:", "Prompter:", "<human>:", "<user>:")
_ASSISTANTS = (
    *("Assistant:", "ASSISTANT:", "Bot:", "BOT:", "AI:", "GPT:", "ChatGPT:"),
    *("<bot>:", "<assistant>:"),
)


def notice(faults: Faults, rows: Iterable[Row]) -> None:
    """Count what the texts of one record's rows look like, each once, in ``faults.noticed``."""
    faults.noticed.update(looks_like({text: None for row in rows for text in texts_of(row)}))


def looks_like(texts: Iterable[str]) -> set[str]:
    """What texts look like besides plain text.

    Plain searches: every row of every dataset is looked at.

    Args:
        texts: of one row of a file.

    Returns:
        ``templated``, if a chat template was applied to one already; ``transcript``, if one holds
        turns that begin with the names of a user and an assistant; ``messages_as_text``, if one
        is a list of messages in a notation, and ``list_as_text``, if of texts.
    """
    found: set[str] = set()
    for text in texts:
        if _is_templated(text):
            found.add("templated")
        if _has_head(text, _ASSISTANTS) and _has_head(text, _USERS):
            found.add("transcript")
        if _LIST.match(text):
            found.add("messages_as_text")
        if _TEXTS.match(text) and text.rstrip().endswith("]"):
            found.add("list_as_text")
    return found


def _is_templated(text: str) -> bool:
    if any(mark in text for mark in _MARKS):
        return True
    if ("<|" in text or "<｜" in text) and _TOKEN.search(text):
        return True
    # Elsewhere they are HTML.
    return text.lstrip().startswith("<s>") or text.rstrip().endswith("</s>")


def _has_head(text: str, names: Iterable[str]) -> bool:
    """Whether one of the names begins a word."""
    for name in names:
        at = text.find(name)
        while at >= 0:
            if at == 0 or not text[at - 1].isalnum() or not name[0].isalpha():
                return True
            at = text.find(name, at + 1)
    return False
