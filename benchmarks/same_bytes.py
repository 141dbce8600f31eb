"""Whether two revisions make the same results, byte for byte, from the tests' tiny configuration.

    python benchmarks/same_bytes.py HEAD~1 HEAD
    python benchmarks/same_bytes.py main HEAD --only results/sft/chat/manifest.json
    python benchmarks/same_bytes.py main HEAD --moved store/=servers/ --keep /tmp/projects

Each revision runs in a clone of its own, with this interpreter's packages and the clone's `rlhf`.
Compared is every file below results/ by path and sha256, and of manifests all but what names the
code. Left out is what tells of the run and not of its result: run.json and the page of a report,
which shows times. The exit code is 1 if anything differs, 2 if a run failed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
CONFIG = "tests/config/tiny.yaml"
VOLATILE = {"run.json", "report.html", ".snakemake_timestamp"}
# `parents` are digests of manifests that name the code; `tree` repeats `files`.
CODE_KEYS = {"code", "parents", "tree"}

# Runs in every Python process of a run: which `rlhf` had it, once it ends?
WITNESS = """
import atexit, sys

@atexit.register
def testify():
    if "rlhf" in sys.modules:
        with open({log!r}, "a") as stream:
            print(sys.modules["rlhf"].__file__, *sys.orig_argv[1:5], sep="\\t", file=stream)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("revisions", nargs=2, metavar="REVISION", help="what git can resolve")
    parser.add_argument("--only", nargs="+", default=[], metavar="TARGET", help="of Snakemake")
    parser.add_argument(
        "--moved",
        action="append",
        default=[],
        metavar="OLD=NEW",
        type=lambda text: tuple(text.split("=", 1)),
        help="paths below results/ that began with OLD in the first revision; may be repeated",
    )
    parser.add_argument("--keep", type=Path, help="new folder for the projects, to look at after")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    commits = [_git("rev-parse", "--verify", f"{name}^{{commit}}") for name in options.revisions]

    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=not options.keep)
        found = []
        for place, commit, moved in zip(
            ("first", "second"), commits, (options.moved, []), strict=True
        ):
            seconds = _run(folder / place, commit, options.only)
            print(f"{place}: {commit[:12]} in {seconds:.0f} s", flush=True)
            found.append(_artifacts(folder / place / "results", moved))
    sys.exit(_compare(*found))


def _run(project: Path, commit: str, targets: list[str]) -> float:
    """Run the pipeline of a commit in a fresh clone; its wall time in seconds."""
    _git("clone", "--quiet", "--shared", "--no-checkout", str(REPOSITORY), str(project))
    _git("-C", str(project), "checkout", "--quiet", "--detach", commit)
    witness = project.with_name(f"{project.name}-witness")
    witness.mkdir()
    log = witness / "imports.tsv"
    (witness / "sitecustomize.py").write_text(WITNESS.format(log=str(log)))
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(project / "workflow"), str(witness)]),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "snakemake", "--profile", "local", "--configfile", CONFIG]
    started = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--", *targets],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = process.communicate()
    except BaseException:
        process.terminate()  # Snakemake hands it on to its jobs
        process.wait()
        raise
    seconds = time.perf_counter() - started
    if process.returncode:
        print(output, f"{commit}: exit code {process.returncode}", sep="\n", file=sys.stderr)
        sys.exit(2)
    _check_imports(log, project / "workflow/rlhf/__init__.py")
    return seconds


def _check_imports(log: Path, own: Path) -> None:
    """Every process had the clone's package, and not the one that is installed."""
    seen = [line.split("\t") for line in log.read_text().splitlines()]
    stages = [line for line in seen if any("rlhf.stages." in word for word in line[1:])]
    strays = [line for line in seen if Path(line[0]) != own]
    if strays or not stages:
        raise AssertionError(f"{own} was not what ran: {strays or 'no stage told'}")


def _artifacts(results: Path, moved: list[tuple[str, str]]) -> dict[str, Any]:
    """Path → digest of each file; of a manifest its content without what names the code."""

    def place(path: Path) -> str:
        name = path.relative_to(results).as_posix()
        for old, new in moved:
            if name.startswith(old):
                return new + name.removeprefix(old)
        return name

    found: dict[str, Any] = {}
    for path in results.rglob("*"):
        if path.is_file() and path.name not in VOLATILE:
            content = path.read_bytes()
            found[place(path)] = hashlib.sha256(content).hexdigest()
            if path.name == "manifest.json":
                manifest = json.loads(content)
                manifest["files"] = {
                    place(path.parent / name): known
                    for name, known in manifest["files"].items()
                    if Path(name).name not in VOLATILE
                }
                found[place(path)] = {k: v for k, v in manifest.items() if k not in CODE_KEYS}
    return found


def _compare(first: dict[str, Any], second: dict[str, Any]) -> int:
    """Print what differs; returns the exit code."""
    different = 0
    for name in sorted(first.keys() | second.keys()):
        left, right = first.get(name), second.get(name)
        if left == right:
            continue
        different += 1
        if left is None or right is None:
            print(f"only in the {'second' if left is None else 'first'}: {name}")
        elif isinstance(left, dict):
            keys = [key for key in sorted(left.keys() | right) if left.get(key) != right.get(key)]
            print(f"differs: {name}: {', '.join(keys)}")
        else:
            print(f"differs: {name}")
    total = len(first.keys() | second.keys())
    print(f"{different} of {total} files differ" if different else f"all {total} files are equal")
    return 1 if different else 0


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout.strip()


if __name__ == "__main__":
    main()
