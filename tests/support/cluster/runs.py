"""Projects on the cluster, and single runs of theirs that faults come to."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rlhf.runtime.processes import command_line
from support.cluster.hosts import Host, HostError, Process, wait_until
from support.cluster.slurm import Cluster
from support.projects import REPOSITORY, TINY, Project

CONFIG = "tests/config/cluster.yaml"
OVERLAY = "tests/cluster/profile"
FOLDERS = {"train_sft": "sft", "train_reward": "reward", "train_ppo": "ppo"}
LONG = "long"  # name of the runs that faults come to
INPUTS = [  # of those runs
    f"results/{made}/manifest.json"
    for made in ("store/reward/helpful", "store/reference/chat", "tokenized/prompt/tiny/demo")
]

START_SECONDS = 1200.0  # on a busy machine of two cores
END_SECONDS = 3000.0


@dataclass(frozen=True)
class Topology:
    """How many nodes, and ranks on each."""

    nodes: int = 1
    processes: int = 1

    @property
    def world(self) -> int:
        """Ranks in all."""
        return self.nodes * self.processes

    def __str__(self) -> str:
        nodes = f"{self.nodes} node{'s' * (self.nodes > 1)}"
        return f"{nodes} × {self.processes} process{'es' * (self.processes > 1)}"


class ClusterProject(Project):
    """A clone in the user's home, run from the login host with the profile for SLURM."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        super().__init__(folder)
        self.config, self.cluster = CONFIG, cluster
        self.home = cluster.user.home / folder.name  # as hosts see it
        self.variables: dict[str, str] = {}  # added to the environment

    @classmethod
    def clone_for(cls, cluster: Cluster, name: str) -> ClusterProject:
        """A fresh clone that belongs to the user, configured for one process on one node."""
        folder = cluster.disk.outside(cluster.user.home) / name
        Project.clone(folder)
        project = cls(folder, cluster)
        project.configure(Topology())
        cluster.disk.own(folder, cluster.user)
        return project

    def copy_to(self, cluster: Cluster, name: str) -> ClusterProject:
        """The same project with its results and Snakemake's records, times preserved."""
        folder = cluster.disk.outside(cluster.user.home) / name
        shutil.copytree(self.folder, folder, symlinks=True)
        cluster.disk.own(folder, cluster.user)
        return ClusterProject(folder, cluster)

    def configure(self, topology: Topology, **cluster: Any) -> None:
        """Write the configuration: the tiny pipeline, and a longer run of each training stage."""
        values = tiny_pipeline(topology, **cluster)
        for section, name, longer in (
            ("sft", "chat", {"epochs": 8}),
            ("reward", "helpful", {"epochs": 5}),
            ("ppo", "final", {"updates": 16}),
        ):
            values[section][LONG] = values[section][name] | longer
        values["runtime"]["save_steps"] = 1
        (self.folder / self.config).write_text(yaml.safe_dump(values, sort_keys=False))

    def environment(self) -> dict[str, str]:
        """This project's package before any other, for a login of the user."""
        inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        others = [path for path in inherited if path and Path(path) != REPOSITORY / "workflow"]
        path = os.pathsep.join([str(self.home / "workflow"), *others])
        return {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", **self.variables}

    def start_command(self, *command: str) -> Process:
        """Start a command on the login host, in this project."""
        return self.cluster.start_command(command, folder=self.home, variables=self.environment())

    def run_command(self, *command: str, seconds: float = END_SECONDS) -> str:
        """Run a command on the login host, in this project; what it says.

        Raises:
            HostError: it failed, or took too long.
        """
        done = self.start_command(*command).wait(seconds)
        said = done.stdout + done.stderr
        if done.returncode:
            raise HostError(
                f"{' '.join(command)} ended with {done.returncode}\n{said}{self.cluster.describe()}"
            )
        return said

    def start_snakemake(self, *arguments: str) -> Process:
        """Start snakemake with the profile for SLURM, and the tests' overlay."""
        return self.start_command(*self.snakemake_command(*arguments))

    def snakemake_command(self, *arguments: str, profile: str = "slurm") -> list[str]:
        """``snakemake --profile slurm`` with what the tests lay over it; or another profile."""
        overlay = ["--workflow-profile", OVERLAY] if profile == "slurm" else []
        own = ["--profile", profile, *overlay, *arguments, "--configfile", self.config]
        return ["snakemake", *own]

    def jobs(self, *, states: str = "all") -> list[str]:
        """Ids of this project's jobs, oldest first."""
        return self.cluster.jobs(self.home, states=states)


class Run:
    """One run of a training stage in a project of its own.

    Args:
        project: the project; everything that the run needs is made already.
        rule: the stage's rule.
        topology: nodes and processes.
        cluster: keys of the configuration's section ``cluster``.
    """

    def __init__(
        self, project: ClusterProject, rule: str, topology: Topology, **cluster: Any
    ) -> None:
        self.project, self.rule, self.cluster = project, rule, project.cluster
        self.topology = topology
        project.configure(topology, **cluster)
        self.results = f"{FOLDERS[rule]}/{LONG}"
        self.target = f"results/{self.results}/manifest.json"
        self.state = project.folder / "state" / rule / LONG
        self.log = project.folder / "logs" / rule / f"{LONG}.log"
        self._head: Process | None = None

    # What a user does

    def start(self, *arguments: str, partition: str = "cpu", account: str = "") -> Process:
        """Start snakemake for this run."""
        where = [f"slurm_partition={partition}", *([f"slurm_account={account}"] if account else [])]
        self._head = self.project.start_snakemake(
            self.target, *arguments, "--default-resources", *where
        )
        return self._head

    @property
    def head(self) -> Process:
        """The snakemake that was started last."""
        assert self._head is not None, "nothing was started"
        return self._head

    def finish(self, seconds: float = END_SECONDS) -> None:
        """Wait for snakemake, which has to end well.

        Raises:
            HostError: it failed, or took too long; with what it, the stage and SLURM say.
        """
        done = self.head.wait(seconds)
        if done.returncode:
            raise HostError(f"snakemake ended with {done.returncode}\n{self.describe()}")

    def go_on(self, partition: str = "cpu") -> None:
        """Type ``snakemake --profile slurm`` again, and wait until it has ended well."""
        self.start(partition=partition)
        self.finish()

    def keep_state_on(self, node: Host, megabytes: int) -> Path:
        """Give the states a small file system that one node has; its path there."""
        inside = self.project.home / self.state.relative_to(self.project.folder)
        self.cluster.disk.own(self.state, self.cluster.user)
        options = f"size={megabytes}m,mode=700,uid={self.cluster.user.uid}"
        node.run(["mount", "-t", "tmpfs", "-o", options, "small", str(inside)])
        self.state = Path(f"/proc/{node.init}/root", *inside.parts[1:])
        return inside

    # What can be seen of it

    def step(self) -> int:
        """The newest step whose state is saved; 0 when none is."""
        seals = self.state.glob("*/step-*/seal.json")
        return max((int(seal.parent.name.removeprefix("step-")) for seal in seals), default=0)

    def wait_for_step(self, step: int, seconds: float = START_SECONDS) -> None:
        """Wait until the state after a step is saved.

        Raises:
            HostError: not in time, or snakemake ended before.
        """

        def reached() -> bool:
            if not self.head.running():
                raise HostError(f"snakemake has ended before step {step}\n{self.describe()}")
            return self.step() >= step

        wait_until(reached, seconds, lambda: f"step {step}\n{self.describe()}")

    def job(self) -> str:
        """The job that runs now.

        Raises:
            HostError: there is none, or there are several.
        """
        jobs = self.project.jobs(states="R")
        if len(jobs) != 1:
            raise HostError(f"one running job expected, found {jobs}\n{self.describe()}")
        return jobs[0]

    def ranks(self, node: str | None = None) -> list[int]:
        """Process ids, as seen from here, of the ranks of the job that runs now."""
        pids = self.cluster.processes(self.job(), f"rlhf.stages.{self.rule}", node)
        return [pid for pid in pids if is_rank(pid)]

    def resumed_after(self) -> list[int]:
        """The steps after which attempts went on."""
        text = self.log.read_text() if self.log.exists() else ""
        return [int(step) for step in re.findall(r"goes on after step (\d+) of", text)]

    def bytes(self) -> dict[str, bytes]:
        """The finished run's files."""
        return self.project.results(self.results)

    def describe(self) -> str:
        """What snakemake, the stage and SLURM say."""
        log = self.log.read_text()[-3000:] if self.log.exists() else "(no log)"
        said = self._head.output()[-6000:] if self._head else ""
        jobs = sorted((self.project.folder / "logs" / "slurm").rglob("*.log"))
        last = jobs[-1].read_text(errors="replace")[-3000:] if jobs else ""
        return "\n".join([said, f"== {self.log}", log, "== job", last, self.cluster.describe()])


def tiny_pipeline(topology: Topology, **cluster: Any) -> dict[str, Any]:
    """Configuration of the tiny pipeline, with what its jobs ask for."""
    values = yaml.safe_load((REPOSITORY / TINY).read_text())
    asked = {
        "nodes": topology.nodes,
        "processes_per_node": topology.processes,
        "model_billions": 0.01,
        "max_hours": 0.5,
        "save_margin_seconds": 10.0,
    }
    return values | {"cluster": asked | cluster}


def is_rank(pid: int) -> bool:
    """Whether a process is a rank, and not one of those that started it."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    ranks_and_torchrun = b"\0RLHF_EXIT_FOLDER=" in b"\0" + environment
    return ranks_and_torchrun and "rlhf.launch.torchrun" not in command_line(pid)


@dataclass(frozen=True)
class Played:
    """What came of a fault.

    Attributes:
        found: the run's files.
        expected: the files of the same run, undisturbed.
        resumed: the steps after which jobs went on.
        seconds: how long it took.
    """

    found: dict[str, bytes]
    expected: dict[str, bytes]
    resumed: list[int]
    seconds: float
