"""YAML and JSON files that people write: read as they are written, with lines for errors.

YAML 1.1 takes more for something else than text than people expect, and of a key that stands twice
its readers forget the first. Here

- a key that stands twice is an error; what is merged (``<<``) may be replaced, as ever;
- keys are the text that stands there; ``Place.unquoted`` says that YAML would take it otherwise;
- dates and times such as ``2024-07-26`` and ``12:30:00`` are text, and ``1e-4`` is a number;
- ``010``, which is 8 to some readers and 10 to others, ``.nan`` and ``.inf`` are errors.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from rlhf.errors import ConfigError

Keys = tuple[str | int, ...]  # from the top of a file down to a value

_TAG = "tag:yaml.org,2002:"
_TRUE, _FALSE = ("yes", "true", "on"), ("no", "false", "off")
_NULL = ("", "~", "null")
_OCTAL = re.compile(r"[-+]?0[0-9_]+")
_MOST_VALUES = 200_000  # aliases of aliases can stand for more than any memory holds
_TOO_MANY = f"The file holds more than {_MOST_VALUES:,} values, what aliases stand for included."
_CIRCLE = "An alias stands for itself."


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands, and how it is written.

    Attributes:
        file: the file.
        line: of its key, from 1; 0 where there are no lines.
        text: what is written, if YAML takes it for something else than text; else None.
        unquoted: whether YAML takes its key for something else than text.
    """

    file: Path
    line: int
    text: str | None = None
    unquoted: bool = False


@dataclass(frozen=True)
class Document:
    """What a file holds.

    Attributes:
        values: the values; keys are text.
        places: where each of them stands; empty for JSON.
    """

    values: Any
    places: dict[Keys, Place] = field(default_factory=dict)


def read_text(path: str | Path, what: str = "file") -> str:
    """Text of a UTF-8 file, without a byte order mark.

    Args:
        path: the file.
        what: what to call it in errors.

    Raises:
        ConfigError: it is missing, a folder, unreadable, or not UTF-8 (with the line).
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"There is no such {what}.", where=path) from None
    except IsADirectoryError:
        raise ConfigError(
            f"This is a folder, not a {what}.", where=path, hint="name a file in it"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"The {what} can't be read: {error.strerror or error}.", where=path
        ) from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"Not UTF-8: {'this is UTF-16' if utf16 else error.reason}.",
            where=path if utf16 else f"{path}:{line}",
            expected="text in UTF-8",
            hint="save it as UTF-8 in your editor",
        ) from None


def read_document(path: str | Path, what: str = "file") -> Document:
    """Read a YAML or JSON file.

    Args:
        path: the file.
        what: what to call it in errors.

    Raises:
        ConfigError: it can't be read, is neither, or a key stands twice; with the line.
    """
    path = Path(path)
    text = read_text(path, what)
    try:
        return _read_json(text, path)
    except _NoJson:
        return _Reader(path).read(text)


def read_json(path: str | Path, what: str = "file") -> Any:
    """Read a JSON file that people may have edited.

    Raises:
        ConfigError: it can't be read, or a key stands twice; with the line.
        ValueError: it is not JSON.
    """
    return _read_json(read_text(path, what), Path(path)).values


def doubled(path: Path, keys: Keys, lines: tuple[int, int] | None) -> ConfigError:
    """The error for a key that stands twice."""
    return ConfigError(
        f"The key {'.'.join(map(str, keys))!r} stands twice, and only one of them would count.",
        where=f"{path}, lines {lines[0]} and {lines[1]}" if lines else path,
        expected="every key once in its section",
        hint="join the two, or give one of them another name",
    )


class _NoJson(ValueError):
    """A text is not JSON."""


class _Twice(Exception):
    """A key stands twice in a JSON object."""


def _read_json(text: str, path: Path) -> Document:
    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(found)
        if len(values) < len(found):
            names = [name for name, _ in found]
            raise _Twice(next(name for name in names if names.count(name) > 1))
        return values

    try:
        values = json.loads(text, object_pairs_hook=pairs, parse_constant=_no_constant)
    except _Twice as twice:
        # The reader for YAML knows lines. A tab in JSON is white space: texts hold none.
        _Reader(path).read(text.replace("\t", " "))
        raise doubled(path, (str(twice),), None) from None
    except RecursionError:
        raise ConfigError("The file is nested too deeply.", where=path) from None
    except ValueError as error:
        raise _NoJson(*error.args) from None
    return Document(values)  # this reader knows no lines


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


class _Resolver(yaml.resolver.BaseResolver):
    """What plain text is taken for."""


for _kind, _pattern, _first in (
    ("bool", rf"(?i:{'|'.join((*_TRUE, *_FALSE))})", "yYnNtTfFoO"),
    ("int", r"[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?"
        r"|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    _Resolver.add_implicit_resolver(_TAG + _kind, re.compile(rf"^(?:{_pattern})$"), list(_first))


class _Loader(
    yaml.reader.Reader,
    yaml.scanner.Scanner,
    yaml.parser.Parser,
    yaml.composer.Composer,
    _Resolver,
):
    """PyYAML's reader up to nodes, which know lines."""

    def __init__(self, text: str) -> None:
        yaml.reader.Reader.__init__(self, text)
        yaml.scanner.Scanner.__init__(self)
        yaml.parser.Parser.__init__(self)
        yaml.composer.Composer.__init__(self)
        _Resolver.__init__(self)


class _Reader:
    """Makes values of the nodes of one file, and notes where they stand."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[Keys, Place] = {}
        self._open: set[int] = set()  # nodes that are being read
        self._left = _MOST_VALUES

    def read(self, text: str) -> Document:
        try:
            node = _Loader(text).get_single_node()
            values = None if node is None else self._value(node, ())
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise ConfigError(
                f"Not YAML: it holds the character U+{error.character:04X}.",
                where=f"{self._path}:{line}",
                expected="text",
            ) from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f"{self._path}:{mark.line + 1}:{mark.column + 1}" if mark else self._path
            tab = "'\\t'" in str(error.problem)
            raise ConfigError(
                f"Not YAML: {', '.join(filter(None, (error.context, error.problem)))}.",
                where=where,
                hint="indent with spaces: YAML takes no tabs" if tab else None,
            ) from None
        except RecursionError:
            raise ConfigError("The file is nested too deeply.", where=self._path) from None
        return Document(values, self._places)

    def _value(self, node: yaml.Node, keys: Keys) -> Any:
        self._left -= 1
        if id(node) in self._open or self._left < 0:
            self._refuse(node, _CIRCLE if id(node) in self._open else _TOO_MANY)
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.ScalarNode):
                return self._scalar(node)
            if node.tag not in (f"{_TAG}map", f"{_TAG}seq"):
                self._refuse(node, f"The tag {_shown(node.tag)} means nothing here.")
            if not isinstance(node, yaml.MappingNode):
                values = []
                for index, one in enumerate(node.value):
                    self._note((*keys, index), one, one)
                    values.append(self._value(one, (*keys, index)))
                return values
            made = {}
            for name, (key, one) in self._pairs(node, keys).items():
                self._note((*keys, name), key, one)
                made[name] = self._value(one, (*keys, name))
            return made
        finally:
            self._open.discard(id(node))

    def _note(self, keys: Keys, key: yaml.Node, node: yaml.Node) -> None:
        other = isinstance(node, yaml.ScalarNode) and node.tag != f"{_TAG}str"
        named = key is not node and key.tag != f"{_TAG}str"
        line = key.start_mark.line + 1
        self._places[keys] = Place(self._path, line, node.value if other else None, named)

    def _pairs(self, node: yaml.MappingNode, keys: Keys) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Key → its node and its value's; what stands here goes before what is merged."""
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        self._left -= len(node.value)
        if self._left < 0:
            self._refuse(node, _TOO_MANY)
        for key, value in node.value:
            if key.tag == f"{_TAG}merge":
                for source in reversed(list(self._sources(value))):
                    merged |= self._merged(source, keys)
                continue
            if not isinstance(key, yaml.ScalarNode):
                self._refuse(key, "A key has to be text.")
            if key.value in own:
                lines = (own[key.value][0].start_mark.line + 1, key.start_mark.line + 1)
                raise doubled(self._path, (*keys, key.value), lines)
            own[key.value] = (key, value)
        return merged | own

    def _merged(
        self, source: yaml.MappingNode, keys: Keys
    ) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        if id(source) in self._open:
            self._refuse(source, _CIRCLE)
        self._open.add(id(source))
        try:
            return self._pairs(source, keys)
        finally:
            self._open.discard(id(source))

    def _sources(self, node: yaml.Node) -> Iterator[yaml.MappingNode]:
        for one in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(one, yaml.MappingNode):
                self._refuse(one, "`<<` merges sections, and this is none.")
            yield one

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text, kind = node.value, node.tag.removeprefix(_TAG)
        if kind == "str":
            if any("\ud800" <= char <= "\udfff" for char in text):
                self._refuse(node, "A text holds half of a surrogate pair (\\ud800 to \\udfff).")
            return text
        if kind == "int" and _OCTAL.fullmatch(text) and text.strip("-+0_"):
            ten = text.replace("_", "").lstrip("-+0")
            self._refuse(
                node,
                f"{text} is one number to some readers of YAML and another to others.",
                f'write {ten}, if that is meant; or "{text}" in quotes for text',
            )
        try:
            value = _plain(kind, text)
        except ValueError:
            self._refuse(node, f"{text[:40]!r} can't be read as {_shown(node.tag)}.")
        if isinstance(value, float) and not math.isfinite(value):
            self._refuse(
                node,
                f"{text} is no finite number.",
                f'write a number; or "{text}" in quotes for text',
            )
        return value

    def _refuse(self, node: yaml.Node, what: str, hint: str | None = None) -> NoReturn:
        mark = node.start_mark
        where = f"{self._path}:{mark.line + 1}:{mark.column + 1}"
        raise ConfigError(what, where=where, hint=hint)


def _plain(kind: str, text: str) -> bool | int | float | None:
    """The value of what is not text."""
    plain = text.replace("_", "").lower()
    if kind == "null" and plain in _NULL:
        return None
    if kind == "bool" and plain in (*_TRUE, *_FALSE):
        return plain in _TRUE
    if kind == "int":
        return int(plain, 0 if plain.lstrip("-+")[1:2] in ("x", "b") else 10)
    if kind == "float":
        return float(plain.replace(".inf", "inf").replace(".nan", "nan"))
    raise ValueError(kind)


def _shown(tag: str) -> str:
    return tag.replace(_TAG, "!!")
