"""``rlhf explain``: what would run, and why, one line a job.

Snakemake's dry run knows the jobs and the kind of each reason. Which keys changed is read off the
manifest of the artifact that is there and the parameters that Snakemake now has.

Snakemake goes by its own records, which `--touch` makes agree with anything. What it would leave
as it is, is therefore compared with its manifest, which says what it was really made with.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlhf.catalog import RULES
from rlhf.commands.differences import arrow, changes
from rlhf.commands.dry_run import Job, dry_run, parse_dry_run
from rlhf.core.digest import digest_file
from rlhf.errors import IntegrityError
from rlhf.provenance.manifest import MANIFEST
from rlhf.provenance.whole import read_whole_manifest

NOT_THERE = "not there yet"
ORPHAN = "made from an artifact that is not here"  # pipeline.adopt writes it

_REASONS = {
    "Forced execution": "forced",
    "Missing output files": "",
    "Incomplete output files": "the last run was cut off",
    "Updated input files": "",
    "Input files updated by another job": "",
    "Set of input files has changed since last execution": "its set of inputs changed",
    "Code has changed since last execution": "the rule's code changed",
    "Params have changed since last execution": "",
    "Software environment definition has changed since last execution": "its environment changed",
}
_SPLIT = re.compile("; (?=" + "|".join(_REASONS) + ")")
_LITERAL = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything is passed on to Snakemake."""
    parser.usage = "%(prog)s [-h] [arguments of snakemake…]"
    parser.epilog = "For example: rlhf explain --configfile mine.yaml"
    parser.set_defaults(passes_rest=True)


def run(args: argparse.Namespace) -> int:
    """Print one line for each job that would run, most upstream first; then what differs unrun."""
    if files := _config_files(args.rest):
        from rlhf.config.load import read_sections

        read_sections(files)  # Snakemake itself may have a traceback for what is wrong with them
    jobs = parse_dry_run(dry_run(args.rest))
    makers = {output: job for job in jobs for output in job.outputs}
    for job in jobs:
        print(f"{job.title}: {'; '.join(reasons(job, makers)) or 'unknown'}")
    if jobs:
        print(f"{len(jobs)} would run")
    everything = parse_dry_run(dry_run([*args.rest, "--forceall", "--printshellcmds"]))
    all_makers = {output: job for job in everything for output in job.outputs}
    kept = [job for job in everything if not makers.keys() & set(job.outputs)]
    differing = {job: found for job in kept if (found := differences(job, all_makers))}
    if differing:
        _print_differing(differing, bool(jobs))
    elif not jobs:
        print("Nothing would run: all is as the configuration, the code and the parents say.")
    return 0


def _config_files(arguments: list[str]) -> list[str]:
    """The files that ``--configfile`` names in Snakemake's arguments."""
    files: list[str] = []
    inside = False
    for one in arguments:
        option, equals, value = one.partition("=")
        if one.startswith("-"):
            inside = option in ("--configfile", "--configfiles") and not equals
            if option in ("--configfile", "--configfiles") and equals:
                files.append(value)
        elif inside:
            files.append(one)
    return files


def _print_differing(differing: dict[Job, list[str]], others_run: bool) -> None:
    print(
        f"Snakemake would {'leave these' if others_run else 'run nothing'}: its own records agree "
        "(after `--touch`, for example). But by their manifests, these were made differently:"
    )
    for job, words in differing.items():
        print(f"{job.title}: {'; '.join(words)}")
    manifests = " ".join(job.manifest or "" for job in differing)
    print(f"To rebuild them, end the snakemake command with: --forcerun {manifests}")


def differences(job: Job, makers: dict[str, Job]) -> list[str]:
    """How an artifact that is there differs from what would be made now, by its manifest.

    Args:
        job: the job that would make it, with its command.
        makers: output → the job that makes it.
    """
    config, code, image = (job.option(one) for one in ("--config", "--code", "--image"))
    if job.manifest is None or config is None:
        return []
    try:
        manifest = read_whole_manifest(job.manifest)
    except IntegrityError as error:
        return [error.what]
    words = list(_changed_keys(job, manifest["config"], json.loads(config)))
    if code != manifest["code"]:
        words.append("its code changed")
    if image != manifest["image"]:
        before, now = (str(one).removeprefix("image:") for one in (manifest["image"], image))
        words.append(f"its image changed: {before} → {now}")
    recorded = set(manifest["parents"].values())
    found = {one: digest_file(one) for one in job.inputs if Path(one).is_file()}
    others = [one for one, digest in found.items() if digest not in recorded]
    named = [makers[one].title if one in makers else one for one in others]
    words += [f"made from another {parent}" for parent in dict.fromkeys(named)]
    if not others and recorded != set(found.values()):
        words.append("its set of inputs changed")
    return words


def reasons(job: Job, makers: dict[str, Job]) -> list[str]:
    """Why a job would run, in words.

    Args:
        job: the job.
        makers: output → the job of this plan that makes it.
    """
    words: list[str] = []
    for part in _SPLIT.split(job.entries.get("reason", "")):
        kind = next((kind for kind in _REASONS if part.startswith(kind)), None)
        detail = part.removeprefix(kind or "").removeprefix(":").strip()
        files = [one.strip() for one in detail.split(",") if one.strip()]
        if kind is None:
            words += [part] if part else []
        elif kind.startswith("Missing"):
            words.append(_missing(files))
        elif kind.startswith("Input files updated"):
            parents = dict.fromkeys(makers[one].title for one in files if one in makers)
            words += [f"{parent} re-runs" for parent in sorted(parents)]
        elif kind.startswith("Updated input"):
            words += [f"{one} changed" for one in files]
        elif kind.startswith("Params"):
            words += _changed_params(job, detail)
        else:
            words.append(_REASONS[kind])
    return [NOT_THERE] if NOT_THERE in words else words  # then nothing else matters


def _missing(files: list[str]) -> str:
    if any(Path(one).name == MANIFEST for one in files):
        return NOT_THERE
    return f"output missing: {', '.join(files)}"


def _changed_params(job: Job, detail: str) -> Iterator[str]:
    """Which keys of the configuration changed, or else the code or the image."""
    before, now = _literals(detail)
    if ORPHAN in before:
        yield "a parent that it was made from is no longer here"
        return
    manifest, new = _old_manifest(job), _config(now)
    old = manifest["config"] if manifest else _config(before)
    if old is not None and new is not None:
        yield from _changed_keys(job, old, new)
    if any(value.startswith("code:") for value in before + now):
        yield "its code changed"
    images = [
        next((value.removeprefix("image:") for value in side if value.startswith("image:")), "?")
        for side in (before, now)
    ]
    if images != ["?", "?"]:
        yield f"its image changed: {images[0]} → {images[1]}"


def _changed_keys(job: Job, old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    section = RULES[job.rule].slice.format(job.name.split("/")[0])  # of a tokenized set, the view
    for path, before, after in changes(old, new):
        if path.startswith("functions."):
            yield f"the content of {path.removeprefix('functions.')} changed"
        elif path == "content":
            source = new.get("path") or new.get("source", {}).get("path") or "its source"
            yield f"the content of {source} changed"
        else:
            yield arrow(f"{section}.{path}", before, after)


def _literals(detail: str) -> tuple[list[str], list[str]]:
    """The parameters that only the last run had, and those that only this one has."""
    sides: list[list[str]] = []
    position = detail.find("before: ") + len("before: ")
    for _ in range(2):
        side: list[str] = []
        while match := _LITERAL.match(detail, position):
            side.append(ast.literal_eval(match[0]))
            position = match.end() + detail.startswith(",", match.end())
        sides.append(side)
        position = detail.find("now: ", position) + len("now: ")
    return sides[0], sides[1]


def _as_config(value: str) -> dict[str, Any] | None:
    try:
        found = json.loads(value)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _config(values: list[str]) -> dict[str, Any] | None:
    return next((found for value in values if (found := _as_config(value)) is not None), None)


def _old_manifest(job: Job) -> dict[str, Any] | None:
    try:
        return read_whole_manifest(job.manifest) if job.manifest else None
    except IntegrityError:
        return None
