"""Repositories of a Hugging Face hub: download, repeat, and explain what went wrong."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

from rlhf.errors import DataError

logger = logging.getLogger(__name__)


def download(
    repo: str,
    revision: str,
    where: str,
    patterns: Sequence[str],
    ignored: Sequence[str] = (),
    kind: str = "model",
    attempts: int = 5,
    pause: float = 1.0,
) -> Path:
    """Download files of a repository into the hub's cache, and return the snapshot's folder.

    The hub's client resumes a file where it was cut; this function repeats what the client gives
    up on: a server that is busy or away, and a listing that did not come. ``HF_ENDPOINT``,
    ``HF_TOKEN``, ``HF_HOME`` and ``HF_HUB_OFFLINE`` are honoured.

    Args:
        repo: ``organisation/name``.
        revision: a commit, branch or tag.
        where: configuration key of the model or dataset, for messages.
        patterns: globs of the files that are wanted.
        ignored: globs of those that are not, of the ones that are wanted.
        kind: ``model`` or ``dataset``.
        attempts: how often to try.
        pause: seconds before the second attempt; doubled each time.

    Raises:
        DataError: it did not work; it names the repository and says what to do.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, HTTPError, XetDownloadError

    for attempt in range(1, attempts + 1):
        try:
            folder = snapshot_download(
                repo,
                repo_type=kind,
                revision=revision,
                allow_patterns=list(patterns),
                ignore_patterns=list(ignored) or None,
                # The client reads these when imported; what counts is the environment now.
                endpoint=os.environ.get("HF_ENDPOINT") or None,
                token=os.environ.get("HF_TOKEN") or None,
            )
            return Path(folder)
        except (OSError, HTTPError, HFValidationError, XetDownloadError) as error:
            problem, hint, transient = _explain(error, repo, revision, kind)
            if not transient or attempt == attempts:
                if transient:
                    problem += f" ({attempts} attempts)"
                raise DataError(
                    problem, where=f"{where}.source.hub: {repo} at {revision}", hint=hint
                ) from error
            delay = pause * 2 ** (attempt - 1)
            logger.warning("%s Trying again in %.0f s.", problem, delay)
            time.sleep(delay)
    raise AssertionError("attempts must be at least 1")


def _explain(error: Exception, repo: str, revision: str, kind: str) -> tuple[str, str, bool]:
    """What went wrong, what to do, and whether trying again can help."""
    from huggingface_hub import errors as hub

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
    if isinstance(cause, hub.GatedRepoError):
        return (
            "The repository is gated: its owner wants its terms accepted first.",
            f"accept them on the page of {repo}, then set HF_TOKEN to a token of that account",
            False,
        )
    if isinstance(cause, hub.RevisionNotFoundError):
        return (
            "The repository has no such commit.",
            "look the commit up in the repository's history; it may have been squashed away",
            False,
        )
    response = getattr(cause, "response", None)
    status = getattr(response, "status_code", None)
    if status in (401, 403):
        return (
            f"The hub refused access (HTTP {status}): no such repository, or no right to read it.",
            "check the name; for a private repository set HF_TOKEN to a token that may read it",
            False,
        )
    if isinstance(cause, hub.RepositoryNotFoundError):
        return "There is no such repository.", "check the name and HF_ENDPOINT", False
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
        "run the same command again: what was downloaded is kept. Behind a proxy set HTTPS_PROXY; "
        f"for a mirror set HF_ENDPOINT; without a network run `{by_hand}` elsewhere",
        True,
    )
