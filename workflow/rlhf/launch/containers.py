"""Where a command runs: in the environment of the launcher, or in an image.

Inside an image a command sees the working directory, the project's code, the launcher's scratch
folder, and the folders that were named; of the environment it sees what is passed on here, and
the addresses of proxies, which Apptainer and Singularity pass on by themselves.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rlhf.errors import RlhfError
from rlhf.launch.images import RUNTIMES, find_runtime
from rlhf.launch.options import Options
from rlhf.runtime import guard

GUARDED = (sys.executable, "-I", "-S", guard.__file__)
CODE = Path(__file__).resolve().parents[2]  # the folder that holds the package
# Besides the launcher's own: settings of libraries, and the tokens of hubs and trackers.
_PASSED = ("CUDA_", "GLOO_", "HF_", "MLFLOW_", "NCCL_", "PYTORCH_", "RLHF_", "TORCH", "UCX_",
           "WANDB_")  # fmt: skip
_PASSED_NAMES = ("LANG", "SLURM_JOB_ID", "SLURM_NODEID", "TZ")
# Passed on together with what they name: caches, and whom a site's proxy is signed by.
_PASSED_PATHS = (
    "CURL_CA_BUNDLE",
    "HF_HOME",
    "HF_HUB_CACHE",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
    "TORCHINDUCTOR_CACHE_DIR",
    "TORCH_HOME",
)


@dataclass(frozen=True)
class Host:
    """The environment of the launcher; see ``Image`` for the attributes."""

    python: ClassVar[str] = sys.executable
    added: ClassVar[dict[str, str]] = {}

    def prefix(self) -> list[str]:
        """Nothing has to stand in front of a command."""
        return []

    def check(self) -> None:
        """There is nothing that could be missing."""

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        """The environment to start a command in, so that it sees ``variables``."""
        return {**os.environ, **variables}


@dataclass(frozen=True)
class Image:
    """An image.

    Attributes:
        path: the image's file.
        gpus: whether it is to see the machine's GPUs.
        binds: what it sees, under the same names; the working directory among them.
        home: folder that takes the place of the user's home.
        python: its interpreter.
        added: variables that commands see inside, besides those that they are started with.
    """

    path: Path
    gpus: bool
    binds: tuple[Path, ...]
    home: Path
    python: ClassVar[str] = "python"
    added: ClassVar[dict[str, str]] = {"PYTHONPATH": str(CODE)}

    @property
    def runtime(self) -> str:
        """Name of the program that runs images: the first that is here."""
        return next(filter(shutil.which, RUNTIMES), RUNTIMES[0])

    def check(self) -> None:
        """Make sure that all is there.

        Raises:
            RlhfError: there is no such image, no such folder, or nothing that runs an image.
        """
        find_runtime()
        if not self.path.is_file():
            raise RlhfError(
                "The image is missing.",
                where=self.path,
                hint="`rlhf images build`, where there is a network",
            )
        for folder in self.binds:
            if not folder.exists():
                raise RlhfError("A folder that the image is to see is missing.", where=folder)

    def prefix(self) -> list[str]:
        """The command line that runs a command inside, without the command."""
        return [
            *GUARDED, self.runtime, "exec", *(["--nv"] if self.gpus else []), "--cleanenv",
            f"--home={self.home}", *(f"--bind={folder}" for folder in self.binds),
            f"--pwd={Path.cwd()}", str(self.path),
        ]  # fmt: skip

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        """The environment to start a command in, so that it sees ``variables`` inside.

        By prefixed variables, not by ``--env``: every user of the machine can read a command
        line, and an option's commas would part a value in two. The runtime would evaluate values
        as a shell does, and run what stands in backquotes, if it were not told to let that be.
        """
        inside = {
            name: value
            for name, value in os.environ.items()
            if name.startswith(_PASSED) or name in _PASSED_NAMES + _PASSED_PATHS
        }
        inside |= {**variables, **self.added}
        runtime = self.runtime.upper()
        passed = {f"{runtime}ENV_{name}": value for name, value in inside.items()}
        return {**os.environ, f"{runtime}_NO_EVAL": "1", **passed}


Environment = Host | Image


def python_command(where: Environment, module: str, *arguments: str) -> list[str]:
    """The command line that runs a Python module in an environment."""
    return [*where.prefix(), where.python, "-m", module, *arguments]


def choose_environment(
    image: Path | None, *, gpus: bool, binds: Sequence[Path], scratch: Path
) -> Environment:
    """Where to run: in an image, or bare when there is none.

    Args:
        image: the image's file.
        gpus: whether GPUs are used.
        binds: folders that are seen inside, besides those that always are.
        scratch: the launcher's scratch folder.
    """
    if image is None:
        return Host()
    named = (Path(os.environ[name]) for name in _PASSED_PATHS if os.environ.get(name))
    more = [path.absolute() for path in (*binds, *(path for path in named if path.exists()))]
    seen: list[Path] = []
    for path in (Path.cwd(), CODE, scratch, *more):
        if not any(path.is_relative_to(other) for other in seen):
            seen.append(path)
    return Image(image, gpus, tuple(seen), scratch / "home")


def environments(options: Options, scratch: Path) -> tuple[Environment, Environment, Environment]:
    """Where a node's ranks run, where its model servers run, and where its sampler runs.

    Args:
        options: the launcher's command line.
        scratch: the launcher's scratch folder.
    """
    ranks, servers, sampler = (
        choose_environment(image, gpus=options.gpus > 0, binds=options.binds, scratch=scratch)
        for image in (options.image, options.serve_image, options.sample_image)
    )
    return ranks, servers, sampler
