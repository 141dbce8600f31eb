"""What goes wrong on a cluster: how each fault is injected, and what comes of it."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rlhf.runtime.processes import command_line, descendants
from support.cluster.hosts import wait_until
from support.cluster.runs import END_SECONDS, START_SECONDS, Run, Topology
from support.cluster.slurm import OVER

ONE = Topology()
TWO_PROCESSES = Topology(processes=2)
TWO_NODES = Topology(nodes=2)


@dataclass(frozen=True)
class Fault:
    """A row of the table of faults, and the test of it.

    Attributes:
        title: what goes wrong.
        injected: how it is injected.
        outcome: what happens then, as the test asserts it.
        rule: the stage that it comes to.
        topology: how many nodes and processes that has.
        play: injects it, asserts what is particular to it, and sees the run through.
        cluster: keys of the configuration's section ``cluster``.
        accounting: whether the cluster keeps accounts, and Snakemake asks sacct.
        resumes: whether another job has to go on after a saved step.
    """

    title: str
    injected: str
    outcome: str
    rule: str
    topology: Topology
    play: Callable[[Run], None]
    cluster: dict[str, Any] = field(default_factory=dict)
    accounting: bool = False
    resumes: bool = True

    @property
    def id(self) -> str:
        """A name for the command line."""
        parts = (self.rule.removeprefix("train_"), self.play.__name__, self.engine)
        return "-".join(filter(None, parts))

    @property
    def engine(self) -> str:
        """The kind of engine, if it is named."""
        return self.cluster.get("engine", "")


FAULTS: list[Fault] = []


def fault(
    *rules: str,
    topology: Topology = ONE,
    injected: str,
    outcome: str,
    accounting: bool = False,
    resumes: bool = True,
    **cluster: Any,
) -> Callable[[Callable[[Run], None]], Callable[[Run], None]]:
    """Declare the decorated function as the test of a fault; its docstring is the title."""

    def declare(play: Callable[[Run], None]) -> Callable[[Run], None]:
        title = (play.__doc__ or "").rstrip(".")
        for rule in rules:
            FAULTS.append(
                Fault(title, injected, outcome, rule, topology, play, cluster, accounting, resumes)
            )
        return play

    return declare


def sharded(
    *kinds: str, topology: Topology
) -> Callable[[Callable[[Run], None]], Callable[[Run], None]]:
    """Declare the fault of a decorated function for engines that spread SFT over two ranks too."""

    def declare(play: Callable[[Run], None]) -> Callable[[Run], None]:
        plain = next(one for one in FAULTS if one.play is play)
        for kind in kinds:
            cluster = plain.cluster | {"engine": kind}
            FAULTS.append(replace(plain, rule="train_sft", topology=topology, cluster=cluster))
        return play

    return declare


LOSSY = threading.Lock()  # the partition has a node to lose, and one to go on
TRAINING = ("train_sft", "train_reward", "train_ppo")
GOES_ON = "the next job continues after the last saved step"


@sharded("fsdp", "zero3", topology=TWO_NODES)
@fault(
    *TRAINING,
    topology=TWO_NODES,
    resumes=False,
    injected="–",
    outcome="two nodes with one process each give the same bytes as one node with two processes",
)
def nothing(run: Run) -> None:
    """Nothing goes wrong."""
    run.start("--retries=0")
    run.finish()


@sharded("zero3", topology=TWO_NODES)
@fault(
    *TRAINING,
    topology=TWO_PROCESSES,
    save_margin_seconds=235.0,
    injected="jobs of 4 minutes, of which all but 5 s are reserved for saving",
    outcome="all ranks save and exit before the limit; Snakemake submits the next job",
)
def time_limit(run: Run) -> None:
    """The time limit approaches, twice in a row."""
    run.start(f"--set-resources={run.rule}:runtime=4 if attempt <= 2 else 30")
    run.finish()
    resumed = run.resumed_after()
    assert len(resumed) == 2, run.describe()
    assert resumed[0] < resumed[1], run.describe()


@fault(
    "train_sft",
    injected="the ranks are frozen (SIGSTOP), and the job's limit is lowered to one minute",
    outcome=f"the job ends as TIMEOUT; {GOES_ON}",
)
def time_limit_while_frozen(run: Run) -> None:
    """The time limit is reached while nothing moves."""
    run.start()
    run.wait_for_step(3)
    job = run.job()
    for pid in run.ranks():
        os.kill(pid, signal.SIGSTOP)
    run.cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=1")
    assert run.cluster.wait_for(job, seconds=600) == "TIMEOUT"
    run.finish()


@fault(
    "train_reward",
    topology=TWO_NODES,
    injected="an urgent job takes the nodes; SLURM gives 10 s of grace, then kills the job",
    outcome=f"the ranks save within the grace period; {GOES_ON} once the nodes are free",
)
def preemption_with_grace(run: Run) -> None:
    """The job is preempted in a partition that requeues."""
    preempt(run, "requeued")


@fault(
    "train_sft",
    injected="an urgent job takes the node; SLURM kills the job at once",
    outcome=f"the job ends as PREEMPTED; {GOES_ON} once the node is free",
)
def preemption_by_cancel(run: Run) -> None:
    """The job is preempted in a partition that cancels."""
    preempt(run, "cancelled")


def preempt(run: Run, partition: str) -> None:
    run.start(partition=partition)
    run.wait_for_step(3)
    job = run.job()
    urgent = ["--partition=urgent", "--exclusive", f"--nodes={run.topology.nodes}"]
    urgent += [f"--nodelist={run.cluster.node_of(job)}"]
    run.cluster.sbatch("sleep 3", *urgent, user=run.cluster.stranger)
    run.cluster.wait_for(job, seconds=300)
    run.finish()


@fault(
    "train_ppo",
    injected="`scancel` of the running job",
    outcome=f"ranks and servers exit; {GOES_ON}",
)
def scancel(run: Run) -> None:
    """Somebody cancels the job."""
    run.start()
    run.wait_for_step(3)
    run.cluster.scancel(run.job())
    run.finish()


@fault(
    "train_sft",
    accounting=True,
    injected="`scancel` of the running job, where Snakemake asks sacct",
    outcome=f"the ranks save; {GOES_ON}",
)
def scancel_with_accounting(run: Run) -> None:
    """Somebody cancels the job, on a cluster with accounting."""
    run.start("--slurm-status-command=sacct", account="lab")
    run.wait_for_step(3)
    run.cluster.scancel(run.job())
    run.finish()


@sharded("fsdp", topology=TWO_PROCESSES)
@fault(
    "train_sft",
    injected="slurmd is killed with -9 and its node is lost; the job's processes stay alive, and "
    "run on (after a SIGSTOP that lasts until the next job has taken over)",
    outcome="the job ends as NODE_FAIL; the next one continues elsewhere; the processes left "
    "behind notice that they have been replaced, write nothing, and exit",
)
def node_lost(run: Run) -> None:
    """A node is lost while its processes live on."""
    with LOSSY:
        lose_node(run)


def lose_node(run: Run) -> None:
    cluster = run.cluster
    run.start(partition="lossy")
    run.wait_for_step(3)
    job = run.job()
    node = cluster.node_of(job)
    left_behind = run.ranks()
    try:
        for pid in left_behind:
            os.kill(pid, signal.SIGSTOP)
        cluster.kill_slurmd(node)
        assert cluster.wait_for(job) == "NODE_FAIL"
        wait_until(lambda: run.resumed_after(), START_SECONDS, run.describe)
        for pid in left_behind:
            os.kill(pid, signal.SIGCONT)
        assert cluster.node_of(run.job()) != node, run.describe()
        gone = lambda: not any(map(command_line, left_behind))  # noqa: E731
        wait_until(gone, 30, lambda: f"{left_behind} are gone\n{run.describe()}")
        run.finish()
        assert "has been replaced and writes nothing more" in run.log.read_text()
    finally:
        cluster.start_slurmd(node)


@sharded("fsdp", "zero3", topology=TWO_NODES)
@fault(
    *TRAINING[:2],
    topology=TWO_NODES,
    injected="a rank is killed with -9",
    outcome=f"the other rank exits and the job fails; {GOES_ON}",
)
def rank_killed(run: Run) -> None:
    """A rank dies."""
    run.start()
    run.wait_for_step(3)
    os.kill(run.ranks()[-1], signal.SIGKILL)
    run.finish()


@fault(
    "train_sft",
    injected="the first job is limited to 300 MB, too little to start; in the second, a rank may "
    "allocate no more than it has (prlimit)",
    outcome=f"SLURM kills the first job; in the second an allocation fails; {GOES_ON}",
)
def out_of_memory(run: Run) -> None:
    """Memory runs out."""
    # Memory that is given back leaves the process, and has to be had again.
    run.project.variables["MALLOC_MMAP_THRESHOLD_"] = "4096"
    run.start(f"--set-resources={run.rule}:mem_mb=300 if attempt == 1 else 4000")
    run.wait_for_step(3)
    first, second = run.project.jobs()
    assert run.cluster.state(first) in ("CANCELLED", "FAILED", "OUT_OF_MEMORY")
    (rank,) = run.ranks()
    node = run.cluster.nodes[run.cluster.node_of(second)]
    node.run(["prlimit", f"--pid={pid_on_host(rank)}", "--as=1"], run.cluster.user)
    run.finish()
    assert run.cluster.state(second) == "FAILED"


@fault(
    "train_sft",
    injected="Ctrl-C on snakemake while the job runs",
    outcome=f"snakemake cancels the job, whose ranks save; after another `snakemake`, {GOES_ON}",
)
def head_interrupted(run: Run) -> None:
    """Ctrl-C on the login node."""
    head = run.start()
    run.wait_for_step(3)
    job = run.job()
    head.press_control_c()
    assert head.wait(600).returncode != 0
    run.cluster.wait_for(job)
    run.go_on()


@fault(
    "train_reward",
    resumes=False,
    injected="SIGTERM to snakemake while the job runs",
    outcome="snakemake waits for the job, which runs to its end; nothing is left to do",
)
def head_terminated(run: Run) -> None:
    """The login node's snakemake is told to end."""
    head = run.start()
    run.wait_for_step(3)
    head.signal(signal.SIGTERM)
    head.wait(END_SECONDS)
    run.go_on()


@fault(
    "train_sft",
    resumes=False,
    injected="snakemake is killed with -9 while the job runs; `rlhf recover --wait`",
    outcome="the job is listed and awaited; `snakemake` then accepts its result as it is",
)
def head_killed_and_job_awaited(run: Run) -> None:
    """The login node's snakemake dies; the user waits for its job."""
    job = kill_head(run)
    said = run.project.run_command("rlhf", "recover", "--wait")
    assert "Unlocked" in said, said
    assert run.cluster.state(job) == "COMPLETED"
    run.go_on()
    assert run.project.jobs() == [job]


@fault(
    "train_ppo",
    injected="snakemake is killed with -9 while the job runs; `rlhf recover --cancel`",
    outcome=f"the job is cancelled and saves its state; after `snakemake`, {GOES_ON}",
)
def head_killed_and_job_cancelled(run: Run) -> None:
    """The login node's snakemake dies; the user cancels its job."""
    job = kill_head(run)
    run.project.run_command("rlhf", "recover", "--cancel")
    assert run.cluster.state(job) in OVER
    run.go_on()


def kill_head(run: Run) -> str:
    """Kill snakemake while its job runs, see ``rlhf recover`` list the job; its id."""
    head = run.start()
    run.wait_for_step(3)
    job = run.job()
    head.signal(signal.SIGKILL)
    head.wait(120)
    listed = run.project.start_command("rlhf", "recover").wait(600)
    assert listed.returncode == 1, listed
    assert f"job {job} RUNNING" in listed.stdout, listed
    return job


@fault(
    "train_ppo",
    resumes=False,
    injected="the reward server is killed with -9 during a rollout",
    outcome="the launcher restarts it; the ranks' requests wait for it; one job in all",
)
def server_killed(run: Run) -> None:
    """A model server dies."""
    run.start()
    run.wait_for_step(3)
    os.kill(server(run, "reward"), signal.SIGKILL)
    run.finish()


@fault(
    "train_ppo",
    topology=TWO_PROCESSES,
    resumes=False,
    injected="the Python process of the reference server is killed with -9 during a rollout",
    outcome="the launcher notices that it does not answer, and restarts it; one job in all",
)
def stub_killed(run: Run) -> None:
    """The process that holds a server's model dies."""
    run.start()
    run.wait_for_step(3)
    os.kill(stub(run, "reference"), signal.SIGKILL)
    run.finish()


@fault(
    "train_ppo",
    resumes=False,
    injected="the reward server and its Python process are frozen (SIGSTOP) during a rollout",
    outcome="the launcher notices that it does not answer, and restarts it; one job in all",
)
def server_frozen(run: Run) -> None:
    """A model server hangs."""
    run.start()
    run.wait_for_step(3)
    for pid in (stub(run, "reward"), server(run, "reward")):
        os.kill(pid, signal.SIGSTOP)
    run.finish()


@fault(
    "train_ppo",
    resumes=False,
    injected="another user of the node queries a server, tries to read its keys, sends SIGTERM",
    outcome="the server refuses, the folder of the keys is closed, the signals are not permitted",
)
def stranger_on_the_node(run: Run) -> None:
    """Another user on the node meddles with the servers."""
    run.start()
    run.wait_for_step(3)
    stranger, node = run.cluster.stranger, run.cluster.nodes[run.cluster.node_of(run.job())]
    pid = server(run, "reward")
    (port,) = (one for one in command_line(pid) if one.startswith("--grpc-port="))
    address = f"127.0.0.1:{port.partition('=')[2]}"
    query = (
        "import tritonclient.grpc as triton;"
        f"triton.InferenceServerClient({address!r}).get_server_metadata(client_timeout=5)"
    )
    refused = node.run([f"{sys.prefix}/bin/python", "-c", query], stranger, check=False)
    assert "InferenceServerException" in refused.stderr, refused
    keys = node.run(["find", "/tmp", "-name", "*.key"])
    assert keys.stdout
    for command in (["cat", *keys.stdout.split()], ["kill", pid_on_host(pid)]):
        denied = node.run(command, stranger, check=False)
        assert denied.returncode, denied
        assert not denied.stdout, denied
    run.finish()


def pid_on_host(pid: int) -> str:
    """How a process is numbered on its own host."""
    status = Path(f"/proc/{pid}/status").read_text()
    return status.partition("NSpid:")[2].splitlines()[0].split()[-1]


def server(run: Run, kind: str) -> int:
    """Process id of a model server of the running job."""
    pids = run.cluster.processes(run.job(), f"--load-model={kind}")
    (pid,) = (pid for pid in pids if command_line(pid)[0].endswith("tritonserver"))
    return pid


def stub(run: Run, kind: str) -> int:
    """Process id of the Python process that computes for a model server."""
    (pid,) = (
        pid
        for pid in descendants(server(run, kind))
        if "python_backend_stub" in command_line(pid)[0]
    )
    return pid


@fault(
    "train_reward",
    injected="the file system of the states has no room for a third one",
    outcome="the save fails, and the earlier states stay intact; the stage asks for room, and "
    f"exits; with room, {GOES_ON}",
)
def disk_full(run: Run) -> None:
    """The disk is full during a save."""
    node = run.cluster.nodes["node1"]
    small = run.keep_state_on(node, megabytes=64)
    head = run.start("--retries=0", partition="first")
    run.wait_for_step(3)
    node.run(["dd", "if=/dev/zero", f"of={small}/ballast", "bs=1M"], check=False)
    node.run(["truncate", "--size=-64K", f"{small}/ballast"])  # the journal does not need more
    assert head.wait(END_SECONDS).returncode != 0
    text = run.log.read_text()
    assert re.search("could not be saved: .*No space left on device", text), text
    assert "make room and run the same command" in text, text
    node.run(["rm", f"{small}/ballast"])
    run.go_on(partition="first")


@fault(
    "train_ppo",
    topology=TWO_PROCESSES,
    injected="the job is cancelled, and one byte of its newest state is flipped",
    outcome="the damage is noticed; the next job continues after the previous state",
)
def state_damaged(run: Run) -> None:
    """A saved state is damaged."""
    head = run.start()
    run.wait_for_step(4)
    job = run.job()
    head.press_control_c()
    head.wait(600)
    run.cluster.wait_for(job)
    newest = max(run.state.glob("*/step-*"))
    tensors = newest / "engine-00000-00000.safetensors"
    content = bytearray(tensors.read_bytes())
    content[len(content) // 2] ^= 1
    tensors.write_bytes(content)
    step = run.step()
    run.go_on()
    assert run.resumed_after() == [step - 1], run.describe()
    assert f"{newest.name} is damaged" in run.log.read_text()
