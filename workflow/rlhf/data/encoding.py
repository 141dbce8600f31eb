"""Messages to ids, piece by piece: what the template writes and what people wrote never mix.

The template is rendered once for each sequence of roles, with stand-ins for the texts. Texts are
tokenized by themselves and put in their places. So the ids of a prompt and of a reply to it are
exactly how the whole dialogue begins, and a text that contains ``<|im_end|>`` cannot end its turn.
"""

from __future__ import annotations

import itertools
import re
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from rlhf.data.pieces import Ids, Pieces
from rlhf.data.rows import TEXT, Message
from rlhf.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # label of a token that is not trained
_IGNORED = array("i", [IGNORED])
_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
_STAND_IN = re.compile("\ue000([0-9]+)\ue001")  # private-use characters: in no template
_PROBES = ("  spaces at both ends \n", "two\n\nlines")


@dataclass(frozen=True, slots=True)
class Literal:
    """Ids that the template writes; if they are trained, with message ``index``."""

    ids: Ids
    trained: bool
    index: int = 0


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of the text of message ``index``, with the space that the template puts first.

    ``joined``: plain text stands before it, so no tokenizer puts a space of its own there.
    """

    index: int
    space: str
    trained: bool
    joined: bool = False


Skeleton: TypeAlias = tuple[Literal | Slot, ...]


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer puts BOS before each text; having a BOS token is not enough."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("a")["input_ids"][:1] == [bos]


class Encoder:
    """Turns messages into ids with a tokenizer and the chat template that it stores.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        model: the model's name in the configuration, for error messages.

    Raises:
        ConfigError: the template is missing, or it does not write each message once, whole and in
            order, or the assistant's turn does not end with EOS.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, model: str = "<name>") -> None:
        self._tokenizer, self._where = tokenizer, f"models.{model}.template"
        if not tokenizer.chat_template:
            raise ConfigError(
                "The tokenizer brings no chat template.",
                where=self._where,
                expected="a template that marks what the assistant says",
                hint="set `template` to chatml, oasst, hh or deepspeed_chat",
            )
        self._bos = array("i", [tokenizer.bos_token_id] if adds_bos(tokenizer) else [])
        self._marked = bool(_MARKS.search(tokenizer.chat_template))
        self._skeletons: dict[tuple[tuple[str, ...], bool], Skeleton] = {}
        self._ready: dict[bool, dict[str, Ids]] = {False: {}, True: {}}
        self._pieces = Pieces(tokenizer)
        self._strip = self._find_strip()
        self._check_ends()

    def prime(self, dialogues: Iterable[Sequence[Message]]) -> None:
        """Tokenize all texts of some dialogues in one call; the calls that follow look them up.

        What was primed before is forgotten, so memory is that of one batch.
        """
        texts: dict[bool, dict[str, None]] = {False: {}, True: {}}  # sets that keep their order
        for messages in dialogues:
            for slot in self._skeleton(messages, False):
                if isinstance(slot, Slot):
                    texts[slot.joined][self._text(slot, messages)] = None
        for joined, some in texts.items():
            ids = self._pieces.texts(list(some), joined)
            self._ready[joined] = dict(zip(some, ids, strict=True))

    def texts(self, messages: Sequence[Message]) -> list[Ids]:
        """Ids of each message's text, without what the template writes around it."""
        slots = [one for one in self._skeleton(messages, False) if isinstance(one, Slot)]
        return [self._content(slot, messages) for slot in slots]

    def join(
        self, messages: Sequence[Message], texts: Sequence[Ids], prompt: bool = False
    ) -> tuple[Ids, Ids]:
        """Put texts into the template.

        Args:
            messages: their roles count and whether they are trained, their contents do not.
            texts: ids of each message's text, such as ``texts`` gives.
            prompt: end with what begins the assistant's turn.

        Returns:
            Ids and labels, of equal length; labels are −100 outside of the assistant's texts that
            are trained and the EOS after each.
        """
        ids, labels = array("i"), array("i")
        for piece in self._skeleton(messages, prompt):
            added = piece.ids if isinstance(piece, Literal) else texts[piece.index]
            ids.extend(added)
            trained = piece.trained and messages[piece.index].trained
            labels.extend(added if trained else _IGNORED * len(added))
        return ids, labels

    def conversation(self, messages: Sequence[Message]) -> tuple[Ids, Ids]:
        """Ids and labels of a whole dialogue; see ``encode_conversation``."""
        return self.join(messages, self.texts(messages))

    def prompt(self, history: Sequence[Message]) -> Ids:
        """Ids of a history up to where the assistant begins; see ``encode_prompt``."""
        return self.join(history, self.texts(history), prompt=True)[0]

    def reply(self, history: Sequence[Message], reply: str) -> Ids:
        """Ids of a reply and its EOS; see ``encode_reply``."""
        messages = (*history, Message("assistant", reply))
        pieces = self._skeleton(messages, False)
        (start,) = (
            i for i, one in enumerate(pieces) if isinstance(one, Slot) and one.index == len(history)
        )
        while start > 0 and pieces[start - 1].trained:
            start -= 1
        ids = array("i")
        for piece in itertools.takewhile(lambda one: one.trained, pieces[start:]):
            ids += piece.ids if isinstance(piece, Literal) else self._content(piece, messages)
        return ids

    def turn(self, history: Sequence[Message], messages: Sequence[Message]) -> Ids:
        """Ids of what follows a history, such as a tag and a reply, up to the reply's EOS.

        Raises:
            ConfigError: the template writes the history differently when more follows.
        """
        before, _ = self.join(history, self.texts(history))
        whole, labels = self.conversation((*history, *messages))
        if whole[: len(before)] != before:
            roles = [message.role for message in (*history, *messages)]
            raise self._unfit("writes a history differently when a reply follows", roles)
        end = max(i for i, label in enumerate(labels) if label != IGNORED) + 1
        return whole[len(before) : end]

    def _text(self, slot: Slot, messages: Sequence[Message]) -> str:
        content = messages[slot.index].content
        return slot.space + (content.strip() if self._strip else content)

    def _content(self, slot: Slot, messages: Sequence[Message]) -> Ids:
        text = self._text(slot, messages)
        ids = self._ready[slot.joined].get(text)
        return self._pieces.texts([text], slot.joined)[0] if ids is None else ids

    def _skeleton(self, messages: Sequence[Message], prompt: bool) -> Skeleton:
        key = tuple(message.role for message in messages), prompt
        if key not in self._skeletons:
            self._skeletons[key] = self._build(*key)
        return self._skeletons[key]

    def _build(self, roles: tuple[str, ...], prompt: bool) -> Skeleton:
        if roles == (TEXT,):
            eos = Literal(array("i", [self._tokenizer.eos_token_id]), trained=True)
            return self._with_bos([Slot(0, "", trained=True), eos])
        contents = [f"\ue000{i}\ue001" for i in range(len(roles))]
        text, spans = self._render(roles, contents, prompt)
        slots = list(_STAND_IN.finditer(text))
        if [int(slot[1]) for slot in slots] != list(range(len(roles))):
            raise self._unfit("does not write each message once and in order", roles)
        spoken = [slot for slot in slots if roles[int(slot[1])] == "assistant"]
        if not self._marked:
            spans = [self._unmarked(slot, text) for slot in spoken]
        edges = {0, len(text)}.union(*spans, *(slot.span() for slot in slots))
        places = {slot.start(): int(slot[1]) for slot in slots}
        pieces: list[Literal | Slot] = []
        space, joined = "", False
        for start, end in itertools.pairwise(sorted(edges)):
            span = next((one for one in spans if one[0] <= start and end <= one[1]), None)
            trained = span is not None
            if start in places:
                pieces.append(Slot(places[start], space, trained, joined))
                space, joined = "", self._pieces.joins(None)
                continue
            written = text[start:end]
            # A space before a text is tokenized with it: vocabularies hold " word" as one token.
            space = " " if written.endswith(" ") and end in places else ""
            written = written.removesuffix(" ") if space else written
            if written:
                ids = self._pieces.written(written, joined)
                index = _message_of(span, spoken) if span else 0
                pieces.append(Literal(array("i", ids), trained, index))
                joined = self._pieces.joins(ids[-1] if ids else None)
        return self._with_bos(pieces)

    def _with_bos(self, pieces: list[Literal | Slot]) -> Skeleton:
        first = pieces[0] if pieces else None
        if self._bos and not (isinstance(first, Literal) and first.ids[:1] == self._bos):
            pieces.insert(0, Literal(self._bos, False))
        return tuple(pieces)

    def _render(
        self, roles: Sequence[str], contents: Sequence[str], prompt: bool
    ) -> tuple[str, list[tuple[int, int]]]:
        """The template's text and the character spans that it marks as the assistant's."""
        import jinja2
        from transformers.utils.chat_template_utils import render_jinja_template

        pairs = zip(roles, contents, strict=True)
        messages = [{"role": role, "content": content} for role, content in pairs]
        try:
            texts, spans = render_jinja_template(
                [messages],
                chat_template=self._tokenizer.chat_template,
                return_assistant_tokens_mask=self._marked,
                add_generation_prompt=prompt,
                **self._tokenizer.special_tokens_map,
            )
        except (jinja2.TemplateError, TypeError) as error:
            raise self._unfit(f"refuses these roles ({error})", roles) from None
        return texts[0], [tuple(span) for span in spans[0]] if self._marked else []

    def _unmarked(self, slot: re.Match[str], text: str) -> tuple[int, int]:
        """Span of a reply in a template without marks: its text up to and with the next EOS."""
        eos = self._tokenizer.eos_token
        end = text.find(eos, slot.end()) if eos else -1
        if end < 0 or text[slot.end() : end].strip():
            raise self._unfit("does not end the assistant's turn with EOS", ("assistant",))
        return slot.start(), end + len(eos)

    def _find_strip(self) -> bool:
        """Whether the template strips texts (some do); refuse any other change to them."""
        roles = ("user", "assistant")
        text, _ = self._render(roles, _PROBES, False)
        stand_ins, _ = self._render(roles, ["\ue0000\ue001", "\ue0001\ue001"], False)

        def filled(strip: bool) -> str:
            return _STAND_IN.sub(
                lambda found: _PROBES[int(found[1])].strip() if strip else _PROBES[int(found[1])],
                stand_ins,
            )

        for strip in (False, True):
            if text == filled(strip):
                return strip
        raise self._unfit("changes the messages' texts", roles)

    def _check_ends(self) -> None:
        question, answer = Message("user", "a"), "b"
        prompt, reply = self.prompt([question]), self.reply([question], answer)
        whole, labels = self.conversation([question, Message("assistant", answer)])
        if not reply or reply[-1] != self._tokenizer.eos_token_id:
            raise self._unfit("does not end the assistant's turn with EOS", ("user", "assistant"))
        if prompt + reply != whole[: len(prompt) + len(reply)] or labels.count(IGNORED) == 0:
            raise self._unfit(
                "begins the assistant's turn differently when it waits for a reply",
                ("user", "assistant"),
            )

    def _unfit(self, what: str, roles: Sequence[str]) -> ConfigError:
        return ConfigError(
            f"The tokenizer's chat template {what}.",
            where=f"{self._where}, for the roles {', '.join(roles)}",
            expected="a template that writes every message as it is and marks the assistant's "
            "text and EOS with {% generation %}",
            hint="set `template` to chatml, oasst, hh or deepspeed_chat, and `eos_token` to what "
            "ends a turn",
        )


def _message_of(span: tuple[int, int], spoken: Sequence[re.Match[str]]) -> int:
    """The assistant's message that a trained span is about: its text is in it, or before it."""
    return max((int(slot[1]) for slot in spoken if slot.start() < span[1]), default=0)


def encode_conversation(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]
) -> tuple[list[int], list[int]]:
    """Ids and labels of a dialogue. For many dialogues make one ``Encoder``.

    Returns:
        Two lists of equal length; labels are −100 outside of the assistant's texts and the EOS
        after each.
    """
    ids, labels = Encoder(tokenizer).conversation(messages)
    return ids.tolist(), labels.tolist()


def encode_prompt(tokenizer: PreTrainedTokenizerBase, history: Sequence[Message]) -> list[int]:
    """Ids of a history that ends with the user, up to where the assistant begins."""
    return Encoder(tokenizer).prompt(history).tolist()


def encode_reply(
    tokenizer: PreTrainedTokenizerBase, history: Sequence[Message], reply: str
) -> list[int]:
    """Ids of a reply, EOS at the end.

    ``encode_prompt(history) + encode_reply(history, reply)`` is how the encoded conversation
    begins, whatever the texts.
    """
    return Encoder(tokenizer).reply(history, reply).tolist()
