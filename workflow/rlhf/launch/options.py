"""The command line of ``rlhf launch``."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rlhf.catalog import STORES
from rlhf.paths import LOGS

KINDS = tuple(STORES)  # of model servers that score
SAMPLER = "sampler"  # the kind of the one that samples


@dataclass(frozen=True)
class Options:
    """What is to run, and how.

    Attributes:
        nodes: nodes.
        processes: ranks on each node; None: one for each GPU that no server has, or just one.
            A single rank has all those GPUs.
        gpus: GPUs on each node; 0: everything on the CPU.
        server_gpus: GPUs that each model server has to itself; 0: servers use the ranks' GPUs.
        spread: model servers that have one model over their GPUs, not one on each.
        threads: CPU threads of each rank.
        server_threads: CPU threads of each model server.
        image: image that the ranks run in, or None.
        serve_image: image that the model servers run in; by default that of the ranks.
        sample_image: image that the sampler runs in, or None.
        binds: folders outside of the working directory that are seen inside of the images.
        stores: what a model server is called, such as ``reward`` or ``reward2`` → its store.
        sampler: folder of the policy that a vLLM server samples from, or None: there is none.
        sampler_dtype: type of its weights.
        sampler_length: tokens of its longest prompt with the response.
        state: the run's state folder, of which there is one owner at a time; or None.
        log: the stage's log; server logs stand beside it, as in STEM.reward-server.log.
        dry_run: say what would run, and start nothing.
        agent: this process is one node's agent.
        rendezvous: HOST:PORT where the agents of several nodes meet, or None.
        exit_codes: folder where an agent leaves its exit code for the coordinator, or None.
        command: module of the stage, and its arguments.
        given: the command line itself, without those that the coordinator adds for its agents.
    """

    nodes: int
    processes: int | None
    gpus: int
    server_gpus: int
    spread: tuple[str, ...]
    threads: int
    server_threads: int
    image: Path | None
    serve_image: Path | None
    sample_image: Path | None
    binds: tuple[Path, ...]
    stores: dict[str, Path]
    sampler: Path | None
    sampler_dtype: Literal["float32", "bfloat16"]
    sampler_length: int
    state: Path | None
    log: Path
    dry_run: bool
    agent: bool
    rendezvous: str | None
    exit_codes: Path | None
    command: tuple[str, ...]
    given: tuple[str, ...]

    @property
    def servers(self) -> tuple[str, ...]:
        """What the servers of a node are called, in the order in which they get their GPUs."""
        return (*self.stores, *([SAMPLER] if self.sampler else []))

    def server_log(self, name: str, node: int) -> Path:
        """The log of a model server; ``node`` counts from 0, and is named if there are several."""
        place = f".node{node}" if self.nodes > 1 else ""
        return self.log.with_name(f"{self.log.stem}{place}.{name}-server.log")


def parse(argv: list[str]) -> Options:
    """Read a command line; a wrong one ends the process with exit code 2."""
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = _parser()
    values = vars(parser.parse_args(argv[:cut]))
    command = tuple(argv[cut + 1 :])
    if not command:
        parser.error("which module? End the command with: -- MODULE [args…]")
    for name, least in (("nodes", 1), ("processes", 1), ("gpus", 0), ("server_gpus", 0),
                        ("threads", 1), ("server_threads", 1), ("sampler_length", 2)):  # fmt: skip
        if values[name] is not None and values[name] < least:
            parser.error(f"--{name.replace('_', '-')} has to be {least} or more")
    values["serve_image"] = values["serve_image"] or values["image"]
    values["spread"] = tuple(values["spread"])
    values["binds"] = tuple(values.pop("bind"))
    values["stores"] = _stores(parser, values.pop("serve"))
    for name in values["spread"]:
        if name not in values["stores"]:
            parser.error(f"--spread {name}: there is no --serve {name}=DIR")
    return Options(**values, command=command, given=tuple(argv[:cut]))


def agent_arguments(options: Options, exit_codes: Path, rendezvous: str | None) -> list[str]:
    """What ``options`` becomes as the command line of its agents."""
    own = ["--agent", f"--exit-codes={exit_codes}"]
    own += [f"--rendezvous={rendezvous}"] if rendezvous else []
    given = [one for one in options.given if one != "--dry-run"]
    return [*given, *own, "--", *options.command]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rlhf launch",
        usage="%(prog)s [options] -- MODULE [args…]",
        description="Run one stage with the model servers that it needs.",
        allow_abbrev=False,
    )

    def count(name: str, default: int | None, about: str) -> None:
        parser.add_argument(name, type=int, default=default, metavar="N", help=about)

    count("--nodes", 1, "nodes")
    count("--processes", None, "ranks on each node; default: one for each GPU that no server has; "
          "1: a rank that has them all")  # fmt: skip
    count("--gpus", 0, "GPUs on each node; 0: everything on the CPU")
    count("--server-gpus", 0, "GPUs of each model server; 0: servers use the ranks' GPUs")
    parser.add_argument(
        "--spread", action="append", default=[], metavar="NAME",
        help="a model server with one model over its GPUs; default: one on each of them",
    )  # fmt: skip
    count("--threads", 1, "CPU threads of each rank")
    count("--server-threads", 1, "CPU threads of each model server")
    paths: dict[str, Any] = {"type": Path, "metavar": "PATH"}
    parser.add_argument("--image", help="image that the ranks run in", **paths)
    parser.add_argument("--serve-image", help="image of the model servers", **paths)
    parser.add_argument("--sample-image", help="image of the sampler", **paths)
    parser.add_argument(
        "--bind", action="append", default=[], help="folder that images see too", **paths
    )
    parser.add_argument(
        "--serve",
        action="append",
        default=[],
        metavar="NAME=STORE",
        help="reward or reference; further ones of a kind are called reward2, reward3",
    )
    parser.add_argument("--sampler", help="policy that a vLLM server samples from", **paths)
    parser.add_argument(
        "--sampler-dtype",
        choices=("float32", "bfloat16"),
        default="bfloat16",
        help="type of its weights",
    )
    count("--sampler-length", 1024, "tokens of its longest prompt with the response")
    parser.add_argument("--state", help="state folder, for one run at a time", **paths)
    parser.add_argument(
        "--log",
        default=LOGS / "launch.log",
        help="the stage's log; server logs stand beside it, as in STEM.reward-server.log",
        **paths,
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would run")
    for name in (
        "--agent",
        "--exit-codes",
        "--rendezvous",
    ):  # the coordinator's words to its agents
        kind: dict[str, Any] = {"action": "store_true"} if name == "--agent" else {}
        kind |= {"type": Path} if name == "--exit-codes" else {}
        parser.add_argument(name, help=argparse.SUPPRESS, **kind)
    return parser


def _stores(parser: argparse.ArgumentParser, items: list[str]) -> dict[str, Path]:
    stores: dict[str, Path] = {}
    for item in items:
        name, _, store = item.partition("=")
        if kind_of(name) not in KINDS or not store or name in stores:
            parser.error(
                f"--serve {item}: expected reward=DIR or reference=DIR, or with a number as in "
                "reward2=DIR, each once"
            )
        stores[name] = Path(store)
    return dict(sorted(stores.items(), key=lambda item: KINDS.index(kind_of(item[0]))))


def kind_of(name: str) -> str:
    """Kind of the model that a server has which is called so: ``reward`` of ``reward2``."""
    return name.rstrip("0123456789")
