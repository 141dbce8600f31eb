"""Models from a Hugging Face hub, at one commit."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from rlhf.sources.base_models.folder import CODE, PATTERNS, check_folder, load_folder
from rlhf.sources.base_models.loaded import Loaded
from rlhf.sources.hub import Repository, download


def wanted(trust: bool) -> tuple[list[str], list[str]]:
    """Globs of the files of a repository that are downloaded, and of those that are not."""
    # Variants for other runtimes live in subfolders.
    return [*PATTERNS, *([CODE] if trust else [])], ["*/*"]


def load_hub(
    source: dict[str, Any],
    dtype: str | None,
    where: str,
    trust: bool,
    check: Callable[[Mapping[str, Any]], None] = lambda _files: None,
) -> Loaded:
    """A repository of a Hugging Face hub, at one commit.

    ``check`` gets each file's ``sha256`` and ``size``; what it raises stops the loading.
    """
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    repo, revision = source["hub"], source["revision"]
    repository = Repository(repo, revision, where)
    made = download(repository, *wanted(trust))
    check(made.files)
    folder, where = made.folder, repository.where
    names = None
    with contextlib.suppress(CachedRepoTreeNotFoundError):
        names = [file.path for file in get_cached_repo_tree(repo, revision=revision)]
    check_folder(folder, where, names)
    identity = {"kind": "hub", "repo": repo, "revision": revision}
    return load_folder(folder, dtype, identity, where, trust)
