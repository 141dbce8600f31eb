"""The part of the configuration that can change a stage's result, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlhf.catalog import DRAWING, RULES, subject
from rlhf.config.online import FUNCTIONS
from rlhf.config.schema import Config
from rlhf.config.seeds import run_name
from rlhf.core.digest import canonical_json, digest_file, digest_source, digest_value
from rlhf.core.user_functions import content_of
from rlhf.data.files import find_files, is_glob, root_of
from rlhf.errors import DataError
from rlhf.pipeline.following import rows_needed
from rlhf.pipeline.needs import longest_scored
from rlhf.pipeline.parents import REPORTED, manifest, reported
from rlhf.sources.locks import Lock, is_downloaded


def config_slice(
    config: Config, rule: str, *wildcards: str, lock: Lock | None = None
) -> dict[str, Any]:
    """The slice of the configuration that a job gets.

    Args:
        config: the whole configuration.
        rule: the job's rule, such as ``train_sft``.
        wildcards: the job's. Of ``tokenize`` the view decides alone; a run of ``find_duplicates``
            and ``check_rows`` is named with its section, such as ``sft.chat``.
        lock: what the fetch stages have to obey.
    """
    if rule == "tokenize":
        view = wildcards[0]
        return {"view": view} | getattr(config.tokenization, view).model_dump(mode="json")
    section, name = subject(rule, *wildcards)
    if rule == "check_rows":
        return {"runs": rows_needed(config, section, name)}
    entry = getattr(config, section)[name]
    if rule == "find_duplicates":
        return {"view": DRAWING[section].view} | entry.duplicates.model_dump()
    if rule == "export_store":
        kind = wildcards[0]
        longest = longest_scored(config, kind, name)
        return config.store.model_dump(mode="json") | {"kind": kind, "longest": longest}
    if rule == "fetch_data":  # where it is described does not matter
        values = entry.model_dump(mode="json", exclude={"registry"}, exclude_none=True)
    else:
        values = entry.model_dump(mode="json")
    if rule == "report":
        return values | _seeds(config, name)
    if RULES[rule].fetches:
        return _with_content(values) | _locked(values, section, name, lock)
    if RULES[rule].online and (files := entry.function_files):
        digests = [content_of(file) for file in files]
        return values | {FUNCTIONS: {path: own[path] for own in digests for path in own}}
    return values


def _seeds(config: Config, report: str) -> dict[str, dict[str, dict[str, int]]]:
    """Of the runs that a report is about, those that differ in their seed alone; if any do."""
    found = {}
    for (section, name), seeds in config.seeds.items():
        runs = {run_name(name, seed): seed for seed in seeds}
        shown = reported(config, report, section) if section in REPORTED else []
        if any(manifest(section, run) in shown for run in runs):
            found[f"{section}.{name}"] = runs
    return {"seeds": found} if found else {}


def canonical_slice(config: Config, rule: str, *wildcards: str, lock: Lock | None = None) -> str:
    """``config_slice`` as canonical JSON: equal configurations give equal texts."""
    return canonical_json(config_slice(config, rule, *wildcards, lock=lock))


def _locked(values: dict[str, Any], section: str, name: str, lock: Lock | None) -> dict[str, str]:
    """Digest of the lock's entry: the entry itself may be too long for a command line."""
    if lock is None or not is_downloaded(values.get("source") or {}):
        return {}
    digest = lock.digest(section, name)
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
