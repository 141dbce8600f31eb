"""Real projects to run: copies of this repository in their own folders."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = "tests/config/tiny.yaml"


class Project:
    """A clone of the repository, and what snakemake does or would do in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = TINY
        self.overlays: list[str] = []  # configuration files that add to the first

    @classmethod
    def clone(cls, folder: Path) -> Project:
        """Copy what git tracks, and new files that it does not ignore."""
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "-z"],
            cwd=REPOSITORY,
            capture_output=True,
            check=True,
        ).stdout.decode()
        for name in filter(None, listed.split("\0")):
            source, target = REPOSITORY / name, folder / name
            if source.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target, follow_symlinks=False)
        return cls(folder)

    def copy(self, folder: Path) -> Project:
        """The same project with its results and Snakemake's records, times preserved."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Project(folder)

    def fresh_clone(self, folder: Path) -> Project:
        """What git would check out, with the results copied in and nothing else."""
        made = shutil.ignore_patterns("results", "state", "logs", ".snakemake")
        shutil.copytree(self.folder, folder, symlinks=True, ignore=made)
        shutil.copytree(self.folder / "results", folder / "results", symlinks=True)
        return Project(folder)

    def environment(self) -> dict[str, str]:
        """This project's package, not the one that the tests were installed from."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        inherited = filter(None, [os.environ.get("PYTHONPATH")])
        return os.environ | {
            "PYTHONPATH": os.pathsep.join([str(self.folder / "workflow"), *inherited]),
            "PATH": path,
            "OMP_NUM_THREADS": "1",
        }

    def snakemake(
        self, *arguments: str, profile: str = "local", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run snakemake with a profile."""
        configs = ["--configfile", self.config, *self.overlays]
        done = subprocess.run(
            ["snakemake", "--profile", profile, *arguments, *configs],
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=3000,
        )
        if check and done.returncode:
            raise AssertionError(f"snakemake failed:\n{done.stdout}\n{done.stderr}")
        return done

    def rlhf(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one of the project's own commands."""
        return subprocess.run(
            ["rlhf", *arguments],
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=1800,
        )

    def would_run(self, *arguments: str) -> set[str]:
        """Jobs that would run, as ``rule``, ``tokenize:view`` or ``export_store:kind``."""
        done = self.snakemake("--dry-run", *arguments)
        text = done.stdout + done.stderr
        jobs = set()
        for block in re.split(r"\n(?=(?:local)?(?:rule|checkpoint) \w+:)", text)[1:]:
            (rule,) = re.match(r"(?:local)?(?:rule|checkpoint) (\w+):", block).groups()
            part = re.search(r"wildcards: (?:view|kind)=(\w+)", block)
            jobs.add(f"{rule}:{part.group(1)}" if part else rule)
        return jobs - {"all"}

    def replace(self, file: str, old: str, new: str) -> None:
        """Edit a file; the old text must be there."""
        path = self.folder / file
        text = path.read_text()
        assert old in text, f"{old!r} is not in {file}"
        path.write_text(text.replace(old, new, 1))

    def results(self, *names: str) -> dict[str, bytes]:
        """Content of result files by relative path; all but run times and the page by default."""
        root = self.folder / "results"
        files = [path for path in root.rglob("*") if path.is_file()]
        volatile = {"run.json", "report.html", ".snakemake_timestamp"}
        return {
            path.relative_to(root).as_posix(): path.read_bytes()
            for path in files
            if path.name not in volatile
            and (not names or path.relative_to(root).as_posix().startswith(names))
        }
