"""How a command runs: in the environment of the launcher, or in an image.

Inside an image a command sees the working directory, the project's code, the launcher's scratch
folder, and the folders that were named; of the environment it sees what is passed on here.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rlhf.errors import RlhfError

CODE = Path(__file__).resolve().parents[2]  # the folder that holds the package
RUNTIMES = ("apptainer", "singularity")
# Besides the launcher's own: settings of libraries, and the tokens of hubs and trackers.
_PASSED = ("CUDA_", "GLOO_", "HF_", "MLFLOW_", "NCCL_", "PYTORCH_", "RLHF_", "TORCH", "UCX_",
           "WANDB_")  # fmt: skip
_PASSED_NAMES = ("LANG", "SLURM_JOB_ID", "SLURM_NODEID", "TZ")


@dataclass(frozen=True)
class Bare:
    """The environment of the launcher."""

    def check(self) -> None:
        """There is nothing that could be missing."""

    def command(self, module: str, *arguments: str) -> list[str]:
        """The command line that runs a Python module with arguments."""
        return [sys.executable, "-m", module, *arguments]

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        """The environment to start such a command in, so that it sees ``variables``."""
        return {**os.environ, **variables}


@dataclass(frozen=True)
class Image:
    """An image.

    Attributes:
        path: the image's file.
        gpus: whether it is to see the machine's GPUs.
        binds: folders that it sees, under the same names; the working directory among them.
        home: folder that takes the place of the user's home.
    """

    path: Path
    gpus: bool
    binds: tuple[Path, ...]
    home: Path

    @property
    def runtime(self) -> str:
        """The program that runs images: the first that is here."""
        return next(filter(shutil.which, RUNTIMES), RUNTIMES[0])

    def check(self) -> None:
        """Make sure that all is there.

        Raises:
            RlhfError: there is no such image, no such folder, or nothing that runs an image.
        """
        if not shutil.which(self.runtime):
            raise RlhfError(
                "There is no container runtime on this machine.",
                where=f"PATH={os.environ.get('PATH', '')}",
                expected=" or ".join(RUNTIMES),
                hint="load the site's module, or set runtime.containers: none",
            )
        if not self.path.is_file():
            raise RlhfError(
                "The image is missing.",
                where=self.path,
                hint="`rlhf images build`, where there is a network",
            )
        for folder in self.binds:
            if not folder.exists():
                raise RlhfError("A folder that the image is to see is missing.", where=folder)

    def command(self, module: str, *arguments: str) -> list[str]:
        """The command line that runs a Python module with arguments, inside."""
        return [*self.prefix(), "python", "-m", module, *arguments]

    def prefix(self) -> list[str]:
        """The command line that runs a command inside, without the command."""
        return [
            self.runtime, "exec", *(["--nv"] if self.gpus else []), "--cleanenv",
            "--home", str(self.home),
            *(word for folder in self.binds for word in ("--bind", str(folder))),
            "--pwd", str(Path.cwd()), str(self.path),
        ]  # fmt: skip

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        """The environment to start such a command in, so that it sees ``variables`` inside.

        By prefixed variables, not by ``--env``: every user of the machine can read a command
        line, and an option's commas would part a value in two.
        """
        inside = {
            name: value
            for name, value in os.environ.items()
            if name.startswith(_PASSED) or name in _PASSED_NAMES
        }
        inside |= {**variables, "PYTHONPATH": str(CODE)}
        prefix = f"{self.runtime.upper()}ENV_"
        return {**os.environ, **{prefix + name: value for name, value in inside.items()}}


Place = Bare | Image


def place(image: Path | None, *, gpus: bool, binds: tuple[Path, ...], scratch: Path) -> Place:
    """Where to run: in ``image``, or bare when there is none.

    Args:
        image: the image's file.
        gpus: whether GPUs are used.
        binds: folders that are seen inside, besides those that always are.
        scratch: the launcher's scratch folder.
    """
    if image is None:
        return Bare()
    kept: list[Path] = []
    for folder in (Path.cwd(), CODE, scratch, *(folder.absolute() for folder in binds)):
        if not any(folder.is_relative_to(other) for other in kept):
            kept.append(folder)
    return Image(image, gpus, tuple(kept), scratch / "home")
