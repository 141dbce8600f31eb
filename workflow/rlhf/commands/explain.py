"""``rlhf explain``: what would run, and why, one line a job.

Snakemake's dry run knows the jobs and the kind of each reason. Which keys changed is read off the
manifest of the artifact that is there and the parameters that Snakemake now has.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf.commands.differences import arrow, changes
from rlhf.errors import IntegrityError, RlhfError
from rlhf.provenance.manifest import MANIFEST, read_manifest

PROFILE = Path("profiles/local")

# Rule → where its slice stands in the configuration; {} is the name of the artifact.
SECTIONS = {
    "fetch_model": "models.{}",
    "fetch_data": "datasets.{}",
    "tokenize": "tokenization.{}",
    "find_duplicates": "{}.duplicates",
    "train_sft": "sft.{}",
    "train_reward": "reward.{}",
    "train_ppo": "ppo.{}",
    "export_reward_store": "store",
    "export_reference_store": "store",
    "evaluate": "evaluation.{}",
    "report": "report.{}",
}
NOT_THERE = "not there yet"
ORPHAN = "made from an artifact that is not here"  # rlhf.adopt writes it

_JOB = re.compile(r"^(?:local)?(?:rule|checkpoint) (\w+):$")
_ENTRY = re.compile(r"^    (\w+): (.*)$")
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


@dataclass
class Job:
    """One job of the dry run.

    Attributes:
        rule: name of the rule.
        entries: what Snakemake prints about it, by key (``output``, ``reason``, ``wildcards``).
    """

    rule: str
    entries: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the artifact; for a tokenized set, view/model/dataset."""
        pairs = [pair.partition("=") for pair in self.entries.get("wildcards", "").split(", ")]
        return "/".join(value for _, _, value in pairs if value)

    @property
    def title(self) -> str:
        """Rule and name."""
        return f"{self.rule} {self.name}".strip()

    @property
    def outputs(self) -> list[str]:
        """Files and folders that the job makes."""
        return self.entries.get("output", "").split(", ")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything is passed on to Snakemake."""
    parser.usage = "%(prog)s [-h] [arguments of snakemake…]"
    parser.epilog = "For example: rlhf explain --configfile mine.yaml"
    parser.set_defaults(passes_rest=True)


def run(args: argparse.Namespace) -> int:
    """Print one line for each job that would run, most upstream first."""
    jobs = parse_dry_run(_dry_run(args.rest))
    makers = {output: job for job in jobs for output in job.outputs}
    for job in jobs:
        print(f"{job.title}: {'; '.join(reasons(job, makers)) or 'unknown'}")
    if jobs:
        print(f"{len(jobs)} would run")
    else:
        print("Nothing would run: all is as the configuration, the code and the parents say.")
    return 0


def _dry_run(arguments: list[str]) -> str:
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--quiet", "host", "--nocolor"]
    chosen = any(one.split("=")[0] in ("--profile", "--workflow-profile") for one in arguments)
    if PROFILE.is_dir() and not chosen:
        command += ["--workflow-profile", str(PROFILE)]
    done = subprocess.run(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        noise = ("Using workflow specific profile", "Assuming unrestricted", "Building DAG")
        lines = [line for line in done.stdout.splitlines() if not line.startswith(noise)]
        errors = [line for line in lines if line.startswith("__main__.py: error:")]
        text = "\n".join(errors or lines).strip()  # argparse repeats all options before its error
        raise RlhfError(f"snakemake can't plan:\n{text}", hint="mend this, then try again")
    return done.stdout


def parse_dry_run(text: str) -> list[Job]:
    """The jobs of a dry run, in Snakemake's order (parents before children), without ``all``."""
    jobs: list[Job] = []
    inside = False
    for line in text.splitlines():
        head, entry = _JOB.match(line), _ENTRY.match(line)
        if head:
            jobs.append(Job(head[1]))
            inside = True
        elif inside and entry:
            jobs[-1].entries[entry[1]] = entry[2]
        else:
            inside = False
    return [job for job in jobs if "output" in job.entries]


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
    name = job.name.split("/")[0]  # of a tokenized set, the view
    section = SECTIONS.get(job.rule, job.rule).format(name)
    for path, before, after in changes(old, new):
        if path == "content":
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
    path = next((one for one in job.outputs if Path(one).name == MANIFEST), None)
    try:
        return read_manifest(path) if path else None
    except IntegrityError:
        return None
