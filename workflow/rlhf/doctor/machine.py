"""One machine: its software, GPUs, names and ports."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from rlhf.doctor.check import Check
from rlhf.runtime import gpus
from rlhf.runtime.network import hold_port

LOCK = Path("envs/lock.txt")
SHARED_MEMORY = Path("/dev/shm")
LEAST_SHARED_GB = 1.0
HUB_SECONDS = 5.0
_NO_ROUTE = (
    "only fetch_model and fetch_data need it: run them elsewhere on the same files, or set "
    "HTTPS_PROXY or HF_ENDPOINT"
)


def check_machine() -> Iterator[Check]:
    """What every machine has to have, login node or not."""
    yield check_software()
    yield check_shared_memory()
    yield check_name()
    yield check_ports()


def check_software(lock: Path = LOCK) -> Check:
    """Is what is installed what the lock names?"""
    found = f"Python {platform.python_version()} ({sys.executable})"
    if not lock.is_file():
        return Check("software", "warning", found, "call this in the repository's root")
    differing = []
    for line in lock.read_text(encoding="utf-8").splitlines():
        name, _, wanted = line.partition("#")[0].strip().partition("==")
        try:
            version = importlib.metadata.version(name) if name else ""
        except importlib.metadata.PackageNotFoundError:
            continue  # not every machine needs all
        if version.partition("+")[0] != wanted.partition("+")[0]:
            differing.append(f"{name} {version} (lock: {wanted})")
    if differing:
        found += f"; {len(differing)} packages differ from {lock}: {', '.join(differing[:5])}"
        return Check("software", "warning", found, "`make setup` installs what the lock says")
    return Check("software", "ok", f"{found}, packages as in {lock}")


def check_shared_memory(folder: Path = SHARED_MEMORY) -> Check:
    """NCCL and the model servers hand data over in shared memory."""
    try:
        free = shutil.disk_usage(folder).free / 1e9
    except OSError as error:
        return Check("shared memory", "failed", str(error), f"mount {folder}")
    found = f"{free:.1f} GB free in {folder}"
    if free >= LEAST_SHARED_GB:
        return Check("shared memory", "ok", found)
    to_do = "have the site enlarge it, or pass --shm-size to the container that this runs in"
    return Check("shared memory", "warning", found, to_do)


def check_name() -> Check:
    """Libraries look their own machine's name up."""
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
    except OSError as error:
        to_do = f"have the site name {name} in /etc/hosts or in the DNS"
        return Check("own name", "warning", f"{name}: {error.strerror or error}", to_do)
    return Check("own name", "ok", f"{name} is {address}")


def check_ports() -> Check:
    """Ranks and model servers meet at TCP ports."""
    try:
        with hold_port() as held:
            port = held.getsockname()[1]
        with socket.create_server(("127.0.0.1", port)) as server:
            socket.create_connection(server.getsockname(), timeout=HUB_SECONDS).close()
    except OSError as error:
        to_do = "allow connections on the loopback interface"
        return Check("ports", "failed", str(error), to_do)
    return Check("ports", "ok", "free ones are to be had, and answer on the loopback")


def gpu_names() -> list[str]:
    """GPUs that this process may use, as the driver names them."""
    visible = gpus.visible()
    if visible == () or not shutil.which("nvidia-smi"):
        return []
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    names = re.findall(r"^GPU \d+: (.*?)(?: \(UUID.*)?$", done.stdout, re.MULTILINE)
    return names if visible is None else names[: len(visible)]


def check_gpus(names: list[str], expected: bool, with_torch: bool) -> Check:
    """Do the driver and torch see the same GPUs?

    Args:
        names: what the driver sees.
        expected: whether there should be any.
        with_torch: whether stages use the torch of this environment; in images they have another.
    """
    if not names:
        if any(Path("/dev").glob("nvidia[0-9]*")) and not shutil.which("nvidia-smi"):
            return Check("GPUs", "failed", "/dev/nvidia* but no nvidia-smi", "mend the driver")
        if expected:
            to_do = "look at the job's --gres and at the node's driver (nvidia-smi)"
            return Check("GPUs", "failed", "the job asked for GPUs and sees none", to_do)
        return Check("GPUs", "ok", "none here")
    if not with_torch:
        return Check("GPUs", "ok", f"{len(names)} × {names[0]}")
    code = "import torch; print(torch.cuda.device_count(), torch.version.cuda)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    seen, _, cuda = done.stdout.strip().partition(" ")
    found = f"{len(names)} × {names[0]}; torch sees {seen or 'none'} (CUDA {cuda or 'none'})"
    if seen != str(len(names)):
        to_do = "install a torch built for this driver's CUDA, see `nvidia-smi`"
        return Check("GPUs", "failed", found, to_do)
    return Check("GPUs", "ok", found)


def check_hub(needed: bool) -> Check:
    """Is the hub within reach of the stages that fetch?

    Args:
        needed: whether fetch stages run here; inside jobs nothing needs a network.
    """
    token = "; HF_TOKEN is set" if os.environ.get("HF_TOKEN") else ""
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        found = "HF_HUB_OFFLINE is set: models come from the hub's cache only"
        return Check("hub", "ok", found + token)
    hub = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    proxy = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")
    target = urlsplit(proxy or hub)
    port = target.port or (443 if target.scheme == "https" else 80)
    through = " through a proxy" if proxy else ""
    try:
        socket.create_connection((target.hostname or "", port), timeout=HUB_SECONDS).close()
    except OSError as error:
        found = f"no way to {urlsplit(hub).hostname}{through}: {error.strerror or error}"
        if needed:
            return Check("hub", "warning", found + token, _NO_ROUTE)
        return Check("hub", "ok", f"{found}; no job needs one")
    return Check("hub", "ok", f"{urlsplit(hub).hostname} answers{through}{token}")
