"""Repositories of a Hugging Face hub: resolve, download, verify, and explain what went wrong."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar

from rlhf.errors import DataError, IntegrityError
from rlhf.sources.downloaded import Downloaded, describe_file

logger = logging.getLogger(__name__)

ATTEMPTS = 5
PAUSE = 1.0  # seconds before the second attempt; doubled each time
# Seconds that a hub which cannot be reached is awaited: the client has waited a minute by itself.
PATIENCE = 30.0
NO_NETWORK = (
    "Without a network here, run snakemake where there is one, such as a login node: only the "
    "fetch stages need it. Behind a proxy set HTTPS_PROXY"
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository of a hub, as the configuration names it.

    Attributes:
        name: ``organisation/name``.
        revision: a commit, branch or tag.
        key: configuration key of the model or dataset, for messages.
        kind: ``model`` or ``dataset``.
    """

    name: str
    revision: str
    key: str
    kind: str = "model"

    @property
    def where(self) -> str:
        """Its place in the configuration, for messages."""
        return f"{self.key}.source.hub: {self.name} at {self.revision}"


def download(
    repository: Repository, patterns: Sequence[str], ignored: Sequence[str] = ()
) -> Downloaded:
    """Download files of a repository into the hub's cache, and compare them with its listing.

    The hub's client resumes a file where it was cut; this function repeats what the client gives
    up on: a server that is busy or away, and a listing that did not come. ``HF_ENDPOINT``,
    ``HF_TOKEN``, ``HF_HOME`` and ``HF_HUB_OFFLINE`` are honoured.

    Args:
        repository: what it is called.
        patterns: globs of the files that are wanted.
        ignored: globs of those that are not, of the ones that are wanted.

    Raises:
        DataError: it did not work; it names the repository and says what to do.
        IntegrityError: a file is not what the hub lists; it is removed from the cache.
    """
    from huggingface_hub import snapshot_download

    def attempt() -> Path:
        folder = snapshot_download(
            repository.name,
            repo_type=repository.kind,
            revision=repository.revision,
            allow_patterns=list(patterns),
            ignore_patterns=list(ignored) or None,
            **_access(),
        )
        return Path(folder)

    folder = _persist(attempt, repository)
    names = (one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file())
    files = {name: describe_file(folder / name) for name in _chosen(names, patterns, ignored)}
    made = Downloaded(folder, files, folder.name)
    _verify(made, repository.where)
    return made


def resolve(
    repository: Repository, patterns: Sequence[str], ignored: Sequence[str] = ()
) -> tuple[str, dict[str, Mapping[str, Any]]]:
    """The commit that a revision is now, and the files that ``download`` would get.

    The hub knows the digests of large files; the small ones are downloaded.

    Returns:
        The commit, and name → ``sha256`` and ``size``.

    Raises:
        DataError, IntegrityError: as in ``download``.
    """
    from huggingface_hub import HfApi, RepoFile

    api = HfApi(**_access())

    def attempt() -> tuple[str, dict[str, Any]]:
        name, kind = repository.name, repository.kind
        commit = str(api.repo_info(name, repo_type=kind, revision=repository.revision).sha)
        tree = api.list_repo_tree(name, repo_type=kind, revision=commit, recursive=True)
        return commit, {one.path: one for one in tree if isinstance(one, RepoFile)}

    commit, listed = _persist(attempt, repository)
    files: dict[str, Mapping[str, Any]] = {}
    small = []
    for name in _chosen(listed, patterns, ignored):
        if lfs := listed[name].lfs:
            files[name] = {"sha256": lfs.sha256, "size": lfs.size}
        else:
            small.append(name)
    if small:
        wanted = [glob.escape(name) for name in small]
        files.update(download(replace(repository, revision=commit), wanted).files)
    return commit, dict(sorted(files.items()))


def _access() -> dict[str, Any]:
    """The client reads these when it is imported; what counts is the environment now."""
    return {
        "endpoint": os.environ.get("HF_ENDPOINT") or None,
        "token": os.environ.get("HF_TOKEN") or None,
    }


def _chosen(names: Iterable[str], patterns: Sequence[str], ignored: Sequence[str]) -> list[str]:
    from huggingface_hub.utils import filter_repo_objects

    chosen = filter_repo_objects(
        sorted(names), allow_patterns=list(patterns), ignore_patterns=list(ignored) or None
    )
    return list(chosen)


def _persist(attempt: Callable[[], T], repository: Repository) -> T:
    """Try again what may work later, as often and as late as is sensible, or explain it."""
    from huggingface_hub.errors import HFValidationError, HTTPError, XetDownloadError

    away_since = None
    for count in range(1, ATTEMPTS + 1):
        try:
            return attempt()
        except (OSError, HTTPError, HFValidationError, XetDownloadError) as error:
            problem, hint, transient = _explain(error, repository)
            now = time.monotonic()
            away = type(error.__cause__ or error).__name__ == "ConnectError"
            away_since = (away_since or now) if away else None
            given_up = away_since is not None and now - away_since > PATIENCE
            if not transient or given_up or count == ATTEMPTS:
                if transient:
                    problem += f" ({count} attempts)"
                raise DataError(problem, where=repository.where, hint=hint) from error
            delay = max(PAUSE * 2 ** (count - 1), _asked_delay(error))
            logger.warning("%s Trying again in %.0f s.", problem, delay)
            time.sleep(delay)
    raise AssertionError("unreachable")


def _asked_delay(error: Exception) -> float:
    """Seconds that a busy server asks to wait; 0 if it does not say."""
    response = getattr(error.__cause__ or error, "response", None)
    asked = response.headers.get("Retry-After", "").strip() if response is not None else ""
    if asked.isdigit():
        return float(asked)
    with contextlib.suppress(ValueError):
        return (parsedate_to_datetime(asked) - datetime.now(UTC)).total_seconds()
    return 0.0


def _verify(made: Downloaded, where: str) -> None:
    """Compare files with the digests that the hub gave, and remove those that differ.

    The client's cache links a file to ``blobs/<digest>``: sha256 of what is in LFS or Xet, else
    git's own sha1. The client itself compares sizes only.
    """
    wrong = {}
    for name, file in made.files.items():
        path = made.folder / name
        blob = path.resolve()
        if blob.parent != made.folder.parents[1] / "blobs":  # a file system without links
            continue
        if re.fullmatch(r"[0-9a-f]{64}", blob.name):
            found = {"sha256": file["sha256"]}
        elif re.fullmatch(r"[0-9a-f]{40}", blob.name):
            # Mirrors that know nothing of git give the plain sha1.
            prefixes = {"git-sha1": b"blob %d\0" % file["size"], "sha1": b""}
            found = {kind: _sha1(blob, prefix) for kind, prefix in prefixes.items()}
        else:
            continue
        if blob.name not in found.values():
            kind, digest = next(iter(found.items()))
            wrong[name] = f"{kind} {blob.name}, found {digest}"
            blob.unlink()
            path.unlink(missing_ok=True)
    if wrong:
        raise IntegrityError(
            f"What was downloaded is not what the hub lists: {', '.join(wrong)}.",
            where=where,
            expected="; ".join(f"{name}: {digests}" for name, digests in wrong.items()),
            hint="it was removed from the cache: run the same command again. If this comes again, "
            "something between you and the hub alters files (a proxy, the mirror HF_ENDPOINT)",
        )


def _sha1(path: Path, prefix: bytes) -> str:
    def start() -> Any:
        return hashlib.sha1(prefix, usedforsecurity=False)

    with path.open("rb") as stream:
        return hashlib.file_digest(stream, start).hexdigest()


def _explain(error: Exception, repository: Repository) -> tuple[str, str, bool]:
    """What went wrong, what to do, and whether trying again can help."""
    from huggingface_hub import errors as hub

    repo, revision, kind = repository.name, repository.revision, repository.kind
    # The client looks in its cache when the network fails, and then reports the empty cache.
    absent = isinstance(error, hub.LocalEntryNotFoundError)
    cause = (error.__cause__ or error) if absent else error
    option = "" if kind == "model" else f"--repo-type {kind} "
    by_hand = f"hf download {repo} {option}--revision {revision}"
    if isinstance(error, hub.HFValidationError):
        return f"{repo!r} is no repository name.", "write it as organisation/name", False
    if getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
        return (
            f"The hub's cache cannot be written: {cause}.",
            "set HF_HOME to a folder that is yours, on a disk with room for the " + kind,
            False,
        )
    if isinstance(cause, hub.OfflineModeIsEnabled):
        return (
            f"The {kind} is not (whole) in the cache, and HF_HUB_OFFLINE forbids the network.",
            f"run `{by_hand}` where there is a network, with the same HF_HOME, or unset "
            "HF_HUB_OFFLINE",
            False,
        )
    token = os.environ.get("HF_TOKEN")
    known = "which the account of HF_TOKEN has not done" if token else "and HF_TOKEN is not set"
    if isinstance(cause, hub.GatedRepoError):
        return (
            f"The {kind} is gated: its owner wants its terms accepted first, {known}.",
            f"accept them on the page of {repo}, then set HF_TOKEN to a token of that account",
            False,
        )
    if isinstance(cause, hub.RevisionNotFoundError):
        return (
            f"The repository has no such commit, branch or tag: {revision}.",
            "look it up in the repository's history; a commit may have been squashed away",
            False,
        )
    response = getattr(cause, "response", None)
    status = getattr(response, "status_code", None)
    if status in (401, 403):
        right = "HF_TOKEN gives no right to read it" if token else "it is private or gated"
        return (
            f"The hub refused access (HTTP {status}): no such repository, or {right}.",
            f"check the name; accept the terms of a gated {kind} on its page, and set HF_TOKEN to "
            "a token of an account that may read it",
            False,
        )
    if isinstance(cause, hub.RepositoryNotFoundError):
        at = os.environ.get("HF_ENDPOINT")
        hint = f"check the name, and whether {at} (HF_ENDPOINT) has it" if at else "check the name"
        return f"There is no such repository: {kind} {repo}.", hint, False
    if status == 404:
        file = str(getattr(response, "url", "")).partition("/resolve/")[2].partition("/")[2]
        return (
            f"A file that the repository lists is missing: {file or 'unknown'} (HTTP 404).",
            "the upload may be incomplete: choose another commit, or tell the owner",
            False,
        )
    if status is not None and status < 500 and status not in (408, 429):
        return f"The hub refused the request (HTTP {status}).", "see the log for its answer", False
    detail = f"HTTP {status}" if status else f"{type(cause).__name__}: {cause}".splitlines()[0]
    return (
        f"The download failed: {detail}.",
        f"run the same command again: what was downloaded is kept. {NO_NETWORK}; for a mirror set "
        f"HF_ENDPOINT; or run `{by_hand}` where there is a network, with the same HF_HOME",
        True,
    )
