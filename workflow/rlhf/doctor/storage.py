"""The file systems that a project lies on."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rlhf.core.files import fsync_path, write_atomic
from rlhf.doctor.check import Check, Verdict

FOLDERS = ("", "results", "state", "logs")  # any of them may be a link to elsewhere
SLOW_MS = 100.0
SLOW_MB_PER_SECOND = 50.0
LITTLE_GB, TOO_LITTLE_GB = 50.0, 1.0
CLOCK_SECONDS = 5.0
_TRIES, _MEGABYTES = 11, 64


def check_storage(project: Path) -> Iterator[Check]:
    """Measure each file system of the project once."""
    seen: dict[int, list[str]] = {}
    paths: dict[int, Path] = {}
    for name in FOLDERS:
        path = project / name
        if path.is_dir():
            device = path.stat().st_dev
            seen.setdefault(device, []).append(name or "the project")
            paths.setdefault(device, path)
    for device, names in seen.items():
        label = f"files: {', '.join(names)}"
        try:
            yield _measure(label, paths[device])
        except OSError as error:
            to_do = "make room, or have the folder's owner let you write there"
            yield Check(label, "failed", f"{paths[device]}: {error.strerror or error}", to_do)


def _measure(label: str, path: Path) -> Check:
    space = os.statvfs(path)
    free = space.f_bavail * space.f_frsize / 1e9
    with tempfile.TemporaryDirectory(dir=path, prefix=".doctor-") as scratch:
        folder = Path(scratch)
        times = []
        for _ in range(_TRIES):
            began = time.perf_counter()
            write_atomic(folder / "small", "x")
            times.append(time.perf_counter() - began)
        skew = (folder / "small").stat().st_mtime - time.time()
        links = _can_link(folder)
        began = time.perf_counter()
        with open(folder / "large", "wb") as stream:
            for _ in range(_MEGABYTES):
                stream.write(os.urandom(1 << 20))
        fsync_path(folder / "large")
        speed = _MEGABYTES * 1.048576 / (time.perf_counter() - began)
    latency = 1000 * statistics.median(times)
    found = (
        f"{file_system(path)}, {free:,.0f} GB free, {latency:.1f} ms for a safe small write, "
        f"{speed:,.0f} MB/s"
    )
    complaints: list[tuple[bool, Verdict, str, str]] = [
        (not links, "failed", "no hard links", "keep state/ on another file system"),
        (free < TOO_LITTLE_GB, "failed", "", "make room"),
        (free < LITTLE_GB, "warning", "", "a 1B model's resume states take some 25 GB: make room"),
        (latency > SLOW_MS, "warning", "slow", "keep the project on a faster file system"),
        (speed < SLOW_MB_PER_SECOND, "warning", "slow", "raise runtime.save_seconds"),
        (abs(skew) > CLOCK_SECONDS, "warning", f"its clock is {skew:+.0f} s off",
         "have the site set its clocks: Snakemake compares modification times"),
    ]  # fmt: skip
    for applies, verdict, word, to_do in complaints:
        if applies:
            return Check(label, verdict, f"{found}; {word}" if word else found, to_do)
    return Check(label, "ok", found)


def file_system(path: Path) -> str:
    """Type of the file system that a path lies on, such as ``lustre``."""
    path, best, kind = path.resolve(), "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, point, found, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        if path.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, found
    return kind


def _can_link(folder: Path) -> bool:
    """Claims of a state folder rest on hard links."""
    try:
        os.link(folder / "small", folder / "link")
    except OSError:
        return False
    return True
