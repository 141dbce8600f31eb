"""Models from plain Hugging Face folders: what belongs to one, and loading it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rlhf.core.digest import digest_file, digest_value
from rlhf.core.files import read_json
from rlhf.errors import ConfigError, DataError
from rlhf.sources.base_models.loaded import Loaded, load_complete, loading

# What a model is read from. Never pickles (*.bin, *.pt); code only from a model that is trusted.
PATTERNS = ["*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt", "README.md"]
CODE = "*.py"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def load_path(source: dict[str, Any], dtype: str | None, where: str, trust: bool) -> Loaded:
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
    files = {path.name: digest_file(path) for path in _model_files(folder, trust)}
    identity = {"kind": "path", "tree": digest_value(files)}
    return load_folder(folder, dtype, identity, where, trust)


def check_folder(folder: Path, where: str, names: list[str] | None = None) -> None:
    """Refuse a folder that lacks a part of a model, leads out of itself, or holds pickles.

    Args:
        folder: the folder.
        where: the folder's name in messages.
        names: what the source has, if more than the folder (a repository's listing).
    """
    _check_inside(folder, where)
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(read_json(index)["weight_map"].values()))
        for shard in shards:
            if Path(shard).name != shard:
                raise _leads_out(f"{index.name} names {shard}", where)
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


def _check_inside(folder: Path, where: str) -> None:
    """Links may stay in the folder; in the hub's cache, in what it keeps of that repository."""
    real = folder.resolve()
    root = real.parents[1] if real.parent.name == "snapshots" else real
    for path in _model_files(folder, code=True):
        if not path.resolve().is_relative_to(root):
            raise _leads_out(f"{path.name} is a link to {path.resolve()}", where)


def _leads_out(what: str, where: str) -> DataError:
    return DataError(
        f"{what}, which is outside of the model.",
        where=where,
        expected="a model that is whole in its own folder",
        hint="do not use it before you know who made it so; if it was you, copy the file there",
    )


def load_folder(
    folder: Path, dtype: str | None, identity: dict[str, Any], where: str, trust: bool = False
) -> Loaded:
    """Load the model and the tokenizer of a folder that has been checked.

    Args:
        folder: the folder.
        dtype: dtype of the weights, or None to keep the folder's.
        identity: what pins the source down.
        where: configuration key of the source, for messages.
        trust: whether the model may run the code that it brings.
    """
    import torch
    from transformers import AutoTokenizer

    code = _own_code(folder, where) if trust else []
    with loading(str(folder), where):
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=bool(code)
        )
        model = load_complete(
            folder,
            str(folder),
            dtype=getattr(torch, dtype) if dtype else "auto",
            use_safetensors=True,
            trust_remote_code=bool(code),
        )
    licence = _licence_of_card(folder / "README.md")
    return Loaded(model, tokenizer, identity, licence, folder, brings_code=bool(code))


def _own_code(folder: Path, where: str) -> list[str]:
    """Classes that a model brings, as ``module.Class``.

    Raises:
        DataError: one is in another repository, which no commit pins.
    """
    classes: list[str] = []
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            named = (read_json(folder / name).get("auto_map") or {}).values()
            classes += [one for names in named for one in _as_list(names) if one]
    foreign = [one for one in classes if "--" in one]
    if foreign:
        raise DataError(
            f"The model runs code of another repository: {foreign[0]}.",
            where=where,
            expected="code in the model's own folder, at its own commit",
            hint="copy that code into a folder of your own with the model, and name its path",
        )
    return classes


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _model_files(folder: Path, code: bool) -> list[Path]:
    patterns = [*PATTERNS, *([CODE] if code else [])]
    return sorted({path for pattern in patterns for path in folder.glob(pattern)})


def _licence_of_card(card: Path) -> str | None:
    if not card.is_file():
        return None
    header = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8"), re.DOTALL)
    found = header and re.search(r"^license:\s*(\S+)", header[1], re.MULTILINE)
    return found[1].strip("\"'") if found else None
