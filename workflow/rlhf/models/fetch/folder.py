"""Models from plain Hugging Face folders: what belongs to one, and loading it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rlhf.errors import ConfigError, DataError
from rlhf.models.fetch.loaded import Loaded, load_complete, loading
from rlhf.provenance.digest import digest_file, digest_value
from rlhf.runtime.files import read_json

# What a model is read from. Never pickles (*.bin, *.pt) and never code (*.py).
PATTERNS = ["*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt", "README.md"]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def load_path(source: dict[str, Any], dtype: str | None, where: str) -> Loaded:
    """A plain Hugging Face folder on a local disk."""
    folder = Path(source["path"]).expanduser()
    where = f"{where}.source.path"
    if not folder.is_dir():
        raise ConfigError(
            "There is no such model folder.",
            where=f"{where}: {folder}",
            expected="a folder with config.json, *.safetensors and a tokenizer",
        )
    check_folder(folder, f"{where}: {folder}")
    files = {path.name: digest_file(path) for path in _model_files(folder)}
    identity = {"kind": "path", "tree": digest_value(files)}
    return load_folder(folder, dtype, identity, where)


def check_folder(folder: Path, where: str, names: list[str] | None = None) -> None:
    """Refuse a folder that lacks a part of a model, or whose weights are pickles.

    Args:
        folder: the folder.
        where: the folder's name in messages.
        names: what the source has, if more than the folder (a repository's listing).
    """
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(read_json(index)["weight_map"].values()))
        missing += [shard for shard in shards if not (folder / shard).is_file()]
    elif not any(folder.glob("*.safetensors")):
        names = names if names is not None else [path.name for path in folder.iterdir()]
        pickles = sorted(name for name in names if name.endswith(PICKLES))
        if pickles:
            raise DataError(
                f"The weights are pickles ({', '.join(pickles[:3])}), which can run code.",
                where=where,
                expected="*.safetensors",
                hint="load the model once where you trust it and call "
                "save_pretrained(folder): it writes safetensors",
            )
        missing.append("*.safetensors")
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        missing.append("tokenizer.json")
    if missing:
        raise DataError(
            f"The model is incomplete: {', '.join(missing)} missing.",
            where=where,
            expected="config.json, *.safetensors and a tokenizer",
            hint="a folder written by save_pretrained of both model and tokenizer has them all",
        )


def load_folder(folder: Path, dtype: str | None, identity: dict[str, Any], where: str) -> Loaded:
    """Load the model and the tokenizer of a folder that has been checked."""
    import torch
    from transformers import AutoTokenizer

    with loading(str(folder), where):
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        model = load_complete(
            folder,
            str(folder),
            dtype=getattr(torch, dtype) if dtype else "auto",
            use_safetensors=True,
        )
    return Loaded(model, tokenizer, identity, _licence_of_card(folder / "README.md"), folder)


def _model_files(folder: Path) -> list[Path]:
    return sorted({path for pattern in PATTERNS for path in folder.glob(pattern)})


def _licence_of_card(card: Path) -> str | None:
    if not card.is_file():
        return None
    header = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8"), re.DOTALL)
    found = header and re.search(r"^license:\s*(\S+)", header[1], re.MULTILINE)
    return found[1].strip("\"'") if found else None
