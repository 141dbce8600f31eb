"""A real SLURM on this machine: a login host and six nodes, used by an ordinary user.

The packages are Debian's; the controller, the daemons, munge, and with accounting slurmdbd and
MariaDB are the real ones. Sizes of the nodes are invented, and their GPUs are fake: character
devices without anything behind them, named ``fake-gpu0`` and ``fake-gpu1``.

Partitions: ``cpu`` is the usual one, ``first`` a part of it. Jobs of ``urgent`` preempt those of
``requeued``, which go back into the queue after some seconds of grace, and those of ``cancelled``,
which are ended at once. A job in ``lossy`` starts on node5, which can be lost: only this partition
has it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlhf.runtime.processes import command_line
from support.cluster.hosts import (
    SHARED,
    SYSTEM_PATH,
    Disk,
    Host,
    HostError,
    Network,
    Process,
    User,
    wait_until,
)

PACKAGES = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "munged": "munge",
    "ip": "iproute2",
    "kill": "procps",
}
ACCOUNTING_PACKAGES = {"slurmdbd": "slurmdbd", "mariadbd": "mariadb-server"}
NODES = tuple(f"node{i}" for i in range(1, 7))
FAKE_GPUS = 2  # on each node
OVER = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "TIMEOUT",
}  # fmt: skip

_SLURM_CONF = """\
ClusterName=tests
SlurmctldHost=login
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# There are no control groups and no systemd.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
MpiDefault=none
SwitchType=switch/none
PropagateResourceLimits=NONE
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=500
GresTypes=gpu
ReturnToService=2
# Tests don't want to wait.
SchedulerParameters=bf_interval=2,sched_min_interval=0,sched_interval=5,batch_sched_delay=0
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdTimeout=10
MessageTimeout=10
KillWait=10
OverTimeLimit=0
MinJobAge=600
JobRequeue=1
StateSaveLocation=/srv/slurm/state
SlurmdSpoolDir=/srv/slurm/spool.%n
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/srv/slurm/slurmctld.log
SlurmdLogFile=/srv/slurm/slurmd.%n.log
NodeName=DEFAULT CPUs=8 RealMemory=64000 Gres=gpu:fake:{gpus} State=UNKNOWN
NodeName=node[1-4,6] Weight=10
NodeName=node5 Weight=1
PartitionName=DEFAULT DefaultTime=10 MaxTime=1:00:00
PartitionName=cpu Nodes=node[1-2] Default=YES
PartitionName=first Nodes=node1
PartitionName=requeued Nodes=node[3-4] PriorityTier=1 PreemptMode=REQUEUE GraceTime=10
PartitionName=cancelled Nodes=node6 PriorityTier=1 PreemptMode=CANCEL
PartitionName=urgent Nodes=node[3-4,6] PriorityTier=9 PreemptMode=OFF
PartitionName=lossy Nodes=node[2,5]
"""

_SLURMDBD_CONF = """\
AuthType=auth/munge
DbdHost=login
SlurmUser=root
LogFile=/srv/slurm/slurmdbd.log
PidFile=/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
"""


class Cluster:
    """The cluster, from ``up`` to ``down``. Debian packages that are missing are installed.

    Args:
        folder: becomes the file system that all hosts share.
        accounting: with slurmdbd and MariaDB; without, ``sacct`` knows nothing.

    Attributes:
        user: the ordinary user whom commands run as.
        stranger: somebody else who has jobs on the same nodes.

    Raises:
        HostError: a package is missing and could not be installed.
    """

    user, stranger = User("ada", 4242), User("eve", 4243)

    def __init__(self, folder: Path, *, accounting: bool = False) -> None:
        self.accounting = accounting
        # All at once: a package that makes a user replaces /etc/passwd, and with it goes what hosts
        # that are up see in its place.
        install_packages(PACKAGES | ACCOUNTING_PACKAGES)
        prefixes = [sys.prefix, sys.base_prefix, *filter(None, map(str, _python_path()))]
        self.disk = Disk(folder, (self.user, self.stranger), map(Path, prefixes))
        self.login = Host("login", "10.77.0.1", self.disk)
        self.nodes = {
            name: Host(name, f"10.77.0.{11 + i}", self.disk) for i, name in enumerate(NODES)
        }
        self._slurmd: dict[str, Process] = {}
        self._configure()

    def up(self) -> None:
        """Switch all hosts on, and wait until every node is idle.

        Raises:
            HostError: something does not start; with what.
        """
        hosts = [self.login, *self.nodes.values()]
        for host in hosts:
            host.start()
        network = Network(self.login)
        for host in self.nodes.values():
            network.plug(host)
        self._start_munge()
        if self.accounting:
            self._start_accounting()
        self.login.start_command(["slurmctld", "-D"])
        for name in self.nodes:
            self.start_slurmd(name)
        self._check_software()
        self.wait_until_idle()

    def down(self) -> None:
        """Switch all hosts off, whatever state they are in."""
        for host in [self.login, *self.nodes.values()]:
            host.stop()

    # The user's commands

    def start_command(
        self,
        command: Sequence[str],
        *,
        user: User | None = None,
        folder: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> Process:
        """Start a command on the login host, as the user (or another) in the home folder."""
        user = user or self.user
        path = os.pathsep.join([str(Path(sys.prefix, "bin")), SYSTEM_PATH])
        variables = {"PATH": path} | dict(variables or {})
        return self.login.start_command(
            command, user, folder=folder or user.home, variables=variables
        )

    def run(
        self,
        *command: str,
        user: User | None = None,
        folder: Path | None = None,
        variables: Mapping[str, str] | None = None,
        seconds: float = 300.0,
        check: bool = True,
    ) -> str:
        """Run a command like ``start_command``; what it writes.

        Raises:
            HostError: it did not end in time, or it failed and ``check`` is set.
        """
        process = self.start_command(command, user=user, folder=folder, variables=variables)
        done = process.wait(seconds)
        if check and done.returncode:
            raise HostError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def sbatch(self, script: str, *options: str, user: User | None = None) -> str:
        """Submit a shell script; the job's id."""
        return self.run("sbatch", "--parsable", *options, f"--wrap={script}", user=user).strip()

    def scancel(self, *arguments: str) -> None:
        """Cancel jobs."""
        self.run("scancel", *arguments)

    def state(self, job: str) -> str:
        """A job's state in words, such as ``RUNNING``."""
        return self.run("squeue", "-h", "-t", "all", "-j", job, "-o", "%T").strip()

    def jobs(self, folder: Path, *, states: str = "all") -> list[str]:
        """Ids of the jobs that were submitted from a folder, oldest first."""
        listed = self.run("squeue", "-h", "-t", states, "-S", "i", "-o", "%i %Z")
        return [line.split()[0] for line in listed.splitlines() if line.endswith(f" {folder}")]

    def node_of(self, job: str) -> str:
        """The first node that a job runs on."""
        listed = self.run("squeue", "-h", "-j", job, "-o", "%N").strip()
        return self.run("scontrol", "show", "hostnames", listed).split()[0]

    def wait_for(self, job: str, *states: str, seconds: float = 300.0) -> str:
        """Wait until a job is in one of the states (default: it is over); its state.

        Raises:
            HostError: not in time; with what SLURM says.
        """
        wanted = set(states) or OVER
        wait_until(
            lambda: self.state(job) in wanted,
            seconds,
            lambda: f"job {job} to be {' or '.join(sorted(wanted))}\n{self.describe()}",
        )
        return self.state(job)

    def wait_until_idle(self, seconds: float = 300.0) -> None:
        """Wait until every node is up and nothing runs on it.

        Raises:
            HostError: not in time; with what SLURM says.
        """

        def idle() -> bool:
            nodes = self.run("sinfo", "-h", "-o", "%n %T", check=False).splitlines()
            return set(nodes) == {f"{name} idle" for name in NODES}

        wait_until(idle, seconds, lambda: f"all nodes idle\n{self.describe()}")

    def describe(self) -> str:
        """What SLURM says of nodes and jobs, and the end of its log."""
        commands = (["sinfo", "-N", "-o", "%N %P %T %E"], ["squeue", "-t", "all"])
        log = self.disk.outside(SHARED / "slurm/slurmctld.log")
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        said = [self.run(*command, check=False) for command in commands]
        return "\n".join([*said, *lines[-20:]])

    # Processes and faults

    def processes(self, job: str, text: str, node: str | None = None) -> list[int]:
        """Process ids, as seen from here, of a job's processes with a text in their command."""
        hosts = [self.nodes[node]] if node else self.nodes.values()
        mark = f"SLURM_JOB_ID={job}\0".encode()
        found = []
        for pid in (pid for host in hosts for pid in host.processes()):
            with contextlib.suppress(OSError):
                if mark in Path(f"/proc/{pid}/environ").read_bytes() and text in " ".join(
                    command_line(pid)
                ):
                    found.append(pid)
        return sorted(found)

    def start_slurmd(self, node: str) -> None:
        """Start the daemon of a node."""
        self._slurmd[node] = self.nodes[node].start_command(["slurmd", "-D", "-N", node])

    def kill_slurmd(self, node: str) -> None:
        """Kill the daemon of a node: SLURM loses the node, the jobs on it run on."""
        self._slurmd[node].signal(signal.SIGKILL)
        self._slurmd[node].wait(60)

    # How it is brought up

    def _configure(self) -> None:
        put = self.disk.put
        conf = _SLURM_CONF.format(gpus=FAKE_GPUS)
        if self.accounting:
            conf += "AccountingStorageType=accounting_storage/slurmdbd\n"
            conf += "AccountingStorageHost=login\nAccountingStorageTRES=gres/gpu\n"
            conf += "AccountingStorageEnforce=associations\nAccountingStoreFlags=job_comment\n"
            put("etc/slurm/slurmdbd.conf", _SLURMDBD_CONF).chmod(0o600)
        put("etc/slurm/slurm.conf", conf)
        devices = f"{SHARED}/gpus/fake-gpu[0-{FAKE_GPUS - 1}]"
        put("etc/slurm/gres.conf", f"AutoDetect=off\nName=gpu Type=fake File={devices}\n")
        put("etc/slurm", None, seen_as="/etc/slurm")
        for gpu in range(FAKE_GPUS):  # regular files are refused; these are a second /dev/null
            device = put("gpus", None) / f"fake-gpu{gpu}"
            if not device.exists():
                os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        addresses = [f"{host.address} {host.name}\n" for host in (self.login, *self.nodes.values())]
        put("etc/hosts", "127.0.0.1 localhost\n" + "".join(addresses), seen_as="/etc/hosts")
        put("run/munge", None, seen_as="/run/munge")
        put("slurm/state", None)

    def _start_munge(self) -> None:
        key = self.disk.put("munge/munge.key", "")
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        folder = f"{SHARED}/munge"
        command = [
            *["munged", "--foreground", "--force", "--socket=/run/munge/munge.socket.2"],
            *[f"--key-file={folder}/munge.key", f"--seed-file={folder}/seed"],
            *[f"--log-file={folder}/munged.log", f"--pid-file={folder}/pid"],
        ]
        munged = self.login.start_command(command)
        _wait_for_service(self.login, ["munge", "-n"], munged)

    def _start_accounting(self) -> None:
        host, data = self.login, f"{SHARED}/mysql"
        self.disk.put("mysql", None)
        shutil.chown(self.disk.folder / "mysql", "mysql", "mysql")
        host.run(["install", "-d", "-o", "mysql", "/run/mysqld"])
        install = ["--user=mysql", f"--datadir={data}", "--auth-root-authentication-method=socket"]
        host.run(["mariadb-install-db", "--no-defaults", "--skip-test-db", *install])
        command = [
            *["mariadbd", "--no-defaults", "--user=mysql", f"--datadir={data}"],
            *["--skip-networking", "--socket=/run/mysqld/mysqld.sock"],
            *["--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=64M"],
            "--innodb-lock-wait-timeout=900",
        ]
        mariadbd = host.start_command(command)
        sql = (
            "CREATE DATABASE slurm_acct_db; CREATE USER slurm@localhost IDENTIFIED BY 'slurm';"
            "GRANT ALL ON slurm_acct_db.* TO slurm@localhost"
        )
        client = ["mariadb", "--no-defaults", "--socket=/run/mysqld/mysqld.sock", "-e"]
        _wait_for_service(host, [*client, "SELECT 1"], mariadbd)
        host.run([*client, sql])
        slurmdbd = host.start_command(["slurmdbd", "-D"])
        manage = ["sacctmgr", "--immediate", "--quiet"]
        _wait_for_service(host, [*manage, "add", "cluster", "tests"], slurmdbd)
        host.run([*manage, "add", "account", "lab", "cluster=tests"])
        host.run([*manage, "add", "user", self.user.name, "account=lab", "defaultaccount=lab"])

    def _check_software(self) -> None:
        """Whether the user can run what is installed outside."""
        done = self.start_command(["python", "-c", "import snakemake, pydantic"]).wait(600)
        if done.returncode:
            raise HostError(
                f"An ordinary user cannot run the Python of {sys.prefix}: are its files readable "
                f"by others?\n{done.stderr}"
            )


def _wait_for_service(host: Host, probe: Sequence[str], service: Process) -> None:
    wait_until(
        lambda: host.run(probe, check=False).returncode == 0,
        30,
        lambda: f"{probe[0]} has an answer\n{service.output()}",
    )


def install_packages(programs: Mapping[str, str]) -> None:
    """Install the Debian packages whose programs are missing.

    Raises:
        HostError: they can't be had; with the names and what apt says.
    """
    missing = sorted(
        {name for program, name in programs.items() if not shutil.which(program, path=SYSTEM_PATH)}
    )
    if not missing:
        return
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    said = ""
    for command in (["update"], ["install", "-y", "--no-install-recommends", *missing]):
        try:
            done = subprocess.run(
                [*apt, *command], env=environment, capture_output=True, text=True, timeout=1800
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            said, done = str(error), None
        if done is not None:
            said = done.stdout + done.stderr
    if done is None or done.returncode:
        raise HostError(
            f"These tests need the Debian packages {' '.join(missing)}, and could not install "
            f"them:\n{said[-2000:]}"
        )


def _python_path() -> list[Path]:
    """Where packages come from that are not installed in the environment."""
    paths = [Path(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return [path.resolve() for path in paths]
