"""The lock beside a configuration: what its revisions and addresses were when it was made.

``config/config.yaml`` has its lock in ``config/config.lock.json``. ``rlhf lock`` writes it, people
commit it, and the fetch stages obey it: for each model and dataset that is in it, the commit, and
the sha256 and size of every file.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.core.digest import digest_value
from rlhf.core.documents import read_json
from rlhf.core.files import write_json
from rlhf.errors import ConfigError, IntegrityError
from rlhf.sources.addresses import read_addresses

VERSION = 1
SECTIONS = ("models", "datasets")
DEFAULT = Path("config/config.yaml")
# Names the configuration's files to the fetch stages: their locks may be too long for an argument.
VARIABLE = "RLHF_CONFIGFILES"

Entry = Mapping[str, Any]


def lock_path(config_file: str | Path) -> Path:
    """Where the lock of a configuration file is."""
    return Path(config_file).with_suffix(".lock.json")


def config_files() -> list[Path]:
    """The configuration's files of the run that this process is part of."""
    return [Path(one) for one in os.environ.get(VARIABLE, "").split(os.pathsep) if one]


class Lock:
    """What is locked; of several configuration files, as with their keys, the later ones win.

    Args:
        config_files: they need not have locks.

    Raises:
        ConfigError: a lock is damaged, or of a later version.
    """

    def __init__(self, config_files: Iterable[str | Path]) -> None:
        self.config_files = [Path(os.path.relpath(one)) for one in config_files]
        self.entries: dict[str, dict[str, Entry]] = {one: {} for one in SECTIONS}
        for file in self.config_files:
            path = lock_path(file)
            if os.path.lexists(path):
                for section, entries in _read(path).items():
                    self.entries[section] |= entries

    @classmethod
    def of_environment(cls) -> Lock:
        """The lock of the run that a stage is part of."""
        return cls(config_files())

    @property
    def variable(self) -> str:
        """Value of the environment's variable, for ``of_environment``."""
        return os.pathsep.join(map(str, self.config_files))

    def digest(self, section: str, name: str) -> str | None:
        """Digest of an entry; None if there is none."""
        entry = self.entries[section].get(name)
        return None if entry is None else digest_value(entry)

    def locked(
        self, section: str, name: str, source: Mapping[str, Any], digest: str | None
    ) -> Locked | None:
        """What a stage has to obey; None: nothing is locked.

        Args:
            section: ``models`` or ``datasets``.
            name: the model's or dataset's.
            source: where the configuration says that it is from.
            digest: that of the entry when the workflow was planned; None: there was none.

        Raises:
            IntegrityError: the entry is another one now, or of another source.
        """
        if digest is None:
            return None
        if self.digest(section, name) != digest:
            paths = ", ".join(str(lock_path(one)) for one in self.config_files)
            raise IntegrityError(
                "The lock changed after this run was planned.",
                where=f"{paths or VARIABLE}: {section}.{name}",
                expected=f"an entry with the digest {digest}",
                hint="run snakemake again",
            )
        made = Locked(self, section, name, self.entries[section][name])
        made.check_source(source)
        return made

    def write(self, entries: Mapping[str, Mapping[str, Entry]]) -> Path:
        """Replace the lock of the last configuration file."""
        path = lock_path(self.config_files[-1])
        write_json(path, {"version": VERSION, **entries})
        return path

    def command(self, name: str) -> str:
        """What to type to lock a model or dataset anew."""
        files = [] if self.config_files == [DEFAULT] else self.config_files
        options = [word for file in files for word in ("--configfile", str(file))]
        return shlex.join(["rlhf", "lock", *options, name])


@dataclass(frozen=True, slots=True)
class Locked:
    """One model or dataset, and what the lock demands of it.

    Attributes:
        lock: the lock.
        section: ``models`` or ``datasets``.
        name: the model's or dataset's.
        entry: ``hub``, ``revision`` and ``commit``, or ``url``; and ``files``.
    """

    lock: Lock
    section: str
    name: str
    entry: Entry

    def check_source(self, source: Mapping[str, Any]) -> None:
        """Refuse a configuration that names another source than the lock.

        Raises:
            IntegrityError: it names what differs, and what to type.
        """
        for key, found in identity(source).items():
            locked = self.entry.get(key)
            if found != locked:
                raise self._mismatch(
                    f"The configuration and the lock differ in {key}.",
                    f"source.{key}",
                    f"{_text(locked)}, as in the lock; found {_text(found)}",
                )

    def check_files(self, files: Mapping[str, Mapping[str, Any]]) -> None:
        """Refuse other files than those of the lock.

        Args:
            files: name → ``sha256`` and ``size``, of what was downloaded.

        Raises:
            IntegrityError: it names a file, what was expected and what was found.
        """
        locked = self.entry["files"]
        counts = f"the {len(locked)} files of the lock; found {len(files)}"
        for file in sorted(locked.keys() | files.keys()):
            if file not in files:
                raise self._mismatch(f"A file of the lock is not there: {file}.", file, counts)
            if file not in locked:
                raise self._mismatch(f"A file is not in the lock: {file}.", file, counts)
            if files[file]["sha256"] != locked[file]["sha256"]:
                raise self._mismatch(
                    f"A file has another digest than in the lock: {file}.",
                    file,
                    f"sha256 {locked[file]['sha256']} ({locked[file]['size']} bytes), found "
                    f"{files[file]['sha256']} ({files[file]['size']} bytes)",
                )

    def _mismatch(self, what: str, where: str, expected: str) -> IntegrityError:
        command = self.lock.command(self.name)
        return IntegrityError(
            what,
            where=f"{self.section}.{self.name}.{where}",
            expected=expected,
            hint=f"find out why; if what is there now is what you want, type `{command}`",
        )


def identity(source: Mapping[str, Any]) -> dict[str, Any]:
    """What a lock's entry and a source have in common: ``hub`` and ``revision``, or ``url``."""
    url = source.get("url")
    return {
        "hub": source.get("hub"),
        "revision": source.get("revision"),
        "url": None if url is None else [one.url for one in read_addresses(url)],
    }


def is_downloaded(source: Mapping[str, Any]) -> bool:
    """Whether a source is one that can be locked."""
    return bool(source.get("hub") or source.get("url"))


def _text(value: str | Sequence[str] | None) -> str:
    return value if isinstance(value, str) else ", ".join(value or ["none"])


def _read(path: Path) -> dict[str, dict[str, Entry]]:
    anew = "delete it and make it anew with `rlhf lock`"
    try:
        value = read_json(path, "lock")
        if value["version"] != VERSION:
            raise ConfigError(
                f"The lock is of version {value['version']}.",
                where=path,
                expected=f"version {VERSION}",
                hint=anew,
            )
        entries = {section: dict(value[section]) for section in SECTIONS}
        for entry in (one for named in entries.values() for one in named.values()):
            if "hub" in entry and not isinstance(entry["commit"], str):
                raise TypeError(entry)
            for file in entry["files"].values():
                if not isinstance(file["sha256"], str) or not isinstance(file["size"], int):
                    raise TypeError(file)
        return entries
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        detail = str(error) if isinstance(error, ValueError) else type(error).__name__
        raise ConfigError(
            f"The lock is damaged: {detail}.",
            where=path,
            expected="what `rlhf lock` wrote",
            hint=f"take it from the repository again (`git checkout`), or {anew}",
        ) from None
