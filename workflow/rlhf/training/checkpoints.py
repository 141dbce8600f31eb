"""Resume state: written whole, verified by digest, the one before it kept in reserve.

Every rank writes files of its own, and rank 0 seals them with the digests of all. A rank's values
are a nested structure of dicts, lists, tensors and plain values: tensors go to one safetensors
file, the rest to JSON. The engine's files stand beside them. Nothing is pickled.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from rlhf.core.digest import digest_file, digest_value
from rlhf.core.files import atomic_directory, read_json, write_json
from rlhf.errors import IntegrityError
from rlhf.models.parts import write_tensors
from rlhf.runtime import fence
from rlhf.runtime.forced import FORCED, PUBLISHED
from rlhf.training import distributed
from rlhf.training.engine.protocol import Engine

logger = logging.getLogger(__name__)

TENSORS, VALUES, SEAL = "rank-{:05d}.safetensors", "rank-{:05d}.json", "seal.json"
NEEDS = "needs.json"  # the step of another state whose weights a run may publish in the end


class Checkpoints:
    """The saved states of one run, in ``root/fingerprint/step-NNNNNNNN``.

    Args:
        root: folder of the run, such as ``state/train_sft/chat``.
        identity: all that decides the run's result (config, code, parents); a state
            is found again only under the same identity.
        keep: states kept; at least two, so that a damaged one has one before it.
    """

    def __init__(self, root: str | Path, identity: Any, keep: int = 2) -> None:
        self.folder = Path(root) / digest_value(identity)[:16]
        self.folder.mkdir(parents=True, exist_ok=True)
        for private in (self.folder.parent, self.folder):
            os.chmod(private, 0o700)
        self._identity = identity
        self._keep = max(2, keep)
        if not (self.folder / "identity.json").exists():
            write_json(self.folder / "identity.json", identity, mode=0o600)
        self._remove_leftovers()

    def save(
        self,
        step: int,
        state: dict[str, Any],
        engine: Engine | None = None,
        needs: int | None = None,
    ) -> None:
        """Save the state reached after ``step`` steps, then drop what is of no use any more.

        All ranks call this.

        Args:
            step: steps done.
            state: this rank's values.
            engine: holds weights and moments.
            needs: step of a state that is kept as long as this one is; None: there is none.

        Raises:
            OSError: the disk is full, for one; on every rank. The states saved before are
                untouched.
            Fenced: another attempt owns the state; its states are untouched.
        """
        target = self.folder / f"step-{step:08d}"
        if distributed.rank() != 0:
            _write(Path(distributed.gather([])[0]), state, engine)
            return
        with atomic_directory(target, private=True, guard=fence.check) as folder:
            distributed.gather([str(folder)])
            digests = _write(folder, state, engine)
            if needs is not None:
                write_json(folder / NEEDS, needs, mode=0o600)
                digests[NEEDS] = digest_file(folder / NEEDS)
            write_json(folder / SEAL, digests)
        fence.check()
        states = self._states()
        newest = states.index(target)  # a later one is damaged: the run went on from before it
        oldest = max(0, newest + 1 - self._keep)
        needed = {_needs(each) for each in states[oldest : newest + 1]}
        for old in [*states[:oldest], *states[newest + 1 :]]:
            if old not in needed:
                shutil.rmtree(old)

    def load_weights(self, step: int, engine: Engine) -> None:
        """Give an engine the weights of a state that another one needs.

        All ranks call this.

        Args:
            step: the state's.
            engine: gets weights and moments.

        Raises:
            IntegrityError: it is damaged, or not there.
        """
        folder = self.folder / f"step-{step:08d}"
        problem = _damage(folder) if distributed.rank() == 0 else None
        problems = distributed.gather([problem])
        if problems[0]:
            raise IntegrityError(
                f"The best weights can't be read: {problems[0]}.",
                where=folder,
                expected="the state that was saved when they were validated",
                hint=f"delete {self.folder}: the stage then starts again",
            )
        engine.load(folder)

    def load(self, engine: Engine | None = None) -> tuple[int, dict[str, Any]] | None:
        """The newest state whose digests hold, with its step; None when there is none.

        All ranks call this, and get the same state: rank 0 looks for it. A rank that the state
        does not know gets rank 0's values.

        Args:
            engine: gets weights and moments.
        """
        sound = distributed.gather(self._newest() if distributed.rank() == 0 else [])
        if not sound:
            return None
        folder = self.folder / sound[0]
        own = distributed.rank()
        rank = own if (folder / VALUES.format(own)).exists() else 0
        values = read_json(folder / VALUES.format(rank))
        if engine is not None:
            engine.load(folder)
        tensors = load_file(folder / TENSORS.format(rank))
        return int(folder.name.rpartition("-")[2]), _join(values, tensors)

    def _newest(self) -> list[str]:
        """The name of the newest sound state, if there is one."""
        for folder in reversed(self._states()):
            problem = _damage(folder)
            if not problem:
                return [folder.name]
            logger.warning("saved state %s is damaged (%s): using the one before", folder, problem)
        return []

    def mark_published(self) -> None:
        """Note that what these states lead to has been published."""
        (self.folder / PUBLISHED).touch(mode=0o600)

    def start_afresh(self) -> bool:
        """Drop all states if the run is forced; whether it is."""
        forced = (self.folder / FORCED).exists()
        if forced:
            for state in self._states():
                shutil.rmtree(state)
            (self.folder / FORCED).unlink()  # last: a kill before this one drops the rest later
        return forced

    def _states(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))

    def _remove_leftovers(self) -> None:
        for left in [*self.folder.glob(".step-*.tmp"), *self.folder.glob(".step-*.old")]:
            shutil.rmtree(left, ignore_errors=True)


def _write(folder: Path, state: dict[str, Any], engine: Engine | None) -> dict[str, str]:
    """Write this rank's files; the digests of all ranks' files by name.

    Raises:
        OSError: a rank could not write its own; on every rank.
    """
    rank, digests, failed = distributed.rank(), {}, None
    tensors: dict[str, torch.Tensor] = {}
    values = _split(state, "", tensors)
    try:
        files = engine.save(folder) if engine is not None else []
        files += [TENSORS.format(rank), VALUES.format(rank)]
        write_tensors(folder / TENSORS.format(rank), tensors)
        write_json(folder / VALUES.format(rank), values, allow_nan=True)  # as they are
        digests = {name: digest_file(folder / name) for name in files}
    except OSError as error:
        failed = error
    told = distributed.gather([(digests, str(failed) if failed else "")])
    problems = [problem for _, problem in told if problem]
    if problems:
        raise failed or OSError(problems[0])
    return {name: digest for each, _ in told for name, digest in each.items()}


def _needs(folder: Path) -> Path | None:
    """The state that another one needs, if there is one; it may be damaged, and then needs none."""
    try:
        return folder.with_name(f"step-{int(read_json(folder / NEEDS)):08d}")
    except (OSError, ValueError, TypeError):
        return None


def _damage(folder: Path) -> str | None:
    try:
        for name, digest in read_json(folder / SEAL).items():
            if digest_file(folder / name) != digest:
                return f"{name} does not match its digest"
    except (OSError, ValueError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _split(value: Any, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        while path in tensors:  # the keys 1 and "1" have one path
            path += "'"
        tensors[path] = value.detach().to("cpu").contiguous()
        return {"__tensor__": path}
    if isinstance(value, dict):
        pairs = [[key, _split(item, f"{path}/{key}", tensors)] for key, item in value.items()]
        return {"__dict__": pairs}  # pairs keep keys that are not strings
    if isinstance(value, list | tuple):
        kind = "__tuple__" if isinstance(value, tuple) else "__list__"
        return {kind: [_split(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{path}: a {type(value).__name__} can't be saved")


def _join(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "__tensor__":
        return tensors[content]
    if kind == "__dict__":
        return {key: _join(item, tensors) for key, item in content}
    items = [_join(item, tensors) for item in content]
    return tuple(items) if kind == "__tuple__" else items
