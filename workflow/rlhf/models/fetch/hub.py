"""Models from a Hugging Face hub, at one commit."""

from __future__ import annotations

import contextlib
from typing import Any

from rlhf.hub import download
from rlhf.models.fetch.folder import CODE, PATTERNS, check_folder, load_folder
from rlhf.models.fetch.loaded import Loaded


def load_hub(source: dict[str, Any], dtype: str | None, where: str, trust: bool) -> Loaded:
    """A repository of a Hugging Face hub, at one commit."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    repo, revision = source["hub"], source["revision"]
    patterns = [*PATTERNS, *([CODE] if trust else [])]
    # Variants for other runtimes live in subfolders.
    folder = download(repo, revision, where, patterns, ignored=["*/*"])
    where = f"{where}.source.hub: {repo} at {revision}"
    names = None
    with contextlib.suppress(CachedRepoTreeNotFoundError):
        names = [file.path for file in get_cached_repo_tree(repo, revision=revision)]
    check_folder(folder, where, names)
    identity = {"kind": "hub", "repo": repo, "revision": revision}
    return load_folder(folder, dtype, identity, where, trust)
