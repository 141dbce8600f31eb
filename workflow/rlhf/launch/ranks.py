"""The command line and the environment of a node's ranks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rlhf.launch.containers import Environment, python_command
from rlhf.launch.options import Options
from rlhf.launch.topology import Topology
from rlhf.launch.worker import EXIT_FOLDER, MODULE
from rlhf.runtime import gpus
from rlhf.runtime.tls import FOLDER_VARIABLE

LOOPBACK = "127.0.0.1"
MEET_SECONDS = 3600  # one node may load its served models for much longer than another
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


@dataclass(frozen=True)
class Rendezvous:
    """Where the agents of several nodes meet.

    Attributes:
        endpoint: HOST:PORT on the first node.
        address: this node's address, as the others see it.
        first: whether this is the first node.
    """

    endpoint: str
    address: str
    first: bool


def rank_command(
    options: Options,
    topology: Topology,
    where: Environment,
    scratch: Path,
    rendezvous: Rendezvous | None,
) -> list[str]:
    """The command line of a node's ranks: the stage's module itself, or torchrun over them.

    Args:
        options: the launcher's command line.
        topology: the node's processes.
        where: where they run.
        scratch: folder for torchrun's files, which it would leave behind elsewhere.
        rendezvous: where several nodes meet; None for one node.
    """
    if topology.world == 1:
        return python_command(where, *options.command)
    if rendezvous is None:
        torchrun = ["--standalone", f"--local-addr={LOOPBACK}"]
    else:
        timeouts = f"join_timeout={MEET_SECONDS},read_timeout={MEET_SECONDS}"
        torchrun = [
            f"--nnodes={topology.nodes}",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={rendezvous.endpoint}",
            f"--rdzv-id={rendezvous.endpoint}",
            f"--rdzv-conf=is_host={int(rendezvous.first)},{timeouts}",
            f"--local-addr={rendezvous.address}",
        ]
    return python_command(
        where,
        "rlhf.launch.torchrun",
        *torchrun,
        f"--nproc-per-node={topology.ranks}",
        f"--log-dir={scratch / 'torchrun'}",
        *("-m", "--", MODULE),  # or torchrun takes the stage's --log for its own --log-dir
        *options.command,
    )


def rank_variables(
    options: Options, topology: Topology, scratch: Path, endpoints: Mapping[str, str]
) -> dict[str, str]:
    """What the launcher adds to the ranks' environment.

    Args:
        options: the launcher's command line.
        topology: the node's processes.
        scratch: the launcher's scratch folder.
        endpoints: kind of model server → HOST:PORT.
    """
    served = {f"RLHF_ENDPOINT_{kind.upper()}": endpoint for kind, endpoint in endpoints.items()}
    if served:
        served[FOLDER_VARIABLE] = str(scratch / "tls")
    return {
        **dict.fromkeys(_THREAD_VARIABLES, str(options.threads)),
        **common_variables(topology.rank_gpus, scratch),
        **served,
        EXIT_FOLDER: str(scratch / "exit"),
        gpus.USED: str(options.gpus),
        **(_gpu_variables() if options.gpus else {}),
    }


def _gpu_variables() -> dict[str, str]:
    """What CUDA reads once, when a rank begins to compute, unless it is set already."""
    wanted = {
        # Rows of all lengths come by: segments that grow leave less memory unused in between.
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        # Of fixed workspaces; without it cuBLAS is deterministic in a single stream alone.
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
    return {name: os.environ.get(name, value) for name, value in wanted.items()}


def common_variables(given: tuple[str, ...], scratch: Path) -> dict[str, str]:
    """What ranks and model servers alike find in their environment.

    Args:
        given: the GPUs that they may use; without any they must not find those of the machine.
        scratch: where their temporary files go, so that nothing stays behind.
    """
    return {
        gpus.VISIBLE: ",".join(given),
        "PYTHONNOUSERSITE": "1",
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(scratch),
    }
