"""The commit that a model's name stands for, as Open-Assistant names none."""

from __future__ import annotations

import os
import re

from rlhf.errors import ConfigError

SECONDS = 10.0  # how long the hub may take to answer


def commit_of(repo: str) -> str:
    """The newest commit of a model on the hub, or on the mirror that ``HF_ENDPOINT`` names.

    Raises:
        ConfigError: the hub does not say, for lack of a network, a token, or such a model.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, HTTPError

    try:
        info = HfApi(
            endpoint=os.environ.get("HF_ENDPOINT") or None,
            token=os.environ.get("HF_TOKEN") or None,
        ).model_info(repo, timeout=SECONDS)
    except (OSError, HTTPError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"The hub does not say which commit {repo} is at: {reason}",
            where=f"model_name: {repo}",
            expected="a commit, so that the run can be repeated",
            hint="give --revision COMMIT: 40 hex digits, as the model's page on the hub shows "
            "under `Files and versions`",
        ) from None
    if not re.fullmatch(r"[0-9a-f]{40}", info.sha or ""):
        raise ConfigError(f"The hub names no commit of {repo}.", where=f"model_name: {repo}")
    return str(info.sha)
