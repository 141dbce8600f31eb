"""What a model stands on that was published as an adapter alone: the model it was trained beside.

Its folder holds configuration, tokenizer and ``adapter/``, and there, in ``base.json``, where the
base is from here and which weights it had then.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from rlhf.core.digest import digest_file, digest_value
from rlhf.core.files import read_json, write_json
from rlhf.errors import IntegrityError
from rlhf.provenance.manifest import MANIFEST, read_manifest

ADAPTER = "adapter"  # folder in a model's folder
BASE = f"{ADAPTER}/base.json"


def describe_base(base: Path, model: Path) -> dict[str, str]:
    """What ``base.json`` says.

    Args:
        base: folder of the model that the adapter was added to.
        model: folder that the adapter's is to be in.
    """
    return {
        "model": os.path.relpath(base.resolve(), model.resolve()),
        "weights": weights_digest(base),
    }


def write_base(model: Path, described: dict[str, str]) -> None:
    """Keep what ``describe_base`` said in a model's folder."""
    write_json(model / BASE, described)


def base_of(model: str | Path) -> Path | None:
    """Folder of the base of a model that was published as an adapter alone; None: it is whole.

    Raises:
        IntegrityError: the base is not there, or its weights are others than in training.
    """
    try:
        described = read_json(Path(model) / BASE)
    except FileNotFoundError:
        return None
    base = Path(os.path.normpath(Path(model).resolve() / described["model"]))
    if not (base / "config.json").is_file():
        raise IntegrityError(
            "This model is an adapter alone, and the model that it belongs to is not there.",
            where=model,
            expected=f"a model in {base}",
            hint="keep both where they were to each other, or run snakemake: it makes the base "
            "again; adapter.publish: model publishes what needs no other",
        )
    if weights_digest(base) != described["weights"]:
        raise IntegrityError(
            "This adapter was trained beside other weights than its base has now.",
            where=model,
            expected=f"weights {described['weights'][:12]} in {base}",
            hint="run snakemake: it trains what was made from another base again",
        )
    return base


def bases(model: str | Path) -> Iterator[Path]:
    """The base of an adapter alone, and the base's, and so on; nothing if a model is whole.

    Raises:
        IntegrityError: see ``base_of``.
    """
    base = base_of(model)
    while base is not None:
        yield base
        base = base_of(base)


def weights_digest(model: Path) -> str:
    """Digest of what a model's weights follow from, by its manifest: no weights are read."""
    alone = (model / BASE).is_file()
    patterns = (f"{ADAPTER}/*.safetensors", BASE) if alone else ("*.safetensors",)
    files = sorted(path for pattern in patterns for path in model.glob(pattern))
    names = [path.relative_to(model).as_posix() for path in files]
    listed = {}
    if (model.parent / MANIFEST).is_file():
        listed = read_manifest(model.parent)["files"]
    known = [listed.get(f"{model.name}/{name}", {}).get("sha256") for name in names]
    return digest_value(
        {
            name: digest or digest_file(path)
            for name, digest, path in zip(names, known, files, strict=True)
        }
    )
