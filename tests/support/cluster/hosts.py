"""Machines inside this machine: namespaces with a name, an address and processes of their own.

Nothing that runs on such a host can outlive it, and nothing that it mounts is seen outside: the
machine's own /etc, /run and /tmp stay as they are. What hosts share is one folder, the "shared
file system". What they do not share is what real nodes do not share either: /tmp, /dev/shm, the
loopback interface, process ids.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SHARED = Path("/srv")  # the shared file system, as hosts see it
HOME = Path("/home")  # the folder `home` of it
PRIVATE = {"/tmp": "1777", "/var/tmp": "1777", "/dev/shm": "1777", "/run": "755"}  # one per host
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class HostError(AssertionError):
    """A host could not be brought up, or something on it did not do what it should."""


def wait_until(
    condition: Callable[[], object], seconds: float, what: str | Callable[[], str]
) -> None:
    """Wait for a condition.

    Raises:
        HostError: it did not come true in time; with ``what`` was waited for.
    """
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise HostError(
                f"not within {seconds:.0f} s: {what if isinstance(what, str) else what()}"
            )
        time.sleep(0.05)


@dataclass(frozen=True)
class User:
    """Somebody who works on the hosts; known there, and nowhere else."""

    name: str
    uid: int

    @property
    def home(self) -> Path:
        """The home folder, as hosts see it."""
        return HOME / self.name


class Disk:
    """What all hosts see: the shared folder, users, and the software that is installed outside.

    Args:
        folder: becomes the shared file system; ``home`` in it becomes /home.
        users: who can work on the hosts.
        software: folders outside that users must be able to read at the same path, although
            their parents may be closed to them (an environment below /root, say).
    """

    def __init__(self, folder: Path, users: Sequence[User], software: Iterable[Path]) -> None:
        self.folder, self.users, self._software = folder, users, _outermost(software)
        self._seen_as: dict[Path, str] = {}
        folder.chmod(0o755)
        for user in users:
            self.own(self.outside(user.home), user)
        passwd = [f"{u.name}:x:{u.uid}:{u.uid}::{u.home}:/bin/bash\n" for u in users]
        group = [f"{u.name}:x:{u.uid}:\n" for u in users]
        for name, more in {"passwd": passwd, "group": group}.items():
            known = Path("/etc", name).read_text()
            self.put(f"etc/{name}", known + "".join(more), seen_as=f"/etc/{name}")

    def outside(self, path: Path) -> Path:
        """Where a path on the shared file system is from outside."""
        if path.is_relative_to(HOME):
            return self.folder / "home" / path.relative_to(HOME)
        return self.folder / path.relative_to(SHARED)

    def put(self, name: str, content: str | None, *, seen_as: str | None = None) -> Path:
        """A file, or without content a folder, that hosts see at a second path too."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir(exist_ok=True)
        else:
            path.write_text(content)
        if seen_as:
            self._seen_as[path] = seen_as
        return path

    def own(self, path: Path, user: User) -> None:
        """Make a folder if need be, and give it with all that is in it to a user."""
        path.mkdir(parents=True, exist_ok=True)
        for root, folders, files in os.walk(path):
            for name in (".", *folders, *files):
                os.chown(Path(root, name), user.uid, user.uid, follow_symlinks=False)

    def mounts(self) -> list[list[str]]:
        """The commands that give a new mount namespace this disk."""
        commands = []
        kept = {path: f"software/{i}" for i, path in enumerate(self._software)}
        for path, name in kept.items():
            commands += [["mount", "--bind", str(path), str(self.put(name, None))]]
        commands += [["mount", "--rbind", str(self.folder), str(SHARED)]]
        closed = {str(one): "755" for path in self._software for one in _closed(path)}
        for path, mode in (PRIVATE | closed).items():
            commands += [["mount", "-t", "tmpfs", "-o", f"mode={mode}", "private", path]]
        commands += [["mount", "--rbind", str(SHARED / "home"), str(HOME)]]
        for path, seen_as in self._seen_as.items():
            if path.is_dir():
                commands += [["mkdir", "-p", seen_as]]
            commands += [["mount", "--bind", str(SHARED / path.relative_to(self.folder)), seen_as]]
        hidden = [*map(Path, PRIVATE | closed), HOME]
        for path, name in kept.items():
            if any(path.is_relative_to(one) for one in hidden):
                commands += [["mkdir", "-p", str(path)]]
                commands += [["mount", "--bind", str(SHARED / name), str(path)]]
        return commands


class Process:
    """A command that runs on a host, to be waited for and signalled from outside."""

    def __init__(self, command: Sequence[str], output: Path) -> None:
        # Files, not pipes, which stay open as long as any descendant lives.
        self._files = output.with_suffix(".out"), output.with_suffix(".err")
        with self._files[0].open("wb") as out, self._files[1].open("wb") as err:
            self._nsenter = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
            )

    @property
    def pid(self) -> int:
        """Process id of the running command, as seen from outside."""
        wait_until(lambda: _children(self._nsenter.pid), 5, lambda: "a command that runs")
        return _children(self._nsenter.pid)[0]

    def signal(self, number: int) -> None:
        """Send a signal to the command, as ``kill`` does."""
        os.kill(self.pid, number)

    def press_control_c(self) -> None:
        """All processes in the foreground get SIGINT."""
        os.killpg(self.pid, signal.SIGINT)

    def running(self) -> bool:
        """Whether it has not ended."""
        return self._nsenter.poll() is None

    def output(self) -> str:
        """What it has written so far."""
        return "".join(path.read_text(errors="replace") for path in self._files)

    def wait(self, seconds: float) -> subprocess.CompletedProcess[str]:
        """Wait until it ends.

        Raises:
            HostError: it did not end in time, and was killed.
        """
        command = self._nsenter.args
        assert isinstance(command, list)
        try:
            self._nsenter.wait(seconds)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError, IndexError):
                self.signal(signal.SIGKILL)
            self._nsenter.wait()
            raise HostError(
                f"did not end within {seconds:.0f} s: {shlex.join(command)}\n{self.output()}"
            ) from None
        out, err = (path.read_text(errors="replace") for path in self._files)
        return subprocess.CompletedProcess(command, self._nsenter.returncode, out, err)


class Host:
    """One host: namespaces, and an init process that lives as long as the host is on.

    Args:
        name: host name.
        address: IPv4 address in the hosts' network.
        disk: what it shares with the other hosts.
    """

    def __init__(self, name: str, address: str, disk: Disk) -> None:
        self.name, self.address, self.disk = name, address, disk
        self._folder = disk.put(f"hosts/{name}", None)
        self._unshare: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)

    def start(self) -> None:
        """Switch the host on; its network is not connected yet.

        Raises:
            HostError: the machine does not allow it.
        """
        ready, log = self._folder / "ready", self._folder / "init.log"
        ready.unlink(missing_ok=True)
        outside = Path("/proc/self/ns/uts").readlink()
        lines = [
            "set -e",
            f"[ $(readlink /proc/self/ns/uts) != '{outside}' ]",  # never the machine's own name
            f"hostname {self.name}",
            "ip link set lo up",
            *map(shlex.join, self.disk.mounts()),
            f"touch {SHARED / ready.relative_to(self.disk.folder)}",
            "while :; do sleep 3600 & wait; done",  # bash reaps what loses its parent
        ]
        command = [
            *["setpriv", "--pdeathsig", "KILL"],  # no host without its tests
            *["unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--mount-proc"],
            *["--fork", "--kill-child", "bash", "-c", "\n".join(lines)],
        ]
        with log.open("wb") as stream:
            unshare = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                cwd="/",
            )
        self._unshare = unshare
        wait_until(
            lambda: ready.exists() or unshare.poll() is not None,
            30,
            lambda: f"host {self.name} is up",
        )
        if unshare.poll() is not None:
            raise HostError(
                f"Host {self.name} did not come up: {log.read_text().strip()}\n"
                "These tests need root with the right to make namespaces and to mount."
            )

    @property
    def init(self) -> int:
        """Process id of the host's first process, as seen from outside."""
        assert self._unshare is not None, f"{self.name} is off"
        return _children(self._unshare.pid)[0]

    def stop(self) -> None:
        """Switch the host off: everything on it ends at once."""
        if self._unshare is not None:
            self._unshare.kill()
            self._unshare.wait()
            self._unshare = None

    def start_command(
        self,
        command: Sequence[str],
        user: User | None = None,
        *,
        folder: Path | str = "/",
        variables: Mapping[str, str] | None = None,
    ) -> Process:
        """Start a command here, in a session of its own.

        Args:
            command: its arguments.
            user: who runs it; None: root.
            folder: working directory, as the host sees it.
            variables: added to the environment of a login.
        """
        environment = {"LANG": "C.UTF-8", "TERM": "dumb", "PATH": SYSTEM_PATH}
        become = []
        if user is not None:
            environment |= {"USER": user.name, "LOGNAME": user.name, "HOME": str(user.home)}
            become = ["setpriv", f"--reuid={user.uid}", f"--regid={user.uid}", "--clear-groups"]
        return Process(
            ["nsenter", "--target", str(self.init), "--mount", "--uts", "--ipc", "--net", "--pid"]
            + [*become, "setsid", "env", "-i", "-C", str(folder)]
            + [f"{key}={value}" for key, value in (environment | dict(variables or {})).items()]
            + list(command),
            self._folder / f"command-{next(self._numbers)}",
        )

    def run(
        self,
        command: Sequence[str],
        user: User | None = None,
        *,
        folder: Path | str = "/",
        variables: Mapping[str, str] | None = None,
        seconds: float = 300.0,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command here to its end; arguments as for ``start_command``.

        Raises:
            HostError: it did not end in time, or it failed and ``check`` is set.
        """
        process = self.start_command(command, user, folder=folder, variables=variables)
        done = process.wait(seconds)
        if check and done.returncode:
            raise HostError(
                f"{shlex.join(command)} on {self.name} ended with {done.returncode}:\n"
                f"{done.stdout}{done.stderr}"
            )
        return done

    def processes(self) -> list[int]:
        """Process ids of all that runs here, as seen from outside."""
        mine = Path(f"/proc/{self.init}/ns/pid").readlink()
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and (entry / "ns/pid").readlink() == mine:
                    found.append(int(entry.name))
        return found


class Network:
    """A switch that hosts are plugged into.

    Args:
        owner: the host whose network namespace holds the switch.
    """

    def __init__(self, owner: Host) -> None:
        self._owner = owner
        owner.run(["ip", "link", "add", "hosts0", "type", "bridge"])
        owner.run(["ip", "address", "add", f"{owner.address}/24", "dev", "hosts0"])
        owner.run(["ip", "link", "set", "hosts0", "up"])

    def plug(self, host: Host) -> None:
        """Connect a host."""
        cable = f"to-{host.name}"
        command = [
            *["nsenter", "--target", str(self._owner.init), "--net"],
            *["ip", "link", "add", cable, "master", "hosts0", "type", "veth"],
            *["peer", "name", "eth0", "netns", str(host.init)],
        ]
        subprocess.run(command, check=True)
        self._owner.run(["ip", "link", "set", cable, "up"])
        host.run(["ip", "address", "add", f"{host.address}/24", "dev", "eth0"])
        host.run(["ip", "link", "set", "eth0", "up"])


def _children(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _outermost(paths: Iterable[Path]) -> list[Path]:
    """The paths that are in none of the others."""
    found: list[Path] = []
    for path in sorted({path.resolve() for path in paths}):
        if not any(path.is_relative_to(one) for one in found):
            found.append(path)
    return found


def _closed(path: Path) -> list[Path]:
    """The first folder on the way to a path that others may not enter, if there is one."""
    return [one for one in reversed(path.parents) if not one.stat().st_mode & stat.S_IXOTH][:1]
