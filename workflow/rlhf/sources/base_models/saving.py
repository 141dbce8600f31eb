"""Write a model as a plain folder, without traces of where it came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlhf.core.files import read_json, write_json
from rlhf.errors import DataError
from rlhf.models.publish import without_deepspeed
from rlhf.sources.base_models.loaded import Loaded

# Notes that loaders leave about where and how they found the files.
LOADER_NOTES = {
    "_name_or_path",
    "_model_name_or_path",
    "name_or_path",
    "is_local",
    "local_files_only",
    "trust_remote_code",
    "gguf_file",
}
CODE_NOTES = {"auto_map"}  # where a model's own code is; without that code it means nothing


def save(loaded: Loaded, folder: Path, where: str) -> Any:
    """Write the folder, and return the tokenizer as later stages will load it."""
    with without_deepspeed():
        loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    if not (folder / "tokenizer.json").is_file():
        raise DataError(
            "The tokenizer has no fast version, so tokenizer.json cannot be written.",
            where=where,
            hint="choose a model whose folder has tokenizer.json",
        )
    tokenizer = _reload_tokenizer(loaded, folder, where)
    roots = {str(loaded.root), str(loaded.root.resolve())} if loaded.root else set()
    notes = LOADER_NOTES | (set() if loaded.brings_code else CODE_NOTES)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        write_json(folder / name, _without_notes(read_json(folder / name), notes, roots))
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)  # weights come out readable by us alone
    return tokenizer


def _reload_tokenizer(loaded: Loaded, folder: Path, where: str) -> Any:
    """Make the saved tokenizer the one that loading it gives.

    The class that belongs to an architecture may rebuild parts of what it reads (Qwen2 its
    pre-tokenizer), so the digest of the tokenizer in memory would not be what others see.
    """
    from transformers import AutoTokenizer

    from rlhf.data.templates.chat import check_tokenizer, tokenizer_digest

    reloaded = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=loaded.brings_code
    )
    if tokenizer_digest(reloaded) != tokenizer_digest(loaded.tokenizer):
        reloaded.save_pretrained(folder)
        check_tokenizer(reloaded, None, where.rpartition(".")[2])
    return reloaded


def _without_notes(value: Any, notes: set[str], roots: set[str]) -> Any:
    """A configuration without traces of the place that it was loaded from."""
    if isinstance(value, dict):
        return {
            key: _without_notes(one, notes, roots)
            for key, one in value.items()
            if key not in notes
            and not (isinstance(one, str) and any(root in one for root in roots))
        }
    return (
        [_without_notes(one, notes, roots) for one in value] if isinstance(value, list) else value
    )
