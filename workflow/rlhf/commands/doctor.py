"""``rlhf doctor``: does this site have what the pipeline needs?"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf import paths
from rlhf.commands.arguments import number
from rlhf.core.files import read_json, write_atomic, write_json
from rlhf.core.user_paths import path_argument
from rlhf.runtime import slurm

if TYPE_CHECKING:
    from rlhf.doctor.check import Check

LOGS = paths.LOGS / "doctor"
JOB = ("--job-name=rlhf-doctor", "--nodes=1", "--ntasks-per-node=1", "--cpus-per-task=2",
       "--mem=4G", "--time=15")  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to look, and how to say what was found."""
    parser.usage = "%(prog)s [-h] [options] [--job [-- options of sbatch…]]"
    parser.epilog = "For example: rlhf doctor --job -- --nodes=2 --gres=gpu:8"
    parser.add_argument("--job", action="store_true", help="look from inside a small job, too")
    parser.add_argument(
        "--limit",
        type=number(0),
        default=900.0,
        metavar="SECONDS",
        help="wait for it; default: 900",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--configfile", type=path_argument, default=Path("config/config.yaml"), metavar="FILE",
        help="says whether stages run in images; default: config/config.yaml",
    )  # fmt: skip
    parser.add_argument("--report", type=path_argument, help=argparse.SUPPRESS)  # inside the job
    parser.add_argument("sbatch", nargs="*", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Look, and say what was found; 1 if anything failed."""
    if args.report is not None:
        write_json(args.report, [dataclasses.asdict(one) for one in _inside(args)])
        return 0
    places: dict[str, Iterable[Check]] = {os.uname().nodename: _here(args)}
    if args.job:
        places["a job"] = _from_job(args)
    found: dict[str, list[Check]] = {}
    for place, checks in places.items():
        found[place] = []
        if not args.json:
            print(place)
        for one in checks:
            found[place].append(one)
            if not args.json:
                _show(one)
    verdicts = Counter(one.verdict for checks in found.values() for one in checks)
    if args.json:
        print(json.dumps(_as_json(found), indent=2, ensure_ascii=False))
    else:
        print(f"{verdicts['failed']} failed, {verdicts['warning']} warnings, {verdicts['ok']} ok")
    return 1 if verdicts["failed"] else 0


def _show(check: Check) -> None:
    print(f"  {check.verdict:<8}{check.name}: {check.found}", flush=True)
    if check.to_do:
        print(f"          to do: {check.to_do}", flush=True)


def _as_json(found: dict[str, list[Check]]) -> dict[str, Any]:
    return {place: [dataclasses.asdict(one) for one in checks] for place, checks in found.items()}


def _here(args: argparse.Namespace) -> Iterator[Check]:
    """On a login node, or on a machine without SLURM."""
    from rlhf.doctor.cluster import check_cluster
    from rlhf.doctor.machine import check_hub

    yield from check_cluster()
    yield from _anywhere(args, gpus_expected=False, nodes=0 if shutil.which("sinfo") else 1)
    yield check_hub(needed=True)


def _inside(args: argparse.Namespace) -> Iterator[Check]:
    """In a job: its first node, and what its nodes can do together."""
    from rlhf.doctor.check import Check
    from rlhf.doctor.machine import check_hub

    token = args.report.with_suffix(".token")
    name = f"files of the login node, on {os.uname().nodename}"
    if token.is_file() and token.read_text() == token.stem:
        yield Check(name, "ok", "this node sees what was just written there")
    else:
        to_do = "keep the project on a file system that login and compute nodes share"
        yield Check(name, "failed", f"{token.resolve()} is not as it was written", to_do)
    yield from _anywhere(args, slurm.gave_gpus(), slurm.nodes_of_this_job())
    yield check_hub(needed=False)


def _anywhere(args: argparse.Namespace, gpus_expected: bool, nodes: int) -> Iterator[Check]:
    """What is looked at on a login node and in a job alike.

    Args:
        args: the command line.
        gpus_expected: whether there should be GPUs.
        nodes: nodes whose ranks reduce together; 0: none, as on a login node.
    """
    from rlhf.doctor.check import failed
    from rlhf.doctor.containers import check_containers
    from rlhf.doctor.machine import check_gpus, check_machine, gpu_names
    from rlhf.doctor.ranks import check_ranks
    from rlhf.doctor.storage import check_storage
    from rlhf.errors import RlhfError
    from rlhf.launch.images import image_path

    in_images = False
    try:
        in_images = _in_images(args.configfile)
    except RlhfError as error:
        yield failed("configuration", error)
    gpus = gpu_names()
    yield from check_machine()
    yield check_gpus(gpus, gpus_expected, with_torch=not in_images)
    yield from check_containers(in_images, len(gpus))
    yield from check_storage(Path())
    if nodes:
        image = image_path("train") if in_images else None
        yield check_ranks(nodes, len(gpus), image, LOGS)


def _in_images(path: Path) -> bool:
    from rlhf.config.load import load_config_file

    return load_config_file(path).runtime.containers != "none"


def _from_job(args: argparse.Namespace) -> Iterable[Check]:
    """What a small job finds, submitted with the account and the partition of the profile."""
    from rlhf.doctor.check import Check
    from rlhf.doctor.cluster import ON_A_CLUSTER, default_resources, read_profile

    if not shutil.which("sbatch"):
        return [Check("job", "failed", "there is no sbatch here", ON_A_CLUSTER)]
    LOGS.mkdir(parents=True, exist_ok=True)
    report = LOGS.resolve() / f"{secrets.token_hex(4)}.json"
    token = report.with_suffix(".token")
    write_atomic(token, token.stem)
    inside = [sys.executable, "-m", "rlhf.cli", "doctor", f"--report={report}",
              f"--configfile={args.configfile}"]  # fmt: skip
    given = default_resources(read_profile())
    names = {"slurm_account": "account", "slurm_partition": "partition"}
    options = [f"--{names[name]}={value}" for name, value in given.items()]
    command = ["sbatch", "--parsable", "--wait", f"--output={LOGS}/%j.log", *JOB, *options,
               *args.sbatch, f"--wrap={shlex.join(inside)}"]  # fmt: skip
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert job.stdout is not None
    number = job.stdout.readline().strip().partition(";")[0]
    try:
        _, errors = job.communicate(timeout=args.limit)
    except subprocess.TimeoutExpired:
        slurm.cancel([number])
        job.communicate()
        found = f"job {number} has not ended in {args.limit:g} s"
        to_do = "choose a free partition, as in: rlhf doctor --job -- --partition=debug"
        return [Check("job", "failed", found, to_do)]
    finally:
        token.unlink(missing_ok=True)
    if not report.is_file():
        found = errors.strip() or f"job {number} left no answer"
        to_do = f"read {LOGS}/{number}.log" if number else f"try by hand: {shlex.join(command)}"
        return [Check("job", "failed", found, to_do)]
    checks = [Check(**one) for one in read_json(report)]
    report.unlink()
    return checks
