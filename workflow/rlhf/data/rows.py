"""Rows: what every format is turned into."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from rlhf.errors import DataError

if TYPE_CHECKING:
    pass

Role: TypeAlias = Literal["system", "user", "assistant", "text"]
ROLES: tuple[Role, ...] = get_args(Role)[:3]  # of a dialogue
TEXT: Role = "text"  # plain text for language modelling: alone, and without a template
RATINGS = ("quality", "humor", "creativity")
SPLITS = ("train", "validation")
VIEWS = ("conversation", "preference", "feedback", "prompt")


@dataclass(frozen=True, slots=True)
class Properties:
    """What is known of a reply besides its text; reply tags are written from it.

    Attributes:
        lang: code of its language, such as ``en``.
        quality: as reviewers rated it, 0 to 1; so are ``humor`` and ``creativity``.
        context: text that the reply draws on.
    """

    lang: str | None = None
    quality: float | None = None
    humor: float | None = None
    creativity: float | None = None
    context: str | None = None

    def __post_init__(self) -> None:
        for name in RATINGS:
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise DataError(
                    f"The {name} of a reply is {value!r}.", expected="a number from 0 to 1"
                )


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a dialogue.

    Attributes:
        role: who says it.
        content: what is said.
        properties: what is known of it besides its text.
        trained: whether an assistant's turn is learned in SFT; if not, it is context only.
    """

    role: Role
    content: str
    properties: Properties | None = None
    trained: bool = True


@dataclass(frozen=True, slots=True)
class Conversation:
    """A dialogue to imitate; it ends with the assistant. Or a piece of plain text.

    Attributes:
        id: leads back to the row of the source.
        group: digest of the root prompt; decides the split.
        messages: an optional system message, then user and assistant in turn; or one message of
            the role ``text``.
    """

    id: str
    group: str
    messages: tuple[Message, ...]

    def __post_init__(self) -> None:
        _check_turns(self.id, self.messages, last="assistant")


@dataclass(frozen=True, slots=True)
class Preference:
    """A history and at least two replies to it, best first.

    Attributes:
        id: leads back to the row of the source.
        group: digest of the root prompt; decides the split.
        history: ends with the user.
        replies: k >= 2 different texts, best → worst.
        properties: of each reply, in the same order; empty when nothing is known of any.
        scores: of each reply, as the source has them; empty where it has none.
    """

    id: str
    group: str
    history: tuple[Message, ...]
    replies: tuple[str, ...]
    properties: tuple[Properties | None, ...] = ()
    scores: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _check_turns(self.id, self.history, last="user")
        if self.properties and len(self.properties) != len(self.replies):
            raise DataError(
                f"A preference has {len(self.replies)} replies and properties of "
                f"{len(self.properties)}.",
                where=f"row {self.id}",
                expected="properties of every reply (None where there are none), or no properties",
            )
        if self.scores and len(self.scores) != len(self.replies):
            raise DataError(
                f"A preference has {len(self.replies)} replies and {len(self.scores)} scores.",
                where=f"row {self.id}",
                expected="a score of every reply, or no scores",
            )
        if len(self.replies) < 2:
            raise DataError(
                "A preference has fewer than two replies.",
                where=f"row {self.id}",
                expected="two or more replies, best first",
            )


@dataclass(frozen=True, slots=True)
class Feedback:
    """A history, one reply to it, and whether that was a good one.

    Attributes:
        id: leads back to the row of the source.
        group: digest of the root prompt; decides the split.
        history: ends with the user.
        reply: the reply.
        desirable: whether people want such replies.
        properties: what is known of the reply besides.
    """

    id: str
    group: str
    history: tuple[Message, ...]
    reply: str
    desirable: bool
    properties: Properties | None = None

    def __post_init__(self) -> None:
        _check_turns(self.id, self.history, last="user")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A history that waits for a reply; it ends with the user.

    Attributes:
        id: leads back to the row of the source.
        group: digest of the root prompt; decides the split.
        history: ends with the user.
        columns: columns of the source that are kept, as a JSON object by name; None: there are
            none.
        reply: the source's own reply, where that is kept.
    """

    id: str
    group: str
    history: tuple[Message, ...]
    columns: str | None = None
    reply: str | None = None

    def __post_init__(self) -> None:
        _check_turns(self.id, self.history, last="user")


Row: TypeAlias = Conversation | Preference | Feedback | Prompt


def _check_turns(row: str, messages: tuple[Message, ...], last: str) -> None:
    """Guard what the rest of the pipeline builds on; formats report faults of a file earlier."""
    roles = [message.role for message in messages]
    if roles == [TEXT] and last == "assistant":
        return
    turns = roles[1:] if roles[:1] == ["system"] else roles
    wanted = [("user", "assistant")[i % 2] for i in range(len(turns))]
    if not turns or turns != wanted or turns[-1] != last:
        raise DataError(
            "The messages are out of turn.",
            where=f"row {row}: {', '.join(roles) or 'no messages'}",
            expected=f"an optional system message, then user and assistant in turn, {last} last",
        )


def view_of(row: Row) -> str:
    """Name of the view that a row belongs to."""
    return type(row).__name__.lower()


def replies_of(row: Row) -> tuple[str, ...]:
    """The replies that a row compares or judges; of a conversation and of a prompt none."""
    if isinstance(row, Preference):
        return row.replies
    return (row.reply,) if isinstance(row, Feedback) else ()


def texts_of(row: Row) -> Iterator[str]:
    """All texts of a row."""
    for message in row.messages if isinstance(row, Conversation) else row.history:
        yield message.content
    yield from replies_of(row)


@dataclass
class Rows:
    """All rows of a dataset in memory, for small sets and tests; large ones are streamed.

    Attributes:
        conversations: rows of the view ``conversation``.
        preferences: rows of the view ``preference``.
        feedbacks: rows of the view ``feedback``.
        prompts: rows of the view ``prompt``.
        counts: reason → how much of the source was dropped for it.
    """

    conversations: list[Conversation] = field(default_factory=list)
    preferences: list[Preference] = field(default_factory=list)
    feedbacks: list[Feedback] = field(default_factory=list)
    prompts: list[Prompt] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, row: Row) -> None:
        """Append a row to its view."""
        getattr(self, f"{view_of(row)}s").append(row)
