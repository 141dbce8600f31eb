"""What every stage's command line has in common.

A rule calls ``python -m rlhf.stages.<stage>`` with ``--config JSON``, ``--input ROLE PATH…`` and
``--output ROLE PATH``. A role of which there is nothing is given without a path. A stage module
defines ``run(stage)`` and ends with ``main(run)``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

from pydantic import ValidationError

from rlhf.config.base import Strict
from rlhf.core.digest import digest_file
from rlhf.core.files import keep_log
from rlhf.errors import EXIT_BAD_INPUT, EXIT_FENCED, EXIT_SAVED, ConfigError, Fenced, RlhfError
from rlhf.provenance.manifest import MANIFEST, Manifest
from rlhf.runtime import fence
from rlhf.runtime.deadline import Saved
from rlhf.runtime.options import (
    AttentionChoice,
    EngineKind,
    EngineOptions,
    Offload,
    RunOptions,
    Shard,
)

logger = logging.getLogger("rlhf")

Section = TypeVar("Section", bound=Strict)


@dataclass
class Stage:
    """One run of one stage.

    Attributes:
        stage: the stage's name, such as ``train_sft``.
        name: name of the artifact that it makes.
        config: the stage's slice of the configuration, as it came; ``read`` gives it a type.
        inputs: role → path(s) of the parents' manifests or other files.
        outputs: role → path; ``manifest`` is always among them.
        code: digest of the code closure.
        image: identity of the container image, or ``""``.
        state: folder for resume state, or None.
        save_steps: save the state every so many steps; 0: by time alone.
        save_seconds: save the state after so many seconds.
        save_margin: least seconds before the end of an allocation that are kept for saving.
        micro_batch_tokens: padded tokens in one forward and backward pass.
        deterministic: use deterministic kernels alone.
        engine: how training computes, and where weights, gradients and moments are kept.
        log: file of the log; TensorBoard events and figures of speed go beside it.
        rows: tokens of the longest rows that the configuration has for the model, by its keys.
        runs: what later runs need of the model (``config.needs``) → their names.
    """

    stage: str
    name: str
    config: dict[str, Any]
    inputs: dict[str, list[Path]]
    outputs: dict[str, Path]
    code: str
    image: str
    state: Path | None
    save_steps: int
    save_seconds: float
    save_margin: float
    micro_batch_tokens: int
    deterministic: bool
    engine: EngineOptions
    log: Path | None
    started: float
    rows: dict[str, int]
    runs: dict[str, list[str]]

    def read(self, section: type[Section]) -> Section:
        """The stage's slice of the configuration, as an object of its class.

        Args:
            section: the section's class, such as ``SftConfig``; or, where the slice holds more
                than one section of the configuration does, the class of the slice that stands
                beside it, such as ``StoreSlice``.

        Raises:
            ConfigError: the slice is not of that class: a key is missing, unknown or wrong.
        """
        try:
            return section.from_slice(self.config)
        except ValidationError as error:
            keys = ((".".join(map(str, one["loc"])), one["msg"]) for one in error.errors())
            raise ConfigError(
                "The stage's slice of the configuration is not valid:\n    "
                + "\n    ".join(": ".join(filter(None, key)) for key in keys),
                where=f"{self.stage}.{self.name}, --config",
                expected=f"the keys of {section.__name__}",
                hint="let snakemake compose the command line; config/README.md explains every key",
            ) from error

    @property
    def section(self) -> str:
        """Section of the configuration that a training stage's runs are in, such as ``sft``."""
        return self.stage.removeprefix("train_")

    def input(self, role: str) -> Path:
        """The only input of a role."""
        (path,) = self.inputs[role]
        return path

    def folder(self, role: str) -> Path:
        """The folder of the artifact whose manifest is the only input of a role."""
        return self.input(role).parent

    def parents(self) -> dict[str, str]:
        """Role → digest of the parent's manifest.

        Where a role has several they are ``role:name``; where these share names too, as views of
        one dataset do, ``role:view/model/name``.
        """
        digests: dict[str, str] = {}
        for role, paths in self.inputs.items():
            names = [path.parent.name for path in paths]
            if len(set(names)) < len(names):
                names = ["/".join(path.parent.parts[-3:]) for path in paths]
            keys = [role] if len(paths) == 1 else [f"{role}:{name}" for name in names]
            digests |= dict(zip(keys, map(digest_file, paths), strict=True))
        return digests

    def run_options(self, threads: int) -> RunOptions:
        """How a training run saves and reports; its identity is all that decides the result.

        But for the number of processes: a state of other ranks is gone on with, and the result is
        the same within rounding.
        """
        identity = {
            "stage": self.stage,
            "name": self.name,
            "config": self.config,
            "code": self.code,
            "image": self.image,
            "parents": self.parents(),
            "threads": threads,
        }
        return RunOptions(
            f"{self.stage}.{self.name}",
            self.state or self.outputs["manifest"].parent / ".state",
            identity,
            self.save_steps,
            self.save_seconds,
            self.log.with_suffix(".tensorboard") if self.log else None,
            self.save_margin,
            self.log.with_suffix(".perf.jsonl") if self.log else None,
        )

    def finish(
        self,
        counts: dict[str, Any] | None = None,
        metrics: dict[str, Any] | None = None,
        facts: dict[str, Any] | None = None,
        volatile: Collection[str] = (),
    ) -> None:
        """Write ``run.json`` and, last of all, the manifest.

        Args:
            counts: rows, tokens, truncated, dropped and the like.
            metrics: the few figures that sum the stage up.
            facts: anything else that downstream stages check.
            volatile: output roles that the manifest must not digest, because their bytes vary
                though the work is the same (a page that shows run times).

        Raises:
            Fenced: another attempt has taken this run over; neither file is written.
        """
        path = self.outputs["manifest"]
        manifest = Manifest(
            self.stage,
            self.name,
            self.config,
            self.code,
            self.image,
            self.parents(),
            counts=counts or {},
            metrics=metrics or {},
            facts=facts or {},
        )
        left_out = {"manifest", *volatile}
        made = [made for role, made in sorted(self.outputs.items()) if role not in left_out]
        manifest.write(path.parent, made, self.started, guard=fence.check)


def _by_key(items: Iterable[Sequence[str]]) -> dict[str, list[str]]:
    """Key → all values that are given for it; a key without any is left out."""
    values: dict[str, list[str]] = {}
    for key, *given in items:
        if given:
            values.setdefault(key, []).extend(given)
    return values


def parse(argv: list[str] | None = None) -> tuple[Stage, argparse.Namespace]:
    """Read the command line that a rule composes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True, help="name of the artifact")
    parser.add_argument("--config", required=True, type=json.loads, help="config slice, JSON")
    inputs: dict[str, Any] = {"nargs": "+", "metavar": ("ROLE", "PATH")}
    outputs: dict[str, Any] = {"nargs": 2, "metavar": ("ROLE", "PATH")}
    parser.add_argument("--input", action="append", default=[], **inputs)
    parser.add_argument("--output", action="append", default=[], **outputs)
    parser.add_argument("--code", default="", help="digest of the code closure")
    parser.add_argument("--image", default="", help="identity of the container image")
    parser.add_argument("--state", type=Path, help="folder for resume state")
    parser.add_argument("--save-steps", type=int, default=0, help="0: by time alone")
    parser.add_argument("--save-seconds", type=float, default=300.0)
    parser.add_argument("--save-margin", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--micro-batch-tokens", type=int, default=2048)
    parser.add_argument("--deterministic", action="store_true")
    parser.add_argument("--engine", choices=get_args(EngineKind), default="replicated")
    parser.add_argument("--shard", choices=get_args(Shard), default="all")
    parser.add_argument("--offload", choices=get_args(Offload), default="none")
    parser.add_argument("--activation-checkpointing", action="store_true")
    parser.add_argument("--attention", choices=get_args(AttentionChoice), default="auto")
    parser.add_argument("--log", type=Path, help="also write the log to this file")
    parser.add_argument("--rows", action="append", default=[], metavar="KEYS=TOKENS")
    parser.add_argument("--runs", action="append", default=[], metavar="NEED=RUN")
    parser.add_argument("--debug", action="store_true", help="print tracebacks")
    args = parser.parse_args(argv)
    made = {role: Path(path) for role, path in args.output}
    if made.get("manifest", Path()).name != MANIFEST:
        parser.error("--output manifest …/manifest.json is missing")
    module = sys.modules["__main__"].__spec__
    stage = Stage(
        stage=module.name.rpartition(".")[2] if module else "",
        name=args.name,
        config=args.config,
        inputs={role: [*map(Path, paths)] for role, paths in _by_key(args.input).items()},
        outputs=made,
        code=args.code,
        image=args.image,
        state=args.state,
        save_steps=args.save_steps,
        save_seconds=args.save_seconds,
        save_margin=args.save_margin,
        micro_batch_tokens=args.micro_batch_tokens,
        deterministic=args.deterministic,
        engine=EngineOptions(
            args.engine, args.shard, args.offload, args.activation_checkpointing, args.attention
        ),
        log=args.log,
        started=time.time(),
        rows={keys: int(most) for keys, _, most in (one.rpartition("=") for one in args.rows)},
        runs=_by_key(one.split("=", 1) for one in args.runs),
    )
    return stage, args


def _set_up_logging(log: Path | None) -> None:
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if log is not None:
        keep_log(log)
        handlers.append(logging.FileHandler(log, mode="a", encoding="utf-8"))
    rank = int(os.environ.get("RANK", "0"))
    logging.basicConfig(
        level=logging.INFO if rank == 0 else logging.WARNING,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        handlers=handlers,
    )
    for noisy in ("httpx", "filelock", "fsspec", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def main(run: Callable[[Stage], None]) -> NoReturn:
    """Run a stage and exit: 0 done, 75 saved for later, 76 replaced, 2 bad input, 1 otherwise."""
    stage, args = parse()
    _set_up_logging(args.log)
    debug = args.debug or bool(os.environ.get("RLHF_DEBUG"))
    try:
        fence.check()
        run(stage)
    except Saved as saved:
        logger.info("%s: %s; the same command goes on from there", stage.name, saved)
        sys.exit(EXIT_SAVED)
    except Fenced as fenced:
        logger.error("%s.%s: %s", stage.stage, stage.name, fenced)
        sys.exit(EXIT_FENCED)
    except RlhfError as error:
        logger.error("%s.%s: %s", stage.stage, stage.name, error)
        if debug:
            traceback.print_exc()
        sys.exit(EXIT_BAD_INPUT)
    except Exception as error:
        # The log keeps the traceback; the terminal gets the sentence.
        if debug or args.log is None:
            logger.exception("%s.%s failed", stage.stage, stage.name)
        else:
            with args.log.open("a", encoding="utf-8") as stream:
                traceback.print_exc(file=stream)
            logger.error(
                "%s.%s failed: %s: %s\n  traceback: %s (RLHF_DEBUG=1 prints it)",
                stage.stage,
                stage.name,
                type(error).__name__,
                error,
                args.log,
            )
        sys.exit(1)
    sys.exit(0)
