"""Rows that say what another one says: word for word, or nearly.

Texts are compared without case and white space. Nearness is the Jaccard similarity of their word
sequences, estimated from MinHash signatures (Broder 1997); a locality-sensitive index proposes
whom to compare. Signatures are seeded: the same rows give the same answer.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rlhf.core.digest import digest_value
from rlhf.data.rows import SPLITS, VIEWS, Conversation, Feedback, Row, replies_of
from rlhf.data.rows_file import read_rows

if TYPE_CHECKING:
    from rensa import RMinHash

SLOTS = 128  # of a signature: the estimate's standard error is 1 / √128 at most
SEED = 1
RECALL = 0.99  # of pairs that are as similar as the threshold, by the index
BATCH = 1024  # rows whose signatures are made in one call
# Scripts without spaces: every character counts as a word.
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORDS = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])\w)+")


@dataclass(frozen=True)
class Method:
    """What counts as a duplicate.

    Attributes:
        near: whether near-duplicates count too.
        threshold: least similarity of two of them.
        words: length of the word sequences that are compared.
    """

    near: bool = True
    threshold: float = 0.8
    words: int = 5


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row is."""

    dataset: str
    split: str
    id: str


@dataclass(frozen=True, slots=True)
class Text:
    """What is compared.

    Attributes:
        place: the row that it is from.
        group: the row's group. Rows of one group and dataset are branches of one tree: they are
            alike by their nature, so only equal ones are duplicates.
        key: digest of the text without case and white space.
        content: the text.
    """

    place: Place
    group: str
    key: str
    content: str


@dataclass(frozen=True, slots=True)
class Match:
    """A row and the one that it repeats."""

    place: Place
    of: Place
    kind: Literal["exact", "near"]
    similarity: float


def whole_text(dataset: str, split: str, row: Row) -> Text:
    """All that a row says: every turn, every reply of a preference in its rank, every label."""
    messages = row.messages if isinstance(row, Conversation) else row.history
    # Who leaves out a row of which more turns are trained loses them.
    parts: list[tuple[str, str]] = [
        (one.role if one.trained else "context", _plain(one.content)) for one in messages
    ]
    kind = "reply"
    if isinstance(row, Feedback):
        kind = "desirable" if row.desirable else "undesirable"
    parts += [(kind, _plain(reply)) for reply in replies_of(row)]
    content = "\n".join(text for _, text in parts)
    return Text(Place(dataset, split, row.id), row.group, digest_value(parts), content)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def find(texts: Iterable[Text], method: Method) -> Iterator[Match]:
    """Yield each text that repeats an earlier one that itself repeats none.

    Args:
        texts: in the order of precedence: the first of several stays.
        method: what counts as a duplicate.
    """
    seen: dict[str, Place] = {}
    index = _Index(method)
    remaining = iter(texts)
    while batch := list(itertools.islice(remaining, BATCH)):
        fresh = [text for text in batch if text.key not in seen] if method.near else []
        signatures = dict(zip(fresh, index.sign([text.content for text in fresh]), strict=True))
        for text in batch:
            if text.key in seen:
                yield Match(text.place, seen[text.key], "exact", 1.0)
                continue
            if method.near:
                if found := index.nearest(text, signatures[text]):
                    yield Match(text.place, found[0], "near", round(found[1], 4))
                    continue
                index.add(text, signatures[text])
            seen[text.key] = text.place


class _Index:
    """Signatures of the texts that repeat none, and who may be near whom."""

    def __init__(self, method: Method) -> None:
        self._method = method
        self._rows: list[tuple[Place, str]] = []  # and their groups; texts would fill the memory
        self._signatures: list[RMinHash] = []
        if method.near:
            from rensa import RMinHashLSH

            self._candidates = RMinHashLSH(method.threshold, SLOTS, bands(method.threshold))

    def sign(self, contents: Sequence[str]) -> list[RMinHash]:
        """Signatures of texts."""
        if not contents:
            return []
        from rensa import RMinHash

        sequences = [word_sequences(content, self._method.words) for content in contents]
        return RMinHash.from_token_sets(sequences, SLOTS, SEED)

    def nearest(self, text: Text, signature: RMinHash) -> tuple[Place, float] | None:
        """The most similar row that is not a branch of the same tree; the first of equals."""
        best: tuple[float, int] | None = None
        for i in self._candidates.query(signature):
            place, group = self._rows[i]
            if (place.dataset, group) == (text.place.dataset, text.group):
                continue
            similarity = signature.jaccard(self._signatures[i])
            if similarity >= self._method.threshold and (best is None or (similarity, -i) > best):
                best = similarity, -i
        return None if best is None else (self._rows[-best[1]][0], best[0])

    def add(self, text: Text, signature: RMinHash) -> None:
        """From now on others may be near this text."""
        self._candidates.insert(len(self._rows), signature)
        self._rows.append((text.place, text.group))
        self._signatures.append(signature)


def bands(threshold: float) -> int:
    """The fewest bands that find ``RECALL`` of the pairs at the threshold.

    b bands of r slots propose a pair of similarity s with probability 1 − (1 − sʳ)ᵇ.
    """
    for slots in (32, 16, 8, 4, 2):
        if 1 - (1 - threshold**slots) ** (SLOTS // slots) >= RECALL:
            return SLOTS // slots
    return SLOTS


def word_sequences(text: str, words: int) -> list[str]:
    """Every run of so many words; a shorter text is one sequence, and one without words itself."""
    found = _WORDS.findall(text)
    if len(found) <= words:
        return [" ".join(found) or text]
    return [" ".join(found[i : i + words]) for i in range(len(found) - words + 1)]


@dataclass
class Prompts:
    """Root prompts of many rows, by what they ask.

    Attributes:
        texts: group → its first text.
        where: group → (view, split, dataset) that it is in.
    """

    texts: dict[str, Text] = field(default_factory=dict)
    where: dict[str, set[tuple[str, str, str]]] = field(default_factory=dict)

    def add(self, view: str, dataset: str, split: str, row: Row) -> None:
        """Take in the root prompt of a row."""
        messages = row.messages if isinstance(row, Conversation) else row.history
        root = next(message.content for message in messages if message.role != "system")
        place = Place(dataset, split, row.group)  # the group stands for its rows
        self.texts.setdefault(row.group, Text(place, row.group, row.group, _plain(root)))
        self.where.setdefault(row.group, set()).add((view, split, dataset))

    def classes(self, method: Method) -> dict[str, str]:
        """Group → the group that it repeats, or itself."""
        same = {group: group for group in self.texts}
        if method.near:
            same |= {one.place.id: one.of.id for one in find(self.texts.values(), method)}
        return same

    def shared(self, method: Method) -> dict[tuple[str, str], dict[tuple[str, str], int]]:
        """How many different prompts two parts of the data have in common.

        Returns:
            (view, split) → (view, split) → prompts; on the diagonal, all prompts of the part.
        """
        parts: dict[tuple[str, str], set[str]] = {}
        for group, one in self.classes(method).items():
            for view, split, _ in self.where[group]:
                parts.setdefault((view, split), set()).add(one)
        names = sorted(parts)
        return {a: {b: len(parts[a] & parts[b]) for b in names} for a in names}

    def held_out(self, method: Method) -> set[str]:
        """Groups that ask what a held-out one asks; the held-out groups are among them."""
        same = self.classes(method)
        held = {
            same[group]
            for group, places in self.where.items()
            if any(split == "validation" for _, split, _ in places)
        }
        return {group for group, one in same.items() if one in held}


def survey(folders: Mapping[str, Path], method: Method) -> dict[str, Any]:
    """Count repeated rows and shared prompts of whole datasets.

    Args:
        folders: dataset name → rows folder.
        method: what counts as a duplicate.

    Returns:
        ``repeated``: for each view, part (dataset and split), part that is repeated and kind, the
        number of rows; of a held-out row and its copy the copy counts. ``shared_prompts``: for each
        two of view and split, the different root prompts that both have.
    """
    prompts = Prompts()
    repeated = [one for view in VIEWS for one in _survey_view(folders, view, method, prompts)]
    shared = [
        {"view": a[0], "split": a[1], "other_view": b[0], "other_split": b[1], "prompts": count}
        for a, others in prompts.shared(method).items()
        for b, count in others.items()
        if a <= b
    ]
    return {"method": asdict(method), "repeated": repeated, "shared_prompts": shared}


def _survey_view(
    folders: Mapping[str, Path], view: str, method: Method, prompts: Prompts
) -> list[dict[str, Any]]:
    rows: Counter[tuple[str, str]] = Counter()
    found: Counter[tuple[str, str, str, str, str]] = Counter()

    def texts() -> Iterator[Text]:
        for split in reversed(SPLITS):
            for name in sorted(folders):
                for row in read_rows(folders[name], view, split):
                    rows[name, split] += 1
                    prompts.add(view, name, split, row)
                    yield whole_text(name, split, row)

    for match in find(texts(), method):
        a, b = match.place, match.of
        found[a.dataset, a.split, b.dataset, b.split, match.kind] += 1
    return [
        {
            "view": view,
            "dataset": dataset,
            "split": split,
            "of_dataset": of_dataset,
            "of_split": of_split,
            "kind": kind,
            "rows": count,
            "of": rows[dataset, split],
        }
        for (dataset, split, of_dataset, of_split, kind), count in sorted(found.items())
    ]
