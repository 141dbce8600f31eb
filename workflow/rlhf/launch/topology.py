"""Who gets what on one node: GPUs, CPU threads; and where the nodes meet."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf.errors import RlhfError
from rlhf.launch.options import Options


@dataclass(frozen=True)
class Topology:
    """The processes of one node; every node has the same.

    Attributes:
        nodes: nodes.
        ranks: ranks on each node.
        rank_gpus: the GPUs of the ranks, in order, one each, or all a single rank's; empty on
            the CPU.
        server_gpus: kind of model server → its GPUs; empty on the CPU.
    """

    nodes: int
    ranks: int
    rank_gpus: tuple[str, ...]
    server_gpus: dict[str, tuple[str, ...]]

    @property
    def world(self) -> int:
        """Ranks on all nodes."""
        return self.nodes * self.ranks


def plan(options: Options, gpus: tuple[str, ...]) -> Topology:
    """Share out a node's GPUs: first to the ranks, then to each server in turn.

    Args:
        options: the launcher's command line.
        gpus: the node's GPUs, as CUDA_VISIBLE_DEVICES names them.

    Raises:
        RlhfError: there are not enough GPUs, or not as many ranks as they need.
    """
    kinds, each = options.servers, options.server_gpus
    own = len(gpus) - each * len(kinds) if gpus else 0
    if gpus and own < 1:
        raise RlhfError(
            f"{len(kinds)} model servers with {each} GPUs each leave none of {len(gpus)} "
            "for the ranks.",
            where="--gpus, --server-gpus",
            expected=f"at least {each * len(kinds) + 1} GPUs on each node",
            hint="set cluster.server_gpus to 0, so that the servers share the ranks' GPUs, or "
            "ask for more GPUs",
        )
    ranks = options.processes or own or 1
    if gpus and ranks not in (1, own):
        raise RlhfError(
            f"{ranks} ranks on {own} GPUs.",
            where="--processes, --gpus, --server-gpus",
            expected=f"one rank for each GPU that no model server has, {own}, or a single one",
            hint=f"leave --processes out, or say --processes {own}",
        )
    starts = range(own, len(gpus), each) if each else [0] * len(kinds)
    parts = [gpus[start : start + (each or own)] for start in starts] if gpus else [()] * len(kinds)
    return Topology(options.nodes, ranks, gpus[:own], dict(zip(kinds, parts, strict=True)))
