"""One rank below torchrun: runs a module and leaves its exit code where the launcher finds it.

torchrun turns every exit code but 0 into 1, and on the first one it ends the other ranks, at
most 30 s later, even in the middle of saving. A rank that saved its state (75) is not a failure:
it tells the launcher, and torchrun sees 0.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from pathlib import Path

from rlhf.errors import EXIT_SAVED
from rlhf.runtime.killed import ended_by
from rlhf.runtime.processes import end_with_parent

EXIT_FOLDER = "RLHF_EXIT_FOLDER"
MODULE = "rlhf.launch.worker"


def main() -> None:
    """``python -m rlhf.launch.worker MODULE [args…]``."""
    end_with_parent()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # torchrun's parent process blocks some
    module, *arguments = sys.argv[1:]
    sys.argv = [module, *arguments]
    code = 1
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            code = stop.code or 0
        else:
            print(stop.code, file=sys.stderr)
    finally:
        leave_code(Path(os.environ[EXIT_FOLDER]), os.environ["RANK"], code)
    sys.exit(0 if code == EXIT_SAVED else code)


def leave_code(folder: Path, name: str, code: int) -> None:
    """Leave an exit code in a folder, for ``exit_code`` to find."""
    aside = folder / f".{name}"
    aside.write_text(str(code))
    aside.rename(folder / name)


def exit_code(folder: Path, status: int) -> int:
    """What all of them together come to: the first failure, then ``status``, then 75, then 0.

    One that a signal ended counts as the first: the others fail because they miss it.

    Args:
        folder: where they left their codes.
        status: exit code of what ran them, which tells of those that left none.
    """
    left = sorted(folder.glob("[!.]*"), key=lambda path: path.stat().st_mtime_ns)
    codes = [int(path.read_text()) for path in left]
    failures = [code for code in codes if code not in (0, EXIT_SAVED)]
    killed = [code for code in failures if ended_by(code)]
    return next(iter(killed + failures), status or max(codes, default=0))


def killed_ranks(folder: Path) -> dict[str, int]:
    """Rank → the signal that ended it."""
    left = {path.name: ended_by(int(path.read_text())) for path in sorted(folder.glob("[!.]*"))}
    return {rank: number for rank, number in left.items() if number}


if __name__ == "__main__":
    main()
