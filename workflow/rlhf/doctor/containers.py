"""Container runtime and images."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rlhf.doctor.check import Check, failed
from rlhf.errors import RlhfError
from rlhf.launch import images
from rlhf.launch.containers import choose_environment

RUN_SECONDS = 120
_GPU_PROBES = {  # each says "GPU " once for each
    "train": "python -c 'import torch; print(*torch.cuda.device_count() * [\"GPU \"])'",
    "serve": "nvidia-smi -L",
    "sample": "nvidia-smi -L",
}


def check_containers(configured: bool, gpus: int) -> Iterator[Check]:
    """Is there a runtime, are the images those of their definitions, do they run?

    Args:
        configured: whether the configuration says that stages run in images.
        gpus: GPUs here; an image has to see as many.
    """
    try:
        runtime = images.find_runtime()
    except RlhfError as error:
        if configured:
            yield failed("container runtime", error)
        else:
            yield Check("container runtime", "ok", "none, and `runtime.containers` is `none`")
        return
    done = subprocess.run([runtime, "--version"], capture_output=True, text=True)
    yield Check("container runtime", "ok", done.stdout.strip() or runtime)
    for kind in images.present():
        try:
            yield _run(kind, images.require_image(kind), gpus)
        except RlhfError as error:
            if configured:
                yield failed(f"{kind} image", error)
            else:
                yield Check(f"{kind} image", "ok", "none, and `runtime.containers` is `none`")


def _run(kind: str, image: Path, gpus: int) -> Check:
    name = f"{kind} image"
    with tempfile.TemporaryDirectory(prefix="rlhf-doctor-") as scratch:
        home = Path(scratch) / "home"
        home.mkdir()
        inside = choose_environment(image, gpus=gpus > 0, binds=(), scratch=Path(scratch))
        probe = _GPU_PROBES[kind] if gpus else "echo runs"
        command = [*inside.prefix(), "sh", "-c", probe]
        try:
            done = subprocess.run(
                command, env=inside.environment({}), capture_output=True, text=True,
                timeout=RUN_SECONDS,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            to_do = "look at the runtime by hand: it may wait for a file system"
            return Check(name, "failed", f"{image} does not start in {RUN_SECONDS} s", to_do)
    if done.returncode:
        found = f"{image}: {(done.stderr or done.stdout).strip().splitlines()[-1:]}"
        to_do = "with --nv, the host's driver has to be visible" if gpus else "run it by hand"
        return Check(name, "failed", found, f"{to_do}: {' '.join(command)}")
    seen = done.stdout.count("GPU ")
    if seen < gpus:
        found = f"{image} sees {seen} of {gpus} GPUs with --nv"
        return Check(name, "failed", found, "check the runtime's NVIDIA support on this node")
    return Check(name, "ok", f"{image} runs" + (f", and sees {seen} GPUs" if gpus else ""))
