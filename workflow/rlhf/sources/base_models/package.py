"""Models from GGUF files that installed Python packages carry."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import logging
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any, cast

from rlhf.core.digest import digest_file
from rlhf.errors import ConfigError
from rlhf.sources.base_models.loaded import Loaded, load_complete, loading

logger = logging.getLogger(__name__)


def load_package(source: dict[str, Any], dtype: str | None, where: str, _trust: bool) -> Loaded:
    """A GGUF file that an installed Python package carries."""
    import torch
    from transformers import AutoTokenizer, GgufConfig

    file, distribution = find_package_file(source, where)
    root, name = file.parent, file.name
    logger.info("reading %s of %s %s", name, source["package"], distribution.version)
    with loading(f"{source['package']}/{name}", where), _gguf_read_once():
        tokenizer = AutoTokenizer.from_pretrained(
            root, gguf_file=name, local_files_only=True, trust_remote_code=False
        )
        model = load_complete(
            root,
            f"{source['package']}/{name}",
            gguf_file=name,
            dtype=getattr(torch, dtype or "float32"),
            quantization_config=GgufConfig(dequantize=True),
        )
    # What it really is; typeshed knows its `get` from Python 3.12 on.
    meta = cast(Message, distribution.metadata)
    identity = {
        "kind": "package",
        "package": meta["Name"],
        "version": distribution.version,
        "file": name,
        "sha256": digest_file(file),
    }
    licence = meta.get("License-Expression") or meta.get("License")
    return Loaded(model, tokenizer, identity, licence, root)


def find_package_file(
    source: dict[str, Any], where: str = "models"
) -> tuple[Path, importlib.metadata.Distribution]:
    """The one file in an installed package that a package source names.

    The package is located, not imported: its own dependencies may well be absent.
    """
    where = f"{where}.source"
    package, version = source["package"], source.get("version")
    requirement = package.replace("_", "-") + (f"=={version}" if version else "")
    install = f"pip install --no-deps {requirement}"
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"The Python package {package!r} is not installed.",
            where=f"{where}.package",
            expected="the import name of an installed package",
            hint=install,
        )
    names = importlib.metadata.packages_distributions().get(package, [package])
    distribution = importlib.metadata.distribution(names[0])
    if version and distribution.version != version:
        raise ConfigError(
            f"{package} {distribution.version} is installed, the configuration wants {version}.",
            where=f"{where}.version",
            expected=version,
            hint=f"{install}, or change the version",
        )
    root = Path(spec.submodule_search_locations[0])
    pattern = source.get("file") or "*.gguf"
    if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        raise ConfigError(
            f"{pattern!r} leads out of the package.",
            where=f"{where}.file",
            expected="a pattern relative to the package's folder",
        )
    matches = sorted(path for path in root.glob(pattern) if path.suffix == ".gguf")
    if len(matches) != 1:
        raise ConfigError(
            f"{len(matches)} GGUF files of {package} match {pattern!r}.",
            where=f"{where}.file",
            expected="a pattern that matches exactly one .gguf file",
            hint="the package has: "
            + (", ".join(sorted(p.name for p in root.rglob("*.gguf"))) or "no .gguf file"),
        )
    return matches[0], distribution


@contextlib.contextmanager
def _gguf_read_once() -> Iterator[None]:
    """Let transformers parse a GGUF file once.

    Its loader parses the header anew for the configuration and for the weights, and builds the
    same name map for every submodule: two thirds of the time of a small model.
    """
    import gguf

    patched = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    for name, original in patched.items():
        setattr(gguf, name, functools.cache(original))
    try:
        yield
    finally:
        for name, original in patched.items():
            setattr(gguf, name, original)
