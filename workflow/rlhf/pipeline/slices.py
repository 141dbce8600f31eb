"""The part of the configuration that can change a stage's result, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlhf.config.schema import Config
from rlhf.core.digest import canonical_json, digest_file, digest_source, digest_value
from rlhf.data.files import find_files, is_glob, root_of
from rlhf.errors import DataError
from rlhf.pipeline.following import rows_needed
from rlhf.pipeline.needs import longest_scored
from rlhf.sources.locks import SECTIONS, Lock, is_downloaded

VIEWS = ("sft", "preference", "prompt")


def config_slice(config: Config, stage: str, name: str, lock: Lock | None = None) -> dict[str, Any]:
    """The slice that ``stage`` gets for the artifact ``name``.

    Args:
        config: the whole configuration.
        stage: a stage's name, such as ``train_sft`` or ``tokenize``.
        name: the artifact's name; for ``tokenize`` the view, for
            ``find_duplicates`` and ``check_rows`` the run with its section, such as ``sft.chat``.
        lock: what the fetch stages have to obey.
    """
    sections: dict[str, Any] = {
        "fetch_model": config.models,
        "fetch_data": config.datasets,
        "train_sft": config.sft,
        "train_reward": config.reward,
        "train_ppo": config.ppo,
        "evaluate": config.evaluation,
        "report": config.report,
    }
    if stage == "tokenize":
        return {"view": name} | getattr(config.tokenization, name).model_dump(mode="json")
    if stage == "find_duplicates":
        section, run = name.split(".")
        return {"section": section} | sections[f"train_{section}"][run].duplicates.model_dump()
    if stage == "check_rows":
        return {"runs": rows_needed(config, *name.split("."))}
    if stage == "fetch_model":
        values = sections[stage][name].model_dump(mode="json")
        return _with_content(values) | _locked(values, stage, name, lock)
    if stage == "fetch_data":  # where it is described is of no account
        entry = sections[stage][name]
        values = entry.model_dump(mode="json", exclude={"registry"}, exclude_none=True)
        return _with_content(values) | _locked(values, stage, name, lock)
    if stage in ("export_reward_store", "export_reference_store"):
        section = "reward" if stage == "export_reward_store" else "sft"
        longest = longest_scored(config, section, name)
        return config.store.model_dump(mode="json") | {"longest": longest}
    return sections[stage][name].model_dump(mode="json")


def canonical_slice(config: Config, stage: str, name: str, lock: Lock | None = None) -> str:
    """``config_slice`` as canonical JSON: equal configurations give equal texts."""
    return canonical_json(config_slice(config, stage, name, lock))


def _locked(values: dict[str, Any], stage: str, name: str, lock: Lock | None) -> dict[str, str]:
    """Digest of the lock's entry: the entry itself may be too long for a command line."""
    if lock is None or not is_downloaded(values.get("source") or {}):
        return {}
    digest = lock.digest(SECTIONS[stage], name)
    return {"lock": digest} if digest else {}


def local_source(values: dict[str, Any]) -> Path | None:
    """What a slice of ``fetch_model`` or ``fetch_data`` reads on this machine, if it is there.

    Of a glob it is the folder that the glob looks in.
    """
    source = values.get("source", values)
    local = source.get("path") or (source.get("random") or {}).get("tokenizer_text")
    return root_of(local) if local and root_of(local).exists() else None


def _with_content(values: dict[str, Any]) -> dict[str, Any]:
    """Name local sources by their content too, so that an edit, not a touch, makes them stale.

    Raises:
        DataError: a source is there and can't be read.
    """
    try:
        return _digested(values)
    except OSError as error:
        raise DataError(
            f"What is read here can't be read: {error.strerror or error}.",
            where=error.filename or values.get("path") or values.get("source"),
            hint="correct the path in the configuration, or the file's permissions",
        ) from None


def _digested(values: dict[str, Any]) -> dict[str, Any]:
    local = local_source(values)
    if local is None:
        return values
    path, files = values.get("path"), values.get("files")
    if path is None or not (is_glob(path) or local.is_dir()):
        return values | {"content": digest_source(local)}
    try:
        found = find_files(path, files)
    except DataError:
        return values  # the stage says what is missing
    return values | {"content": digest_value({str(one): digest_file(one) for one in found})}
