"""Rows folders: the Parquet files that hold rows.

There is one file per view: ``conversation.parquet``, ``preference.parquet``, ``feedback.parquet``
and ``prompt.parquet``. Their column ``split`` is ``train`` or ``validation``.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.data.rows import (
    RATINGS,
    VIEWS,
    Conversation,
    Feedback,
    Message,
    Preference,
    Prompt,
    Properties,
    Row,
    Rows,
    view_of,
)
from rlhf.errors import IntegrityError

if TYPE_CHECKING:
    import pyarrow as pa

SCORED = "preference with scores"  # schema of that view where the source scores replies
ROW_GROUP = 1024  # rows held in memory while writing and reading
GROUPS_KEPT = 64  # row groups in memory where single prompts are looked up
KEPT = ("columns", "reply")  # of prompts, where a dataset keeps them


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


def read_all(folder: str | Path, split: str | None = None) -> Rows:
    """A rows folder, or one split of it, in memory."""
    rows = Rows()
    for view in VIEWS:
        for row in read_rows(folder, view, split):
            rows.add(row)
    return rows


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
