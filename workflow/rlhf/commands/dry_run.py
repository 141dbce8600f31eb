"""The jobs of a dry run of Snakemake, read off what it prints."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from rlhf.errors import RlhfError
from rlhf.provenance.manifest import MANIFEST

PROFILE = Path("profiles/local")

_JOB = re.compile(r"^(?:local)?(?:rule|checkpoint) (\w+):$")
_ENTRY = re.compile(r"^    (\w+): (.*)$")
_COMMAND = "Shell command: "


@dataclass(eq=False)
class Job:
    """One job of the dry run.

    Attributes:
        rule: name of the rule.
        entries: what Snakemake prints about it, by key (``output``, ``reason``, ``wildcards``).
        command: its shell command, where Snakemake was asked to print that.
    """

    rule: str
    entries: dict[str, str] = field(default_factory=dict)
    command: str = ""

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

    @property
    def inputs(self) -> list[str]:
        """Files that the job reads."""
        return [one for one in self.entries.get("input", "").split(", ") if one]

    @property
    def manifest(self) -> str | None:
        """The manifest that the job makes."""
        return next((one for one in self.outputs if Path(one).name == MANIFEST), None)

    def option(self, name: str) -> str | None:
        """What an option of the job's command says."""
        words = shlex.split(self.command)
        return words[words.index(name) + 1] if name in words[:-1] else None


def dry_run(arguments: list[str]) -> str:
    """What Snakemake prints of a dry run.

    Raises:
        RlhfError: it can't plan, with what it says.
    """
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
        if any(line.startswith("Traceback") for line in lines):
            lines = [line for line in lines if line.strip()][-1:]  # its last line says what it was
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
        elif inside and line.startswith(_COMMAND):
            jobs[-1].command = line.removeprefix(_COMMAND)
        else:
            inside = False
    return [job for job in jobs if "output" in job.entries]
