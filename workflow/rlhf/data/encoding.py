"""Messages to ids, piece by piece: what the template writes and what people wrote never mix.

The template says for each sequence of roles where the texts go. Texts are tokenized by themselves
and put in their places. So the ids of a prompt and of a reply to it are exactly how the whole
dialogue begins, and a text that contains ``<|im_end|>`` cannot end its turn.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from rlhf.data.labels import IGNORED
from rlhf.data.pieces import Ids, Pieces
from rlhf.data.rendering import Layout, Place, Rendering
from rlhf.data.rows import TEXT, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_IGNORED = array("i", [IGNORED])


@dataclass(frozen=True, slots=True)
class Literal:
    """Ids that the template writes; if they are trained, with message ``index``."""

    ids: Ids
    trained: bool
    index: int = 0


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of a message's text, with the space that the template puts first.

    ``joined``: plain text stands before it, so no tokenizer puts a space of its own there.
    """

    place: Place
    space: str
    trained: bool
    joined: bool = False

    @property
    def index(self) -> int:
        """The message."""
        return self.place.index


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
        compared: whether ``check`` compares; the package's own templates look at no text.

    Raises:
        ConfigError: the template is missing, depends on more than the dialogue, or does not write
            each message once, whole and in order, or the assistant's turn does not end with EOS.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, model: str = "<name>", compared: bool = True
    ) -> None:
        self._tokenizer, self._compared = tokenizer, compared
        self._rendering = Rendering(tokenizer, f"models.{model}.template")
        self._bos = array("i", [tokenizer.bos_token_id] if adds_bos(tokenizer) else [])
        self._skeletons: dict[tuple[tuple[str, ...], bool], Skeleton] = {}
        self._ready: dict[bool, dict[str, Ids]] = {False: {}, True: {}}
        self._pieces = Pieces(tokenizer)
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

    def check(self, messages: Sequence[Message], row: str, prompt: bool = False) -> None:
        """Refuse a dialogue that the template does not write as it is encoded here.

        Templates can look at texts: some cut what an assistant thought. ``row`` is for the message.

        Raises:
            DataError: the template cuts or changes a text, or writes something else around it.
        """
        if self._compared and [message.role for message in messages] != [TEXT]:
            self._rendering.check(messages, prompt, row)

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
            raise self._rendering.unfit("writes a history differently when a reply follows", roles)
        end = max(i for i, label in enumerate(labels) if label != IGNORED) + 1
        return whole[len(before) : end]

    def _text(self, slot: Slot, messages: Sequence[Message]) -> str:
        return slot.space + slot.place.strip(messages[slot.index].content)

    def _content(self, slot: Slot, messages: Sequence[Message]) -> Ids:
        text = self._text(slot, messages)
        ids = self._ready[slot.joined].get(text)
        return self._pieces.texts([text], slot.joined)[0] if ids is None else ids

    def _skeleton(self, messages: Sequence[Message], prompt: bool) -> Skeleton:
        return self._of_roles(tuple(message.role for message in messages), prompt)

    def _of_roles(self, roles: tuple[str, ...], prompt: bool) -> Skeleton:
        if (roles, prompt) not in self._skeletons:
            self._skeletons[roles, prompt] = self._build(roles, prompt)
        return self._skeletons[roles, prompt]

    def _build(self, roles: tuple[str, ...], prompt: bool) -> Skeleton:
        if roles == (TEXT,):
            eos = Literal(array("i", [self._tokenizer.eos_token_id]), trained=True)
            return self._with_bos([Slot(Place(0, "", ""), "", trained=True), eos])
        layout = self._rendering.layout(roles, prompt)
        spoken = [i for i, role in enumerate(roles) if role == "assistant"]
        spans = layout.trained
        if spans is None:
            spans = tuple(self._unmarked(layout, i) for i in spoken)
        text, edges = layout.text, {0, len(layout.text)}.union(*spans, *layout.spans)
        places = {start: layout.places[i] for i, (start, _) in enumerate(layout.spans)}
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
                # A trained span is about the reply whose text is in it, or before it.
                about = (i for i in spoken if span and layout.spans[i][0] < span[1])
                pieces.append(Literal(array("i", ids), trained, max(about, default=0)))
                joined = self._pieces.joins(ids[-1] if ids else None)
        skeleton = self._with_bos(pieces)
        if prompt:
            self._check_waiting(skeleton, roles)
        else:
            self._check_history(skeleton, roles)
        return skeleton

    def _with_bos(self, pieces: list[Literal | Slot]) -> Skeleton:
        first = pieces[0] if pieces else None
        if self._bos and not (isinstance(first, Literal) and first.ids[:1] == self._bos):
            pieces.insert(0, Literal(self._bos, False))
        return tuple(pieces)

    def _unmarked(self, layout: Layout, index: int) -> tuple[int, int]:
        """Span of a reply in a template without marks: its text up to and with the next EOS."""
        eos, (start, after) = self._tokenizer.eos_token, layout.spans[index]
        end = layout.text.find(eos, after) if eos else -1
        if end < 0 or layout.text[after:end].strip():
            raise self._rendering.unfit(
                "does not end the assistant's turn with EOS", ("assistant",)
            )
        return start, end + len(eos)

    def _check_waiting(self, prompt: Skeleton, roles: tuple[str, ...]) -> None:
        """Refuse a template that writes texts in some other way where a reply is waited for."""
        slots = [
            [one for one in skeleton if isinstance(one, Slot)]
            for skeleton in (prompt, self._of_roles(roles, False))
        ]
        if slots[0] != slots[1]:
            raise self._rendering.unfit("writes a history differently when it waits", roles)

    def _check_history(self, skeleton: Skeleton, roles: tuple[str, ...]) -> None:
        """Refuse a history that is written differently once a reply, and more, follows it."""
        whole = _flat(skeleton)
        for i in (i for i, role in enumerate(roles) if role == "assistant" and i > 0):
            if i + 1 < len(roles):
                begins = _flat(_to_reply(self._of_roles(roles[: i + 1], False)))
                what = "writes a reply differently when more follows"
            else:
                begins = _flat(self._of_roles(roles[:i], True))
                what = "begins the assistant's turn differently when it waits for a reply"
            if whole[: len(begins)] != begins:
                raise self._rendering.unfit(what, roles)
        if roles[-1] == "assistant" and not self._ends(_to_reply(skeleton), len(roles) - 1):
            raise self._rendering.unfit("does not end the assistant's turn with EOS", roles)

    def _ends(self, skeleton: Skeleton, reply: int) -> bool:
        """Whether what is trained last is a reply and its EOS."""
        last = skeleton[-1] if skeleton else None
        spoken = (one.trained for one in skeleton if isinstance(one, Slot) and one.index == reply)
        return (
            any(spoken)
            and isinstance(last, Literal)
            and last.ids[-1:] == array("i", [self._tokenizer.eos_token_id])
        )

    def _check_ends(self) -> None:
        question, answer = Message("user", "a"), "b"
        prompt, reply = self.prompt([question]), self.reply([question], answer)
        whole, labels = self.conversation([question, Message("assistant", answer)])
        roles = ("user", "assistant")
        if not reply or reply[-1] != self._tokenizer.eos_token_id:
            raise self._rendering.unfit("does not end the assistant's turn with EOS", roles)
        if prompt + reply != whole[: len(prompt) + len(reply)] or labels.count(IGNORED) == 0:
            raise self._rendering.unfit(
                "begins the assistant's turn differently when it waits for a reply", roles
            )


def _to_reply(skeleton: Skeleton) -> Skeleton:
    """Up to the end of what is trained."""
    return skeleton[: 1 + max((i for i, one in enumerate(skeleton) if one.trained), default=-1)]


def _flat(skeleton: Skeleton) -> list[int | tuple[Place, str, bool]]:
    """Ids, and what goes between them, however they are cut into pieces."""
    flat: list[int | tuple[Place, str, bool]] = []
    for piece in skeleton:
        if isinstance(piece, Literal):
            flat += piece.ids
        else:
            flat.append((piece.place, piece.space, piece.joined))
    return flat


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
