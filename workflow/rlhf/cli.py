"""``rlhf …``: the commands for people."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback

from rlhf.errors import EXIT_BAD_INPUT, RlhfError
from rlhf.launch.command import run as run_launch

COMMANDS = {
    "explain": "show what would run, and why",
    "plan": "plan memory, disk and work of every stage, and say what does not fit",
    "verify": "compare the files of artifacts with their manifests",
    "compare": "show how two artifacts differ: configuration, code, parents, metrics",
    "chat": "talk to a model, such as results/ppo/final/model",
    "score": "score the replies of a file with a reward model",
    "prune": "list resume states that are no longer needed, and delete them with --yes",
    "recover": "after Snakemake was killed: wait for its jobs or cancel them, then unlock",
    "doctor": "check a machine or a cluster: SLURM, GPUs, containers, files, network",
    "data": "inspect datasets, known and configured, and what runs draw from them",
    "lock": "record the commits and digests of downloads, or list what has moved",
    "images": "build the container images, or check that they match their definitions",
    "config": "check a configuration, or write its schema and reference",
    "import-oa": "turn an Open-Assistant training command into a configuration",
    "launch": "run one stage with the model servers that it needs (rules call this)",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code; 2 for a mistake that the user can mend.

    1 for files that can't be read or written; ``RLHF_DEBUG=1`` prints the traceback of both.
    """
    argv = sys.argv[1:] if argv is None else argv
    # `launch` reads its own options: the stage's must pass untouched.
    if argv[:1] == ["launch"]:
        return run_launch(argv[1:])
    parser = _parser(argv[0] if argv else "")
    args, rest = parser.parse_known_args(argv)
    if getattr(args, "passes_rest", False):
        args.rest = argv[1:]
    elif getattr(args, "takes_unknown", False):
        args.rest = rest
    elif rest:
        parser.error(f"unknown arguments: {' '.join(rest)}")
    try:
        return args.run(args)
    except RlhfError as error:
        _say(args.command, str(error))
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `rlhf … | head`
        sys.stderr.close()
        return 141
    except OSError as error:
        files = " → ".join(str(one) for one in (error.filename, error.filename2) if one)
        where = f"\n  where:    {files}" if files else ""
        _say(args.command, f"{error.strerror or error}.{where}")
        return 1


def _say(command: str, what: str) -> None:
    """Say why the command being handled did not work."""
    print(f"rlhf {command}: {what}", file=sys.stderr)
    if os.environ.get("RLHF_DEBUG"):
        traceback.print_exc()


def _parser(chosen: str) -> argparse.ArgumentParser:
    """All commands by name; only the chosen one's module is loaded, to start quickly."""
    parser = argparse.ArgumentParser(
        prog="rlhf",
        description="Look at, check and talk to what the pipeline made.",
        epilog="`rlhf COMMAND --help` says more. To build, run `snakemake`.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, about in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=about,
            description=about[:1].upper() + about[1:] + ".",
            allow_abbrev=False,
        )
        if name == chosen:
            module = importlib.import_module(f"rlhf.commands.{name.replace('-', '_')}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
