"""What becomes of each key: carried over, without a meaning here, or not supported."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from rlhf.config.problems import suggest
from rlhf.errors import ConfigError

AS_HERE = "what it asks for is what happens here"


@dataclass(frozen=True)
class Carried:
    """The value goes to a key of ours as it is; ``to`` is that key, below the run's own name."""

    to: str


@dataclass(frozen=True)
class Used:
    """The translation reads it and says what became of it."""


@dataclass(frozen=True)
class Ignored:
    """It has no meaning here, whatever its value."""

    why: str


@dataclass(frozen=True)
class MustBe:
    """Some values ask for what happens here anyway; others cannot be carried over."""

    fine: tuple[Any, ...]
    lacking: str


Disposition = Carried | Used | Ignored | MustBe


class Settings(BaseModel):
    """Keys that a trainer reads, each annotated with its type and its disposition; None: not given.

    Numbers may be text, as PyYAML reads ``1e-5``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @classmethod
    def dispositions(cls) -> dict[str, Disposition]:
        """Key → what becomes of it."""
        return {
            name: next(one for one in info.metadata if isinstance(one, Disposition))
            for name, info in cls.model_fields.items()
        }


Read = TypeVar("Read", bound=Settings)


@dataclass
class Dispositions:
    """What became of all keys.

    Attributes:
        carried: their key → ours.
        ignored: reason → keys that have no meaning here.
        lacking: key and value → why it could not be carried over.
        notes: what had to be assumed.
    """

    carried: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, list[str]] = field(default_factory=dict)
    lacking: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def carry(self, key: str, to: str) -> None:
        """A key's value stands in the configuration."""
        self.carried[key] = to

    def ignore(self, key: str, why: str) -> None:
        """A key says nothing here."""
        self.ignored.setdefault(why, []).append(key)

    def miss(self, key: str, value: Any, why: str) -> None:
        """A key's value is lost."""
        self.lacking[f"{key}: {_shown(value)}"] = why

    def note(self, text: str) -> None:
        """Something that nobody said had to be assumed."""
        if text not in self.notes:
            self.notes.append(text)

    def close(self, settings: Settings, prefix: str = "") -> None:
        """Settings that hold nothing, and that nobody said anything of, say nothing here."""
        told = {*self.carried, *(key for keys in self.ignored.values() for key in keys)}
        for key in settings.dispositions():
            given = key in settings.model_fields_set
            if given and prefix + key not in told and getattr(settings, key) in (None, [], {}):
                self.ignore(prefix + key, "it is empty")

    def carry_over(self, settings: Settings, run: str, prefix: str = "") -> dict[str, Any]:
        """Values that are carried over as they are, by our key; notes all keys but the `Used`.

        Args:
            settings: a trainer's settings.
            run: the run's key, such as ``sft.chat``.
            prefix: what stands before their keys, such as ``method.``.
        """
        carried = {}
        for key, disposition in settings.dispositions().items():
            value = getattr(settings, key)
            name = prefix + key
            if key not in settings.model_fields_set or isinstance(disposition, Used):
                continue
            if isinstance(disposition, Ignored):
                self.ignore(name, disposition.why)
            elif isinstance(disposition, MustBe):
                if value is None or value in disposition.fine:
                    self.ignore(name, AS_HERE)
                else:
                    self.miss(name, value, disposition.lacking)
            elif value is not None:
                carried[disposition.to] = value
                self.carry(name, f"{run}.{disposition.to}")
        return carried


def read_settings(
    values: dict[str, Any],
    model: type[Read],
    dispositions: Dispositions,
    where: str,
    others: tuple[type[Settings], ...] = (),
    prefix: str = "",
) -> Read:
    """Read a trainer's settings.

    Args:
        values: merged settings.
        model: keys that the trainer reads.
        dispositions: gets those that only the other trainers read.
        where: the trainer, for messages.
        others: keys of all trainers.
        prefix: what stands before the keys, for messages.

    Raises:
        ConfigError: unknown keys, with suggestions, and values of wrong types.
    """
    known = set(model.model_fields).union(*(one.model_fields for one in others))
    unknown = [key for key in values if key not in known]
    if unknown:
        lines = (f"{prefix}{key}: unknown key; {_advice(key, known)}" for key in unknown)
        raise ConfigError(
            "Settings of Open-Assistant have unknown keys:\n    " + "\n    ".join(lines),
            where=where,
            expected="keys that its trainers read",
        )
    for key in values:
        if key not in model.model_fields:
            dispositions.ignore(prefix + key, f"{where} does not read it")
    try:
        return model.model_validate({k: v for k, v in values.items() if k in model.model_fields})
    except ValidationError as error:
        raise ConfigError(
            "Settings of Open-Assistant are wrong:\n    " + "\n    ".join(_wrong(error, prefix)),
            where=where,
        ) from None


def _wrong(error: ValidationError, prefix: str) -> Iterator[str]:
    for item in error.errors():
        key = prefix + ".".join(map(str, item["loc"]))
        message = item["msg"].replace("Input should", "should")
        yield f"{key}: {message} (got {_shown(item['input'])})"


def _advice(key: str, known: set[str]) -> str:
    advice = suggest(key, known)
    return advice if advice.startswith("did you mean") else "none is like it"


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else text[:59] + "…"
