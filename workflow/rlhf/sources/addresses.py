"""Files at plain addresses: download with resume, repeat, verify, and explain what went wrong."""

from __future__ import annotations

import errno
import logging
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from rlhf.core.digest import digest_value
from rlhf.core.files import read_json, write_json
from rlhf.errors import DataError, IntegrityError
from rlhf.sources.downloaded import Downloaded, describe_file
from rlhf.sources.hub import ATTEMPTS, NO_NETWORK, PAUSE

logger = logging.getLogger(__name__)

SCHEMES = ("http", "https", "file")
CHUNK = 2**20  # bytes


@dataclass(frozen=True, slots=True)
class Address:
    """One file's address.

    Attributes:
        url: without its fragment.
        name: the file's name, the last part of the path.
        sha256: digest that the fragment gives (``#sha256=…``), or None.
    """

    url: str
    name: str
    sha256: str | None

    @property
    def local(self) -> Path | None:
        """The file on this machine that a ``file:`` address names."""
        parts = urlsplit(self.url)
        return Path(url2pathname(parts.path)) if parts.scheme == "file" else None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an address as it stands in a configuration.

        Raises:
            ValueError: it is none, or it lacks a file's name.
        """
        parts = urlsplit(text)
        name = PurePosixPath(unquote(parts.path)).name
        digest = re.fullmatch(r"sha256=([0-9a-f]{64})", parts.fragment)
        if parts.scheme not in SCHEMES or not (parts.hostname or parts.scheme == "file"):
            raise ValueError(f"{text!r} is no address of a file: write http(s)://… or file://…")
        if not name or parts.path.endswith("/") or name.startswith("."):
            raise ValueError(f"{text!r} does not end with a file's name")
        if parts.username or parts.password:
            raise ValueError(f"passwords do not belong in a configuration ({parts.hostname})")
        if parts.fragment and not digest:
            raise ValueError(f"{text!r}: after # write sha256= and 64 hexadecimal digits")
        return cls(parts._replace(fragment="").geturl(), name, digest[1] if digest else None)


def read_addresses(source: str | Sequence[str]) -> list[Address]:
    """The addresses of ``source.url``: one, or several of files with different names.

    Raises:
        ValueError: one is wrong, there is none, or two have one name.
    """
    addresses = [Address.parse(one) for one in ([source] if isinstance(source, str) else source)]
    names = [one.name for one in addresses]
    if not names:
        raise ValueError("give at least one address")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two files are called {twice[0]}")
    return addresses


def download(
    addresses: Sequence[Address], where: str, locked: Mapping[str, str] | None = None
) -> Downloaded:
    """Download files into a folder of the hub's cache (``HF_HOME``), or find them there.

    A file that was cut is resumed, also by a later call, if it is still the same. A file whose
    digest is known is not asked for again; another one is, but is sent only if it has changed.

    Args:
        addresses: of files with different names.
        where: configuration key of the dataset, for messages.
        locked: name → sha256 that a lock demands; what an address itself demands goes before.

    Raises:
        DataError: it did not work; it names the address and says what to do.
        IntegrityError: a file has another digest; it is removed.
    """
    from huggingface_hub import cached_assets_path, constants
    from huggingface_hub.utils import WeakFileLock

    key = digest_value([one.url for one in addresses])[:16]
    folder = cached_assets_path("rlhf", "urls", key, assets_dir=constants.HF_ASSETS_CACHE)
    files = {}
    with WeakFileLock(folder / ".lock"):
        for one in addresses:
            wanted = one.sha256 or (locked or {}).get(one.name)
            files[one.name] = _File(one, folder, f"{where}.source.url: {one.url}", wanted).get()
    return Downloaded(folder, files)


class _File:
    """One file in the making: ``.<name>.part`` grows beside it, ``.<name>.json`` says of what."""

    def __init__(self, address: Address, folder: Path, where: str, sha256: str | None) -> None:
        self.address, self.where, self.sha256 = address, where, sha256
        self.path = folder / address.name
        self.part = folder / f".{address.name}.part"
        self.note = folder / f".{address.name}.json"

    def get(self) -> dict[str, Any]:
        """Have the file in its place; returns its sha256 and size."""
        if self.path.is_file() and self.sha256:
            there = describe_file(self.path)
            if there["sha256"] == self.sha256:
                return there
            self.path.unlink()  # of another time
        if self.address.local:
            self._copy(self.address.local)
        else:
            self._persist()
        made = describe_file(self.path)
        if self.sha256 and made["sha256"] != self.sha256:
            self._forget()
            raise IntegrityError(
                f"The downloaded file has another digest: {self.address.name}.",
                where=self.where,
                expected=f"sha256 {self.sha256}, found {made['sha256']} ({made['size']} bytes)",
                hint="it was removed; run the same command again. If this comes again, the file "
                "has changed: look at it, then correct its digest, or type `rlhf lock`",
            )
        return made

    def _copy(self, source: Path) -> None:
        if not source.is_file():
            raise DataError(
                f"There is no such file: {source}.",
                where=self.where,
                expected="a file on this machine",
                hint="correct the address",
            )
        shutil.copyfile(source, self.part)
        self.part.replace(self.path)

    def _persist(self) -> None:
        """Try until nothing new has come for some attempts."""
        from huggingface_hub.errors import HTTPError

        left = ATTEMPTS
        while True:
            before = self._size()
            try:
                return self._stream()
            except (OSError, HTTPError) as error:
                left = ATTEMPTS if self._size() > before else left
                left -= 1
                problem, hint, transient = self._explain(error)
                if not transient or not left:
                    if transient:
                        problem += f" ({ATTEMPTS} attempts)"
                    raise DataError(problem, where=self.where, hint=hint) from error
                delay = PAUSE * 2 ** (ATTEMPTS - 1 - left)
                logger.warning("%s: %s Trying again in %.0f s.", self.address.name, problem, delay)
                time.sleep(delay)

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def _stream(self) -> None:
        """One connection, from where the last one ended."""
        from huggingface_hub.utils import hf_raise_for_status, http_stream_backoff

        headers, start = self._headers()
        with http_stream_backoff(  # a busy server is asked again, when it says
            "GET", self.address.url, headers=headers, timeout=30.0, retry_on_exceptions=()
        ) as response:
            status = response.status_code
            if status == HTTPStatus.NOT_MODIFIED:
                logger.info("%s has not changed", self.address.name)
                return
            if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                self._forget()  # the part is no part of what is there now
                raise OSError("the file has changed")
            hf_raise_for_status(response)
            if status == HTTPStatus.OK:  # all of it: it is new, or the server resumes nothing
                start = 0
                self._forget()
                names = ("ETag", "Last-Modified")
                write_json(self.note, {name: response.headers.get(name) for name in names})
            elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                raise OSError(f"the server sent another part than that from byte {start} on")
            logger.info("downloading %s from byte %d on", self.address.url, start)
            with self.part.open("ab") as stream:
                for chunk in response.iter_bytes(CHUNK):
                    stream.write(chunk)
        self.part.replace(self.path)

    def _headers(self) -> tuple[dict[str, str], int]:
        """What to ask for, and the byte that it begins with."""
        known = read_json(self.note) if self.note.is_file() else {}
        tag, date = known.get("ETag"), known.get("Last-Modified")
        headers = {"Accept-Encoding": "identity"}
        if self.path.is_file():
            headers |= {"If-None-Match": tag} if tag else {}
            headers |= {"If-Modified-Since": date} if date and not tag else {}
            return headers, 0
        same = tag if tag and not tag.startswith("W/") else date
        start = self._size() if same or self.sha256 else 0  # a digest will show what is not
        headers |= {"Range": f"bytes={start}-"} if start else {}
        headers |= {"If-Range": same} if start and same else {}
        return headers, start

    def _forget(self) -> None:
        for path in (self.path, self.part, self.note):
            path.unlink(missing_ok=True)

    def _explain(self, error: Exception) -> tuple[str, str, bool]:
        """What went wrong, what to do, and whether trying again can help."""
        from huggingface_hub.errors import OfflineModeIsEnabled

        by_hand = "download it yourself and give its `path` in place of `source`"
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            return (
                f"The cache cannot be written: {error}.",
                "set HF_HOME to a folder that is yours, on a disk with room for the dataset",
                False,
            )
        if isinstance(error, OfflineModeIsEnabled):
            return (
                "The file is not in the cache, and HF_HUB_OFFLINE forbids the network.",
                f"unset HF_HUB_OFFLINE where there is a network; or {by_hand}",
                False,
            )
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
            return (
                f"There is no such file: {self.address.name} (HTTP {status}).",
                f"correct the address, or find the file elsewhere and give its new one; {by_hand}",
                False,
            )
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return (
                f"The server refused access (HTTP {status}).",
                f"HF_TOKEN is sent to the hub only: for a file there write `hub` and `revision`; "
                f"else {by_hand}",
                False,
            )
        if status is not None and status < 500 and status not in (408, 429):
            return f"The server refused the request (HTTP {status}).", by_hand, False
        detail = f"HTTP {status}" if status else f"{type(error).__name__}: {error}".splitlines()[0]
        return (
            f"The download failed: {detail}.",
            f"run the same command again: what was downloaded is kept. {NO_NETWORK}; or {by_hand}",
            True,
        )
