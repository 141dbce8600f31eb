"""Fakes of SLURM's commands on a login node: they answer what real ones answered once."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

RECORDED = Path(__file__).parent / "recorded"

_ANSWER = """\
#!/bin/sh
# Fake {command} of the tests.
cat <<'END'
{output}
END
cat >&2 <<'END'
{error}
END
exit {code}
"""
_SBATCH = """\
#!/usr/bin/env python3
# Fake sbatch of the tests: keeps its arguments, runs nothing.
import json, sys
with open({record!r}, "a+") as record:
    record.write(json.dumps(sys.argv[1:]) + "\\n")
    record.seek(0)
    print(len(record.readlines()))
sys.exit({code})
"""


class FakeCluster:
    """A folder of fake commands to put in front of the PATH.

    The cluster: partition gpu (default; 4 nodes of 8 GPUs, 64 CPUs and 1 TB; at most a day) and
    cpu (16 nodes); accounts lab and course.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "fake-slurm"
        self.folder.mkdir()
        self._record = folder / "sbatch.jsonl"
        self.answer("sinfo", (RECORDED / "sinfo.txt").read_text())
        self.answer("scontrol", (RECORDED / "scontrol-show-config.txt").read_text())
        self.answer("sacctmgr", (RECORDED / "sacctmgr.txt").read_text())
        self.answer("squeue", "")
        self.sbatch(code=0)

    def answer(self, command: str, output: str, *, error: str = "", code: int = 0) -> None:
        """Let a command answer this, whatever its arguments."""
        text = _ANSWER.format(command=command, output=output.rstrip("\n"), error=error, code=code)
        self._write(command, text)

    def without_accounting(self) -> None:
        """As a cluster that keeps no accounts and no record of jobs."""
        config = (RECORDED / "scontrol-show-config-without-accounting.txt").read_text()
        self.answer("scontrol", config)
        for command in ("sacctmgr", "sacct"):
            error = (RECORDED / f"{command}-without-accounting.txt").read_text().strip()
            self.answer(command, "", error=error, code=1)

    def sbatch(self, *, code: int) -> None:
        """Let sbatch submit, or refuse."""
        self._write("sbatch", _SBATCH.format(record=str(self._record), code=code))

    def submitted(self) -> list[list[str]]:
        """Arguments of every call of sbatch."""
        if not self._record.exists():
            return []
        return [json.loads(line) for line in self._record.read_text().splitlines()]

    def path(self) -> str:
        """PATH with these commands first, then those beside this interpreter."""
        beside = Path(sys.executable).parent
        return os.pathsep.join([str(self.folder), str(beside), os.environ["PATH"]])

    def _write(self, command: str, text: str) -> None:
        path = self.folder / command
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
