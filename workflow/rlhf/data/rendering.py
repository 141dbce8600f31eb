"""Dialogues to text, with the chat template of a tokenizer, and what it does to each message.

A template is rendered once for each sequence of roles, with stand-ins for the texts, so that it is
known where each text goes. Templates can look at texts too: ``Rendering.check`` compares.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf.data import outside
from rlhf.data.rows import Message
from rlhf.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
_STAND_IN = re.compile("\ue000([0-9]+)\ue001")  # private-use characters: in no template
# White space that no template writes: what is left of it tells how a text is stripped.
_BEFORE, _AFTER = "\n\x0b\n", "\n\x0c\n"
_LEFT = {_BEFORE: "", _BEFORE.lstrip("\n"): "\n", "": None}
_RIGHT = {_AFTER: "", _AFTER.rstrip("\n"): "\n", "": None}
# Texts in which a template may change something: white space, case, mark-up, length.
_PROBES = (
    "  Spaces at both ends \n",
    "\n\nÜnïcode, TWO\n\n\nlines; <b>&amp;</b> 'quotes\" \\n {{ jinja }}\t\n\n",
    "A long text. " * 2000 + "Its end.",
)
_SHOWN = 30  # characters of a difference, before it and from it on


@dataclass(frozen=True, slots=True)
class Place:
    """Where the text of a message goes, and what is stripped off it.

    Attributes:
        index: the message.
        left: characters that are stripped at the text's beginning, as ``str.lstrip`` takes them:
            None is all white space, an empty text nothing.
        right: the same at its end.
    """

    index: int
    left: str | None
    right: str | None

    def strip(self, text: str) -> str:
        """The text as the template writes it."""
        return text.lstrip(self.left).rstrip(self.right)


@dataclass(frozen=True, slots=True)
class Layout:
    """What a template writes for a sequence of roles.

    Attributes:
        text: with stand-ins for the messages' texts.
        spans: of the stand-ins, one for each message.
        places: what goes there.
        trained: spans that the template marks as the assistant's; None if it marks nothing.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    places: tuple[Place, ...]
    trained: tuple[tuple[int, int], ...] | None

    def fill(self, contents: Sequence[str]) -> str:
        """The text with contents in their places."""
        parts, last = [], 0
        for (start, end), place in zip(self.spans, self.places, strict=True):
            parts += [self.text[last:start], place.strip(contents[place.index])]
            last = end
        return "".join([*parts, self.text[last:]])


class Rendering:
    """Writes dialogues with the chat template that a tokenizer stores.

    Args:
        tokenizer: a tokenizer with a chat template.
        where: the template's key in the configuration, for messages.

    Raises:
        ConfigError: the template is missing or no template, or it reads a clock or draws.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, where: str) -> None:
        self._tokenizer, self._where = tokenizer, where
        template = tokenizer.chat_template
        if not template:
            raise ConfigError(
                "The tokenizer brings no chat template.",
                where=where,
                expected="a template that marks what the assistant says",
                hint=outside.OURS,
            )
        outside.check(template, where)
        self._marked = bool(_MARKS.search(template))
        self._layouts: dict[tuple[tuple[str, ...], bool], Layout] = {}

    def layout(self, roles: tuple[str, ...], prompt: bool) -> Layout:
        """What the template writes for some roles.

        Args:
            roles: of each message.
            prompt: end with what begins the assistant's turn.

        Raises:
            ConfigError: it refuses the roles, or does not write each message once, in order, and
                as it is but for white space at its ends.
        """
        if (roles, prompt) not in self._layouts:
            self._layouts[roles, prompt] = self._lay_out(roles, prompt)
        return self._layouts[roles, prompt]

    def check(self, messages: Sequence[Message], prompt: bool, row: str) -> None:
        """Compare what the template writes for a dialogue with what its layout says.

        Args:
            messages: the dialogue.
            prompt: end with what begins the assistant's turn.
            row: the row's id, for the message.

        Raises:
            DataError: the template cuts or changes a text, or writes something else around it.
        """
        roles, contents = tuple(one.role for one in messages), [one.content for one in messages]
        expected = self.layout(roles, prompt).fill(contents)
        try:
            text, _ = self._render(roles, contents, prompt, marks=False)
        except Exception as error:  # whatever a template's own operations on a text raise
            raise self._unlike(row, f"refuses a text ({_sentence(error)})", None) from None
        if text != expected:
            raise self._unlike(row, "does not write a row's texts as they are", (expected, text))

    def unfit(self, what: str, roles: Sequence[str]) -> ConfigError:
        """An error about the template."""
        return ConfigError(
            f"The tokenizer's chat template {what}.",
            where=f"{self._where}, for the roles {', '.join(roles)}",
            expected="a template that writes every message as it is and marks the assistant's "
            "text and EOS with {% generation %}",
            hint=f"{outside.OURS}, and `eos_token` to what ends a turn",
        )

    def _lay_out(self, roles: tuple[str, ...], prompt: bool) -> Layout:
        stand_ins = [f"\ue000{i}\ue001" for i in range(len(roles))]
        text, trained = self._try(roles, stand_ins, prompt)
        self._check_variables(roles, stand_ins, prompt)
        found = list(_STAND_IN.finditer(text))
        if [int(one[1]) for one in found] != list(range(len(roles))):
            raise self.unfit("does not write each message once and in order", roles)
        spaced, _ = self._try(roles, [f"{_BEFORE}{one}{_AFTER}" for one in stand_ins], prompt)
        places = _places(_STAND_IN.split(text)[::2], _STAND_IN.split(spaced)[::2])
        spans = tuple(one.span() for one in found)
        if not places:
            raise self.unfit("changes the messages' texts", roles)
        layout = Layout(text, spans, places, trained if self._marked else None)
        for probe in _PROBES:
            contents = [probe] * len(roles)
            if self._try(roles, contents, prompt)[0] != layout.fill(contents):
                raise self.unfit("changes the messages' texts", roles)
        return layout

    def _try(
        self, roles: Sequence[str], contents: Sequence[str], prompt: bool
    ) -> tuple[str, tuple[tuple[int, int], ...]]:
        try:
            return self._render(roles, contents, prompt, marks=self._marked)
        except Exception as error:  # whatever a template's own operations raise
            raise self.unfit(f"refuses these roles ({_sentence(error)})", roles) from None

    def _render(
        self, roles: Sequence[str], contents: Sequence[str], prompt: bool, *, marks: bool
    ) -> tuple[str, tuple[tuple[int, int], ...]]:
        """The template's text and, for ``marks``, the spans that it marks as the assistant's."""
        from transformers.utils.chat_template_utils import render_jinja_template

        texts, spans = render_jinja_template(
            [_as_dicts(roles, contents)],
            chat_template=self._tokenizer.chat_template,
            return_assistant_tokens_mask=marks,
            add_generation_prompt=prompt,
            **self._tokenizer.special_tokens_map,
        )
        return texts[0], tuple((a, b) for a, b in spans[0]) if marks else ()

    def _check_variables(self, roles: Sequence[str], contents: Sequence[str], prompt: bool) -> None:
        from jinja2 import UndefinedError

        template = outside.strict(self._tokenizer.chat_template)
        try:
            template.render(
                messages=_as_dicts(roles, contents),
                tools=None,
                documents=None,
                add_generation_prompt=prompt,
                **self._tokenizer.special_tokens_map,
            )
        except UndefinedError as error:
            raise ConfigError(
                f"The tokenizer's chat template depends on more than the dialogue: {error}.",
                where=f"{self._where}, for the roles {', '.join(roles)}",
                expected="a template that writes the dialogue and nothing else that may differ",
                hint="write the value into the template, with {% set … %} at its beginning, in a "
                "copy of the model's folder, or choose another template",
            ) from None

    def _unlike(self, row: str, what: str, texts: tuple[str, str] | None) -> DataError:
        expected = "a template that writes every message as it is"
        if texts is not None:
            at = next(
                (i for i, (a, b) in enumerate(zip(*texts, strict=False)) if a != b),
                min(map(len, texts)),
            )
            right, wrong = (one[max(0, at - _SHOWN) : at + _SHOWN] for one in texts)
            expected = f"{right!r}; the template writes {wrong!r}"
        return DataError(
            f"The chat template {what}.",
            where=f"row {row}, {self._where}",
            expected=expected,
            hint=f"{outside.OURS}, which write every text; or leave such rows out, by the "
            "dataset's `options.exclude`",
        )


def _as_dicts(roles: Sequence[str], contents: Sequence[str]) -> list[dict[str, str]]:
    pairs = zip(roles, contents, strict=True)
    return [{"role": role, "content": content} for role, content in pairs]


def _places(plain: list[str], spaced: list[str]) -> tuple[Place, ...] | None:
    """How each text is stripped, by what is left around it of white space; None: some other way.

    Args:
        plain: what the template writes before, between and after the texts.
        spaced: the same, of texts with white space at both ends.
    """
    if len(plain) != len(spaced):
        return None
    ends: list[tuple[str, str]] = []  # what is left after one text and before the next
    for i, (written, found) in enumerate(zip(plain, spaced, strict=True)):
        after = _RIGHT if i > 0 else [""]
        before = _LEFT if i < len(plain) - 1 else [""]
        fits = [(a, b) for a in after for b in before if a + written + b == found]
        if not fits:
            return None
        ends.append(fits[0])
    return tuple(Place(i, _LEFT[ends[i][1]], _RIGHT[ends[i + 1][0]]) for i in range(len(ends) - 1))


def _sentence(error: Exception) -> str:
    return str(error).strip().rstrip(".") or type(error).__name__
