"""Rows: what every format is turned into, and the Parquet files that hold them.

A rows folder has one file per view: ``conversation.parquet``, ``preference.parquet``,
``feedback.parquet`` and ``prompt.parquet``. Their column ``split`` is ``train`` or ``validation``.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from rlhf.errors import DataError, IntegrityError

if TYPE_CHECKING:
    import pyarrow as pa

Role: TypeAlias = Literal["system", "user", "assistant", "text"]
ROLES: tuple[Role, ...] = get_args(Role)[:3]  # of a dialogue
TEXT: Role = "text"  # plain text for language modelling: alone, and without a template
RATINGS = ("quality", "humor", "creativity")
SPLITS = ("train", "validation")
VIEWS = ("conversation", "preference", "feedback", "prompt")
SCORED = "preference with scores"  # schema of that view where the source scores replies
ROW_GROUP = 1024  # rows held in memory while writing and reading
GROUPS_KEPT = 64  # row groups in memory where single prompts are looked up
KEPT = ("columns", "reply")  # of prompts, where a dataset keeps them


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

    @classmethod
    def read(cls, folder: str | Path, split: str | None = None) -> Rows:
        """Read a rows folder, or one split of it."""
        rows = cls()
        for view in VIEWS:
            for row in read_rows(folder, view, split):
                rows.add(row)
        return rows


def _schemas() -> dict[str, Any]:
    import pyarrow as pa

    numbers = [(name, pa.float64()) for name in RATINGS]
    properties = pa.struct([("lang", pa.string()), *numbers, ("context", pa.string())])
    turn = [("role", pa.string()), ("content", pa.string()), ("properties", properties)]
    turn.append(("trained", pa.bool_()))
    messages = pa.list_(pa.struct(turn))
    replies = [("replies", pa.list_(pa.string())), ("properties", pa.list_(properties))]
    judged = [("reply", pa.string()), ("desirable", pa.bool_()), ("properties", properties)]
    common = [("id", pa.string()), ("group", pa.string()), ("split", pa.string())]
    preference = pa.schema([*common, ("history", messages), *replies])
    return {
        "conversation": pa.schema([*common, ("messages", messages)]),
        "preference": preference,
        SCORED: preference.append(pa.field("scores", pa.list_(pa.float64()))),
        "feedback": pa.schema([*common, ("history", messages), *judged]),
        "prompt": pa.schema([*common, ("history", messages)]),
    }


def _kept_fields(kept: Collection[str]) -> list[Any]:
    import pyarrow as pa

    return [pa.field(name, pa.string()) for name in KEPT if name in kept]


class RowsWriter:
    """Writes a rows folder as rows come, a row group at a time; equal rows give equal bytes.

    Args:
        folder: an existing folder.
        kept: which of ``KEPT`` the prompts have.
        scored: whether preferences have scores.
    """

    def __init__(
        self, folder: str | Path, kept: Collection[str] = (), scored: bool = False
    ) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schemas = _schemas()
        self._schemas = {view: schemas[view] for view in VIEWS}
        self._schemas["prompt"] = pa.schema([*schemas["prompt"], *_kept_fields(kept)])
        if scored:
            self._schemas["preference"] = schemas[SCORED]
        self._pending: dict[str, list[dict[str, Any]]] = {view: [] for view in VIEWS}
        self._writers = {
            view: pq.ParquetWriter(Path(folder, f"{view}.parquet"), schema, compression="zstd")
            for view, schema in self._schemas.items()
        }

    def __enter__(self) -> RowsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for view, writer in self._writers.items():
            self._flush(view)
            writer.close()

    def add(self, row: Row, split: str) -> None:
        """Write one row of any view."""
        view = view_of(row)
        self._pending[view].append({"split": split} | _as_record(row))
        if len(self._pending[view]) == ROW_GROUP:
            self._flush(view)

    def _flush(self, view: str) -> None:
        import pyarrow as pa

        if self._pending[view]:
            table = pa.Table.from_pylist(self._pending[view], schema=self._schemas[view])
            self._writers[view].write_table(table)
            self._pending[view] = []


def _as_record(row: Row) -> dict[str, Any]:
    messages = row.messages if isinstance(row, Conversation) else row.history
    record: dict[str, Any] = {"id": row.id, "group": row.group}
    record["messages" if isinstance(row, Conversation) else "history"] = [
        {
            "role": message.role,
            "content": message.content,
            "properties": _as_struct(message.properties),
            "trained": message.trained,
        }
        for message in messages
    ]
    if isinstance(row, Preference):
        record["replies"] = list(row.replies)
        record["properties"] = [_as_struct(one) for one in row.properties]
        if row.scores:
            record["scores"] = list(row.scores)
    if isinstance(row, Feedback):
        record |= {"reply": row.reply, "desirable": row.desirable}
        record["properties"] = _as_struct(row.properties)
    if isinstance(row, Prompt):
        record |= {"columns": row.columns, "reply": row.reply}
    return record


def _as_struct(properties: Properties | None) -> dict[str, Any] | None:
    return asdict(properties) if properties else None


def _from_struct(struct: dict[str, Any] | None) -> Properties | None:
    return Properties(**struct) if struct else None


class RowsFile:
    """One view of a rows folder, to read its row groups in any order, each by itself.

    Args:
        folder: a rows folder.
        view: one of ``VIEWS``.

    Attributes:
        groups: how many row groups there are.
        kept: which of ``KEPT`` the rows have.
        scored: whether the rows are preferences with scores.

    Raises:
        IntegrityError: the file is absent or is not a rows file.
    """

    def __init__(self, folder: str | Path, view: str) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = Path(folder, f"{view}.parquet")
        try:
            self._file = pq.ParquetFile(path)
            schema, schemas = self._file.schema_arrow, _schemas()
            self.scored = view == "preference" and schema.equals(schemas[SCORED])
            self.kept = [one for one in KEPT if view == "prompt" and one in schema.names]
            known = schemas[SCORED if self.scored else view]
            if not schema.equals(pa.schema([*known, *_kept_fields(self.kept)])):
                raise pa.ArrowInvalid(f"columns are {schema.names}")
        except (FileNotFoundError, pa.ArrowInvalid) as error:
            raise IntegrityError(
                f"The rows cannot be read: {error}",
                where=path,
                hint="delete the dataset's folder and run snakemake again",
            ) from None
        self._view, self.groups = view, self._file.num_row_groups

    def read(self, group: int) -> Iterator[tuple[str, Row]]:
        """Split and row, of each row of a group."""
        # one core: whoever reads large files keeps the others busy with what it reads
        for batch in self._file.read_row_group(group, use_threads=False).to_batches():
            splits = batch.column("split").to_pylist()
            yield from zip(splits, _from_columns(self._view, batch, self.kept), strict=True)

    def ids(self, group: int) -> list[str]:
        """Ids of the rows of a group."""
        columns = self._file.read_row_group(group, columns=["id"], use_threads=False)
        return columns.column("id").to_pylist()


def _from_columns(view: str, batch: pa.RecordBatch, kept: Collection[str]) -> Iterator[Row]:
    ids, groups = (batch.column(name).to_pylist() for name in ("id", "group"))
    if view == "conversation":
        return map(Conversation, ids, groups, _messages(batch.column("messages")))
    histories = _messages(batch.column("history"))
    if view == "prompt":
        nothing = [None] * len(ids)
        columns, own = (batch.column(one).to_pylist() if one in kept else nothing for one in KEPT)
        return map(Prompt, ids, groups, histories, columns, own)
    if view == "feedback":
        texts, labels = (batch.column(name).to_pylist() for name in ("reply", "desirable"))
        of_reply = map(_from_struct, batch.column("properties").to_pylist())
        return map(Feedback, ids, groups, histories, texts, labels, of_reply)
    replies = map(tuple, batch.column("replies").to_pylist())
    known = [tuple(map(_from_struct, one)) for one in batch.column("properties").to_pylist()]
    scores: Iterable[tuple[float, ...]] = itertools.repeat(())
    if "scores" in batch.schema.names:
        scores = map(tuple, batch.column("scores").to_pylist())
    return map(Preference, ids, groups, histories, replies, known, scores)


def _messages(lists: pa.ListArray) -> list[tuple[Message, ...]]:
    """The messages of each row; column by column, which is four times as fast as row by row."""
    ends = list(itertools.accumulate(lists.value_lengths().to_pylist(), initial=0))
    roles, contents, properties, trained = lists.flatten().flatten()
    known: Iterable[Properties | None] = itertools.repeat(None)
    if properties.null_count < len(properties):
        known = map(_from_struct, properties.to_pylist())
    messages = list(
        map(Message, roles.to_pylist(), contents.to_pylist(), known, trained.to_pylist())
    )
    return [tuple(messages[start:end]) for start, end in itertools.pairwise(ends)]


def read_rows(folder: str | Path, view: str, split: str | None = None) -> Iterator[Row]:
    """Stream the rows of one view, in the order of the source.

    Args:
        folder: a rows folder.
        view: one of ``VIEWS``.
        split: ``train``, ``validation``, or None for both.

    Raises:
        IntegrityError: the file is absent or is not a rows file.
    """
    file = RowsFile(folder, view)
    for group in range(file.groups):
        for where, row in file.read(group):
            if split is None or where == split:
                yield row


def find_prompts(folder: str | Path, ids: Collection[str]) -> dict[str, Prompt]:
    """The prompts with the given ids, by id; the file is streamed.

    Args:
        folder: a rows folder.
        ids: ids of rows of the view ``prompt``.

    Raises:
        IntegrityError: a prompt is not there, or as in `read_rows`.
    """
    found = {
        row.id: row
        for row in read_rows(folder, "prompt")
        if row.id in ids and isinstance(row, Prompt)
    }
    missing = sorted(set(ids) - found.keys())
    if missing:
        raise _no_prompt(missing[0], Path(folder, "prompt.parquet"))
    return found


class PromptsById:
    """The prompts of a rows folder, to look them up by their ids.

    Where each stands is in memory; row groups are read as they are asked for, and some are kept.

    Args:
        folder: a rows folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self._path = Path(folder, "prompt.parquet")
        self._file = RowsFile(folder, "prompt")
        self._groups = {
            row: group for group in range(self._file.groups) for row in self._file.ids(group)
        }
        self._read = functools.lru_cache(GROUPS_KEPT)(self._of_group)

    def find(self, row_id: str) -> Prompt:
        """A prompt.

        Raises:
            IntegrityError: it is not there.
        """
        if row_id not in self._groups:
            raise _no_prompt(row_id, self._path)
        return self._read(self._groups[row_id])[row_id]

    def _of_group(self, group: int) -> dict[str, Prompt]:
        rows = (row for _, row in self._file.read(group))
        return {row.id: row for row in rows if isinstance(row, Prompt)}


def _no_prompt(row_id: str, path: Path) -> IntegrityError:
    return IntegrityError(
        f"The dataset has no prompt {row_id!r}.",
        where=path,
        expected="the rows that the tokenized set was made from",
        hint="run snakemake again: it makes anew what does not fit",
    )
