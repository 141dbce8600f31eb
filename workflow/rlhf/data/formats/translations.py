"""Translation pairs: a request in one of several wordings, and the translation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.data.formats.columns import Columns, columns_of
from rlhf.data.formats.faults import Faults
from rlhf.data.formats.turns import check_prompts, dialogue, pick
from rlhf.data.rows import Message, Row

# Language that is translated into → requests, in English and in that language.
PROMPTS: dict[str, tuple[str, ...]] = {
    "ar": ("Translate into Arabic: {}", "{}\n\nSay this in Arabic.", "ترجم إلى العربية: {}"),
    "de": ("Translate into German: {}", "{}\n\nSay this in German.", "Übersetze ins Deutsche: {}"),
    "en": (
        "Translate into English: {}",
        "{}\n\nSay this in English.",
        "What does this mean in English? {}",
    ),
    "es": ("Translate into Spanish: {}", "{}\n\nSay this in Spanish.", "Traduce al español: {}"),
    "fr": ("Translate into French: {}", "{}\n\nSay this in French.", "Traduis en français : {}"),
    "it": ("Translate into Italian: {}", "{}\n\nSay this in Italian.", "Traduci in italiano: {}"),
    "ja": (
        "Translate into Japanese: {}",
        "{}\n\nSay this in Japanese.",
        "次の文を日本語に訳してください: {}",
    ),
    "ko": (
        "Translate into Korean: {}",
        "{}\n\nSay this in Korean.",
        "다음 문장을 한국어로 번역해 주세요: {}",
    ),
    "ms": (
        "Translate into Malay: {}",
        "{}\n\nSay this in Malay.",
        "Terjemahkan ke dalam bahasa Melayu: {}",
    ),
    "nl": (
        "Translate into Dutch: {}",
        "{}\n\nSay this in Dutch.",
        "Vertaal naar het Nederlands: {}",
    ),
    "ru": (
        "Translate into Russian: {}",
        "{}\n\nSay this in Russian.",
        "Переведите на русский язык: {}",
    ),
    "tr": ("Translate into Turkish: {}", "{}\n\nSay this in Turkish.", "Türkçeye çevir: {}"),
    "uk": (
        "Translate into Ukrainian: {}",
        "{}\n\nSay this in Ukrainian.",
        "Перекладіть українською: {}",
    ),
    "vi": (
        "Translate into Vietnamese: {}",
        "{}\n\nSay this in Vietnamese.",
        "Dịch sang tiếng Việt: {}",
    ),
    "zh": ("Translate into Chinese: {}", "{}\n\nSay this in Chinese.", "请翻译成中文：{}"),
}
DIRECTIONS = ("drawn", "forward", "backward", "both")


class Translations:
    """Each row is one text in two languages.

    Args:
        faults: where faults go.
        pair: source and target, such as ``zh-en``.
        column: column of an object with a text under each language; null: ``source`` and
            ``target`` name columns.
        source: column of the text in the first language; default: ``{column}.{language}``.
        target: column of the text in the second; likewise.
        target_column: column that names the second language, if it varies: its texts begin with
            the language's code or a key of ``codes``.
        codes: other names of languages → code.
        direction: ``drawn`` (by a digest of the source; if one language has no prompts, the only
            possible one), ``forward``, ``backward`` or ``both``.
        prompts: language → templates with ``{}``, for languages without built-in ones.
    """

    def __init__(
        self,
        faults: Faults,
        pair: str,
        column: str | None = "translation",
        source: str | None = None,
        target: str | None = None,
        target_column: str | None = None,
        codes: Mapping[str, str] | None = None,
        direction: str = "drawn",
        prompts: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        for wordings in (prompts or {}).values():
            check_prompts(faults, wordings)
        self._prompts: dict[str, Sequence[str]] = {**PROMPTS, **(prompts or {})}
        languages = pair.split("-") if isinstance(pair, str) else []
        if len(languages) != 2 or languages[0] == languages[1]:
            raise faults.wrong_option("pair", pair, "two languages, such as zh-en")
        if column is None and None in (source, target):
            raise faults.wrong_option("column", column, "a column, or both `source` and `target`")
        if direction not in DIRECTIONS:
            raise faults.wrong_option("direction", direction, ", ".join(DIRECTIONS))
        forward = target_column is not None or languages[1] in self._prompts
        backward = languages[0] in self._prompts
        if direction == "drawn" and forward != backward:
            direction = "forward" if forward else "backward"
        possible = {"forward": forward, "backward": backward}.get(direction, forward and backward)
        if not possible:
            raise faults.wrong_option(
                "pair",
                pair,
                f"languages out of {', '.join(sorted(self._prompts))}, or `prompts` for others",
            )
        self._faults, self._direction, self._columns = faults, direction, Columns(faults)
        self._pair = (languages[0], languages[1])
        self._source = source or f"{column}.{self._pair[0]}"
        self._target = target or f"{column}.{self._pair[1]}"
        self._target_column, self._codes = target_column, dict(codes or {})
        self.reads = columns_of(self._source, self._target, target_column)

    def rows(self, record: dict[str, Any]) -> list[Row]:
        """One conversation and its prompt, or one in each direction."""
        language = self._language(record)
        source = self._columns.text(record, self._source, "source") if language else None
        target = self._columns.text(record, self._target, "target") if source else None
        if language is None or source is None or target is None:
            return []
        forward, backward = (source, target, language), (target, source, self._pair[0])
        direction = self._direction
        if direction == "drawn":
            direction = pick(("forward", "backward"), source)
        row_id = self._faults.row_id
        chosen = {
            "forward": [(row_id, forward)],
            "backward": [(row_id, backward)],
            "both": [(f"{row_id}.1", forward), (f"{row_id}.2", backward)],
        }[direction]
        return [row for one, told in chosen for row in self._told(one, *told)]

    def _told(self, row_id: str, text: str, translation: str, language: str) -> list[Row]:
        request = pick(self._prompts[language], text).replace("{}", text)
        return dialogue(row_id, [Message("user", request), Message("assistant", translation)])

    def _language(self, record: dict[str, Any]) -> str | None:
        if self._target_column is None:
            return self._pair[1]
        named = self._columns.text(record, self._target_column, "target_column")
        if named is None:
            return None
        begin = named.replace("-", "_").partition("_")[0].lower()
        language = self._codes.get(begin, begin)
        if language not in self._prompts:
            self._faults.report(
                "language_unknown",
                f"Column `{self._target_column}` names the language {begin!r}.",
                expected=f"one of {', '.join(sorted(self._prompts))}",
                key=self._target_column,
                hint="set `options.codes` or `options.prompts`",
            )
            return None
        return language
