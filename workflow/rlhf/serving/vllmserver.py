"""``python -m rlhf.serving.vllmserver``: becomes the vLLM server of the place it runs in.

vLLM wants other versions of what the trainer runs on, so it has an environment of its own, and its
interpreter is looked up where the server runs: on the machine, or inside an image. The process is
replaced: signals, process id and exit code are the server's own.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from rlhf.errors import ServingError

PYTHON = "RLHF_VLLM_PYTHON"
SERVER = "vllm.entrypoints.openai.api_server"  # `vllm serve` needs a package that is called vllm
CACHE_GIB = 1  # of keys and values, on a CPU
_ON_GPU = """
import torch
from vllm.platforms import current_platform as here
assert here.is_cuda_alike(), f"it is built for {here.device_name}"
torch.ones(1, device="cuda").item()
"""
_CODE = Path(__file__).resolve().parents[2]


def main() -> int:
    """``SCRATCH THREADS GPUS [arguments for vLLM…]``; returns only to fail."""
    scratch, threads, gpus, *arguments = sys.argv[1:]
    try:
        python = find_python()
        if gpus != "0":
            _check_gpus(python)
        variables = _variables(Path(scratch), threads, gpus != "0")
        os.execve(python, [python, "-m", SERVER, *arguments], {**os.environ, **variables})
    except (ServingError, OSError) as error:
        print(f"rlhf: {error}", file=sys.stderr)
    return 1


def find_python() -> str:
    """An interpreter with vLLM: that which ``RLHF_VLLM_PYTHON`` names, or this one.

    Raises:
        ServingError: there is none.
    """
    named = os.environ.get(PYTHON)
    if named:
        if not os.access(named, os.X_OK):
            raise ServingError(
                f"{PYTHON} does not name a program.",
                where=named,
                expected="the Python of an environment with vLLM",
                hint="`make vllm` makes one, as .venv-vllm/bin/python; for images, unset it",
            )
        return named
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:  # a folder of that name is no package
        raise ServingError(
            "There is no vLLM here.",
            where=f"{PYTHON}, {sys.executable}",
            expected="an interpreter with vLLM, in an environment of its own",
            hint=f"`make vllm`, then {PYTHON}=.venv-vllm/bin/python; or "
            "`runtime.containers: apptainer`, whose image `rlhf images build sample` builds",
        )
    return sys.executable


def _check_gpus(python: str) -> None:
    """Make sure that vLLM uses the GPUs that it was given: a build for CPUs would not say.

    Raises:
        ServingError: it can't.
    """
    done = subprocess.run([python, "-c", _ON_GPU], capture_output=True, text=True)
    if done.returncode:
        raise ServingError(
            "vLLM can't use the GPU that this server was given: "
            + (done.stderr.strip().splitlines() or ["no reason given"])[-1],
            where=python,
            expected="a build of vLLM, and a driver, for this GPU",
            hint="`make vllm` makes an environment for CPUs: on GPUs install the package `vllm`, "
            "or use the image",
        )


def _variables(scratch: Path, threads: str, gpus: bool) -> dict[str, str]:
    """What the server needs in its environment."""
    common = {
        "PYTHONPATH": str(_CODE),  # its workers import their extension
        "PYTHONNOUSERSITE": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_SERVER_DEV_MODE": "1",  # the routes for new weights
        "VLLM_HOST_IP": "127.0.0.1",  # between its own processes
        "HOME": str(scratch),
        "XDG_CACHE_HOME": str(scratch),
        "OMP_NUM_THREADS": threads,
    }
    if gpus:
        return common
    return common | {
        "VLLM_CPU_KVCACHE_SPACE": str(CACHE_GIB),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # cores are shared with ranks
        "TORCH_COMPILE_DISABLE": "1",  # it would ask for a compiler, and take longer than it saves
    }


if __name__ == "__main__":
    sys.exit(main())
