"""One rank below torchrun: runs a module and leaves its exit code where the launcher finds it.

torchrun turns every exit code but 0 into 1, and on the first one it ends the other ranks, at
most 30 s later, even in the middle of saving. A rank that saved its state (75) is not a failure:
it tells the launcher, and torchrun sees 0.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

from rlhf.errors import EXIT_SAVED

EXIT_FOLDER = "RLHF_EXIT_FOLDER"


def main() -> None:
    """``python -m rlhf.worker MODULE [args…]``."""
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
        Path(os.environ[EXIT_FOLDER], os.environ["RANK"]).write_text(str(code))
    sys.exit(0 if code == EXIT_SAVED else code)


def exit_code(folder: Path, torchrun: int) -> int:
    """What all ranks together come to: a failure first, then 75, then 0.

    Args:
        folder: where the ranks left their codes.
        torchrun: torchrun's own exit code, which tells of ranks that left none.
    """
    codes = [int(path.read_text()) for path in sorted(folder.iterdir())]
    failures = [code for code in codes if code not in (0, EXIT_SAVED)]
    if failures:
        return failures[0]
    return torchrun or max(codes, default=0)


if __name__ == "__main__":
    main()
