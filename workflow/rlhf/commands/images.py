"""``rlhf images build`` and ``rlhf images check``."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

from rlhf import paths
from rlhf.core.files import fsync_path
from rlhf.core.user_paths import path_argument
from rlhf.errors import RlhfError
from rlhf.launch import images

LOGS = paths.LOGS / "images"
TAIL_LINES = 15
WHEELS = "/mnt"  # where a build sees the folder of wheels; every base has this folder
# Several times faster than the default, to write and to read, and no larger.
COMPRESSION = "-comp zstd -Xcompression-level 1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Two commands: build and check."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = actions.add_parser("build", help="build the images that are missing (needs a network)")
    build.add_argument(
        "kinds", nargs="*", metavar="KIND", help="train, serve, sample; default: the first two"
    )
    build.add_argument(
        "--base",
        action="append",
        type=_base,
        default=[],
        metavar="[KIND=]IMAGE",
        help="build on this image from now on: a file, docker://…, or `default`",
    )
    build.add_argument(
        "--wheels",
        type=path_argument,
        metavar="DIR",
        help="install from this folder, without a network",
    )
    build.set_defaults(act=_build)
    check = actions.add_parser("check", help="are the images there, and do they match?")
    check.set_defaults(act=_check)


def run(args: argparse.Namespace) -> int:
    """Build or check."""
    return args.act(args)


def _build(args: argparse.Namespace) -> int:
    if args.wheels is not None and not args.wheels.is_dir():
        raise RlhfError("There is no such folder of wheels.", where=args.wheels)
    for kinds, source in args.base:
        for kind in kinds:
            images.definition_path(kind)
            images.choose_base(kind, None if source == "default" else source)
    for kind in args.kinds or images.USUAL:
        if kind in (bases := images.read_bases()):
            images.choose_base(kind, bases[kind]["source"])  # the file may have changed
        path = images.image_path(kind)
        if path.is_file():
            print(f"{kind}: {path} is there")
            continue
        started = time.monotonic()
        build(kind, args.wheels)
        print(f"{kind}: {path} built in {time.monotonic() - started:.0f} s")
    return 0


def _base(text: str) -> tuple[Sequence[str], str]:
    """Kinds of image, and what to build them on: ``[KIND=]IMAGE``."""
    kind, equals, source = text.partition("=")
    kinds, source = ([kind], source) if equals and "/" not in kind else (images.USUAL, text)
    if source != "default" and "://" not in source:
        source = str(path_argument(source))
    return kinds, source


def build(kind: str, wheels: Path | None = None) -> Path:
    """Build one image, whatever is there; it appears whole or not at all.

    Args:
        kind: the kind of image.
        wheels: a folder with all wheels that the locks name, instead of a package index.

    Raises:
        RlhfError: no runtime, called by root, or the build failed; with the end of its log.
    """
    runtime = images.find_runtime()
    if os.geteuid() == 0:
        raise RlhfError(
            "Images are not built by root.",
            expected="an ordinary user: a build sees this machine's /tmp, /var/tmp and /dev",
            hint="run this as the user who runs the pipeline",
        )
    definition, path = images.definition_path(kind), images.image_path(kind)
    log = LOGS / f"{kind}.log"
    for folder in (path.parent, log.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}.") as scratch:
        unfinished = Path(scratch).resolve() / path.name
        command = [runtime, "build", "--fakeroot", f"--mksquashfs-args={COMPRESSION}"]
        command += [f"--build-arg={name}={value}" for name, value in _arguments(kind, wheels)]
        command += [f"--bind={wheels.resolve()}:{WHEELS}"] if wheels else []
        print(f"{kind}: building; log: {log}", flush=True)
        command += [str(unfinished), str(definition)]
        with open(log, "wb") as stream:
            stream.write(f"{shlex.join(command)}\n".encode())
            stream.flush()
            done = subprocess.run(
                command,
                cwd=images.PROJECT,  # %files names files of the project
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )
        if done.returncode or not unfinished.is_file():
            tail = log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
            raise RlhfError(
                f"The {kind} image could not be built (exit code {done.returncode}). "
                "The end of the log:\n" + "\n".join("    " + line for line in tail),
                where=log,
                hint="read the log; building needs a network, user namespaces and some 50 GB in "
                "APPTAINER_TMPDIR",
            )
        fsync_path(unfinished)
        os.replace(unfinished, path)
    fsync_path(path.parent)
    return path


def _arguments(kind: str, wheels: Path | None) -> list[tuple[str, str]]:
    """The arguments of a definition."""
    project = tomllib.loads((images.PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    arguments = [
        ("VERSION", project["project"]["version"]),
        ("REVISION", _revision()),
        ("IMAGE", images.image_name(kind)),
    ]
    if base := images.read_bases().get(kind):
        agent, found, address = base["source"].partition("://")
        arguments += [
            ("BOOTSTRAP", agent if found else "localimage"),
            ("FROM", address if found else base["source"]),
        ]
    if wheels is not None:
        arguments.append(("PIP_ARGS", f"--no-cache-dir --no-index --find-links={WHEELS}"))
    return arguments


def _revision() -> str:
    """Commit of the project, with ``-dirty`` after it where files were changed."""
    command = ["git", "-C", str(images.PROJECT), "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        return subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL).strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _check(args: argparse.Namespace) -> int:
    runtime = images.find_runtime()
    problems = 0
    for kind in images.present():
        try:
            path = images.require_image(kind)
            labels = _labels(runtime, path)
            if labels.get("rlhf.image") != path.stem:
                raise RlhfError(
                    f"This is not the {kind} image that its name says.",
                    where=path,
                    expected=f"the label rlhf.image {path.stem}",
                    hint="delete it and run `rlhf images build`",
                )
        except RlhfError as error:
            print(f"{kind}: {error}")
            problems += 1
            continue
        base = labels.get("org.opencontainers.image.base.name")
        print(f"{kind}: {path} matches its definition (base: {base})")
        for old in images.old_images(kind):
            print(f"{kind}: {old} is not used any more")
    return 1 if problems else 0


def _labels(runtime: str, path: Path) -> dict[str, str]:
    """The labels in an image."""
    done = subprocess.run(
        [runtime, "inspect", "--json", "--labels", str(path)], capture_output=True, text=True
    )
    try:
        return json.loads(done.stdout)["data"]["attributes"]["labels"]
    except (ValueError, KeyError):
        raise RlhfError(
            f"The image can't be read: {done.stderr.strip()}",
            where=path,
            hint="delete it and run `rlhf images build`",
        ) from None
