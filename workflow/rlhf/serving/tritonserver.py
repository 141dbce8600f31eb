"""``python -m rlhf.serving.tritonserver``: becomes the tritonserver of the place it runs in.

The server is started through this module so that everything about its binary is looked up where
it runs: on the machine, or inside an image, by the image's own Python, which needs no package for
it. The process is replaced: signals, process id and exit code are the server's own.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from pathlib import Path

from rlhf.errors import RlhfError, ServingError
from rlhf.runtime.onednn import limit_onednn_cache
from rlhf.runtime.seccomp import ignore_fchmod


def main() -> int:
    """``STORE KIND SCRATCH THREADS each|spread [arguments for tritonserver…]``; ends to fail."""
    store, kind, scratch, threads, instances, *arguments = sys.argv[1:]
    try:
        binary, wheel = find_tritonserver()
        command = [str(binary), *arguments]
        view = _view(Path(store), kind, Path(scratch, "models"), instances == "spread")
        command.append(f"--model-repository={view}")
        if wheel is not None:
            _refuse_spaces(scratch)
            backends = _assemble_backends(wheel, Path(scratch, "backends"))
            command.append(f"--backend-directory={backends}")
        # Requests and answers pass through memory that the server shares with its Python process,
        # and Triton lets every user read it: it sets that mode by fchmod, whatever the umask.
        os.umask(0o077)
        ignore_fchmod()
        os.execve(binary, command, {**os.environ, **_variables(threads)})
    except (RlhfError, OSError) as error:
        print(f"rlhf: {error}", file=sys.stderr)
    return 1


def find_tritonserver() -> tuple[Path, Path | None]:
    """The server's binary; with it the wheel's folder when it is the wheel's binary.

    Looked for in ``RLHF_TRITONSERVER``, then on PATH, then in this environment's wheel
    ``nvidia-pytriton``.

    Raises:
        ServingError: there is none.
    """
    found = os.environ.get("RLHF_TRITONSERVER") or shutil.which("tritonserver")
    if found:
        if not os.access(found, os.X_OK):
            raise ServingError(
                "RLHF_TRITONSERVER does not name a program.",
                where=found,
                expected="the path of a tritonserver binary",
                hint="unset it to use the tritonserver on PATH or of the nvidia-pytriton wheel",
            )
        return Path(found), None
    spec = importlib.util.find_spec("pytriton")
    wheel = Path(spec.origin).parent / "tritonserver" if spec and spec.origin else None
    if wheel is None or not (wheel / "bin" / "tritonserver").is_file():
        raise ServingError(
            "There is no tritonserver on this machine.",
            where="RLHF_TRITONSERVER, PATH, the package nvidia-pytriton",
            expected="a tritonserver with the python backend",
            hint="pip install nvidia-pytriton, or run in a Triton image",
        )
    return wheel / "bin" / "tritonserver", wheel


def _variables(threads: str) -> dict[str, str]:
    """What the server and its stub need in their environment.

    The stub ignores PYTHONPATH and PYTHONHOME; PATH leads it to this environment.

    Without the interpreter's own library folder it may mix the system's libpython with another
    version's standard library.
    """
    first = {
        "PATH": str(Path(sys.executable).parent),
        "LD_LIBRARY_PATH": sysconfig.get_config_var("LIBDIR") or "",
    }
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RLHF_SERVER_THREADS")
    return {
        **dict.fromkeys(names, threads),
        **limit_onednn_cache(),
        "HF_HUB_OFFLINE": "1",
        **{
            key: os.pathsep.join(filter(None, (value, os.environ.get(key))))
            for key, value in first.items()
        },
    }


def _view(store: Path, kind: str, folder: Path, spread: bool) -> Path:
    """A repository of links into the store: Python would leave compiled files in the store.

    With ``spread`` the model is loaded once, and sees all GPUs; else each GPU has one.
    """
    version = folder / kind / "1"
    version.mkdir(parents=True)
    config = (store / kind / "config.pbtxt").read_text()
    own = config.replace("kind: KIND_AUTO", "kind: KIND_MODEL") if spread else config
    (folder / kind / "config.pbtxt").write_text(own)
    for name in ("model.py", "spread.py", "hf"):
        (version / name).symlink_to(store / kind / "1" / name)
    return folder


def _refuse_spaces(scratch: str) -> None:
    """Refuse a folder that Triton could not start its Python backend from.

    Raises:
        ServingError: its path holds white space.
    """
    if scratch.split() != [scratch]:
        raise ServingError(
            "Triton starts its Python backend through a shell, without quoting the path.",
            where=scratch,
            expected="a folder for temporary files whose path holds no space",
            hint="set TMPDIR to one, such as TMPDIR=/tmp",
        )


def _assemble_backends(wheel: Path, folder: Path) -> Path:
    """The wheel's Python backend, with the stub for this version of Python.

    Everything is a symbolic link; a copied stub would not find its libraries.
    """
    version = sysconfig.get_python_version()
    stub = wheel / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        raise ServingError(
            f"The nvidia-pytriton wheel has no stub for Python {version}.",
            where=stub,
            expected="one of " + ", ".join(sorted(p.name for p in stub.parents[1].glob("3.*"))),
            hint="serve with another interpreter",
        )
    backend = folder / "python"
    backend.mkdir(parents=True)
    for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
        (backend / name).symlink_to(wheel / "backends" / "python" / name)
    (backend / stub.name).symlink_to(stub)
    return folder


if __name__ == "__main__":
    sys.exit(main())
