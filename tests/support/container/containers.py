"""A machine with a real Apptainer, a user who builds images on it, and projects of that user."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.projects import Project

HERE = Path(__file__).parent
# Kept from run to run. Not below a home that only root may enter: an ordinary user builds here.
CACHE = Path(os.environ.get("RLHF_TEST_CACHE", "/var/cache/rlhf-tests"))
APPTAINER = CACHE / "apptainer" / "bin"
USER = "rlhf-builder"
PYTHON = "/usr/bin/python3"  # the suite's own may lie where the user can't go
RLHF = "import sys; from rlhf.cli import main; sys.exit(main())"


class Machine:
    """Apptainer, a base image, wheels, and an ordinary user: made once, then kept in ``CACHE``.

    Raises:
        RuntimeError: something can't be had; it says what.
    """

    def __init__(self) -> None:
        if os.geteuid() != 0:
            raise RuntimeError("these tests install packages and make a user: run them as root")
        CACHE.mkdir(parents=True, exist_ok=True, mode=0o755)
        _script("apptainer.sh", CACHE)
        _script("base.sh", CACHE, sys.executable)
        self.runtime = APPTAINER / "apptainer"
        self.base, self.wheels = CACHE / "base.sqfs", CACHE / "wheels"
        self.home = CACHE / "home"
        try:
            self.user = pwd.getpwnam(USER)
        except KeyError:  # useradd, not a system user: it gets subordinate ids for --fakeroot
            subprocess.run(["useradd", "-m", "-d", self.home, "-s", "/bin/sh", USER], check=True)
            self.user = pwd.getpwnam(USER)

    def environment(self, project: Path) -> dict[str, str]:
        """For the user: Apptainer on PATH, scratch folders of the user's own."""
        scratch = {name: self.home / name for name in ("tmp", "cache")}
        for folder in scratch.values():
            folder.mkdir(exist_ok=True)
            os.chown(folder, self.user.pw_uid, self.user.pw_gid)
        return {
            "PATH": f"{APPTAINER}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(project / "workflow"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "APPTAINER_TMPDIR": str(scratch["tmp"]),
            "APPTAINER_CACHEDIR": str(scratch["cache"]),
        }

    @contextlib.contextmanager
    def shown(self, packages: Path) -> Iterator[None]:
        """Within, root finds Apptainer on PATH, and a folder of packages on PYTHONPATH."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", str(APPTAINER), prepend=os.pathsep)
            patch.setenv("PYTHONPATH", str(packages))
            patch.setenv("APPTAINER_NO_PRIVS", "1")  # root may lack some that it would hand on
            yield

    def run(
        self, command: Sequence[str | Path], project: Path, timeout: float = 600.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a project as the user."""
        return subprocess.run(
            command,
            cwd=project,
            env=self.environment(project),
            user=self.user.pw_uid,
            group=self.user.pw_gid,
            extra_groups=[],
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def rlhf(
        self, project: Path, *arguments: str | Path, timeout: float = 600.0
    ) -> subprocess.CompletedProcess[str]:
        """Run ``rlhf …`` in a project as the user."""
        return self.run([PYTHON, "-c", RLHF, *arguments], project, timeout)

    def build(self, project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``rlhf images build`` on the base and the wheels of this machine."""
        options = ["--base", self.base, "--wheels", self.wheels]
        return self.rlhf(project, "images", "build", *options, *arguments, timeout=1200)

    def built(self) -> Built:
        """Both images; those built before from the same definitions, locks and base are kept."""
        folder, kept = self.clone("built"), self.home / "images"
        self.run(["mkdir", "-p", kept], folder)
        (folder / "images").symlink_to(kept)
        done = self.build(folder)
        print(done.stdout)  # how long it took
        if done.returncode:
            raise RuntimeError(f"the images could not be built:\n{done.stderr}")
        found = re.findall(r"^(\w+): (images/\S+) (?:is there|built)", done.stdout, re.MULTILINE)
        return Built(folder, {kind: folder / path for kind, path in found})

    def clone(self, name: str) -> Path:
        """A fresh copy of the repository that belongs to the user."""
        folder = CACHE / "projects" / name
        shutil.rmtree(folder, ignore_errors=True)
        Project.clone(folder)
        subprocess.run(["chown", "-R", f"{USER}:", folder], check=True)
        return folder


@dataclass(frozen=True)
class Built:
    """A project of the user with both images, built from the real definitions.

    Attributes:
        folder: the project's folder.
        images: kind → the image's file.
    """

    folder: Path
    images: dict[str, Path]


def _script(name: str, *arguments: str | Path) -> None:
    done = subprocess.run(
        ["bash", HERE / name, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print(done.stdout)
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stdout}")
