"""Which keys a model source may have, and whether it is pinned."""

from __future__ import annotations

import re
from typing import Any

from rlhf.errors import ConfigError

SOURCE_KEYS = {
    "package": {"package", "file", "version"},
    "path": {"path"},
    "hub": {"hub", "revision"},
    "random": {"random"},
}


def check_source(source: dict[str, Any], where: str = "models") -> tuple[str, dict[str, Any]]:
    """Check that a source is of exactly one kind, complete and pinned; nothing is fetched.

    Returns:
        The kind, and the source without unset keys.
    """
    where = f"{where}.source"
    source = {key: value for key, value in source.items() if value is not None}
    kinds = [kind for kind in SOURCE_KEYS if kind in source]
    if len(kinds) != 1:
        raise ConfigError(
            f"A model needs one source; this one names {' and '.join(kinds) or 'none'}.",
            where=where,
            expected="exactly one of package, path, hub, random",
        )
    (kind,) = kinds
    if unknown := sorted(set(source) - SOURCE_KEYS[kind]):
        raise ConfigError(
            f"A {kind} source has no key {unknown[0]!r}.",
            where=f"{where}.{unknown[0]}",
            expected=", ".join(sorted(SOURCE_KEYS[kind])),
        )
    if kind == "hub" and not re.fullmatch(r"[0-9a-f]{40}", str(source.get("revision", ""))):
        found = source.get("revision")
        raise ConfigError(
            f"The revision of {source['hub']} is not pinned: {found or 'none is given'}.",
            where=f"{where}.revision",
            expected="a commit: 40 hexadecimal digits (branches and tags move)",
            hint="copy the commit from the repository's history page, or print it: python -c "
            f"\"from huggingface_hub import HfApi; print(HfApi().model_info('{source['hub']}', "
            f'revision={found!r}).sha)"',
        )
    return kind, source
