"""``rlhf import-oa``: a configuration from Open-Assistant's YAML names and command line."""

from __future__ import annotations

import argparse
import copy
import shlex
import sys
from typing import Any

from rlhf.commands.arguments import whole
from rlhf.core.user_paths import path_argument

EPILOG = """\
Other options are read as Open-Assistant's trainers read them: --KEY VALUE sets a key that the
chosen configurations have, and --no-KEY empties one (SFT only).

  rlhf import-oa --repo Open-Assistant --configs oasst_export_eu galactica-125m --output sft.yaml
  rlhf import-oa --repo Open-Assistant --stage rm --configs defaults_rm oasst-rm-1-pythia-1.4b \\
      --onto sft.yaml --output rm.yaml
  snakemake --profile local --configfile sft.yaml rm.yaml
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Names, where they are defined, and what Open-Assistant's settings do not say."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.usage = "%(prog)s --configs NAME … [options] [--KEY VALUE …]"
    parser.set_defaults(takes_unknown=True)
    parser.add_argument(
        "--configs",
        nargs="+",
        required=True,
        metavar="NAME",
        help="names of configurations; the later go before the earlier, key by key",
    )
    places = parser.add_mutually_exclusive_group(required=True)
    places.add_argument(
        "--repo", type=path_argument, metavar="FOLDER", help="a checkout of Open-Assistant"
    )
    places.add_argument(
        "--config-file",
        type=path_argument,
        action="append",
        metavar="FILE",
        help="a YAML file of such names; may be repeated",
    )
    parser.add_argument(
        "--stage",
        choices=("sft", "rm", "rl"),
        help="the trainer that they are for; default: what they look like",
    )
    parser.add_argument(
        "--onto",
        nargs="+",
        type=path_argument,
        default=[],
        metavar="FILE",
        help="configuration that this adds to: the run starts from what is there",
    )
    parser.add_argument("--sft", metavar="NAME", help="SFT run to start from, if there are several")
    parser.add_argument("--reward", metavar="NAME", help="reward model, likewise")
    parser.add_argument("--name", help="name of the new run; default: the model's")
    parser.add_argument(
        "--num-gpus",
        type=whole(1),
        default=1,
        metavar="N",
        help="GPUs that Open-Assistant's batch sizes are meant for; default: 1",
    )
    parser.add_argument(
        "--train-rows",
        type=whole(1),
        metavar="N",
        help="training rows of an epoch, if you know: steps become shares of the run; default: "
        "from the registry's sizes",
    )
    parser.add_argument(
        "--revision",
        metavar="COMMIT",
        help="commit of the model on the hub; default: the newest, which the hub is asked for",
    )
    parser.add_argument(
        "--output", type=path_argument, metavar="FILE", help="file to write; default: the terminal"
    )


def run(args: argparse.Namespace) -> int:
    """Translate, check, write."""
    from rlhf.config.load import load_config, load_config_file, merge, read_sections
    from rlhf.data.formats.source import Source
    from rlhf.open_assistant import names
    from rlhf.open_assistant.page import render, summary
    from rlhf.open_assistant.reinforced import translate_reinforced
    from rlhf.open_assistant.request import Request
    from rlhf.open_assistant.supervised import translate_supervised

    files = names.files_of(args.repo) if args.repo else args.config_file
    collection = names.read_files(files)
    trainer = args.stage or names.trainer_of(names.merge(collection, args.configs, "rm"))
    settings = names.merge(collection, args.configs, trainer)
    settings = names.override(settings, args.rest, trainer)
    base: dict[str, Any] = {}
    if args.onto:
        load_config_file(*args.onto)  # says what is wrong with it
        base = read_sections(args.onto).values
    request = Request(
        trainer,
        settings,
        collection.trlx,
        base,
        name=args.name,
        gpus=args.num_gpus,
        rows=args.train_rows,
        revision=args.revision,
        sft=args.sft,
        reward=args.reward,
    )
    translate = translate_reinforced if trainer == "rl" else translate_supervised
    draft = translate(request)
    for name in collection.disputed:
        draft.dispositions.note(f"{name}: two files define it, and the later one counts")
    whole = copy.deepcopy(base)
    merge(whole, draft.values)
    config = load_config(whole, f"what {request.script}'s settings became")
    for name, dataset in config.datasets.items():  # formats know their own options
        Source(str(dataset.format), dataset.path or "", dataset.options, dataset=name)
    command = shlex.join([request.script, "--configs", *args.configs, *args.rest])
    origin = [
        f"Open-Assistant: {command}",
        "Turned into this by `rlhf import-oa`; docs/open-assistant.md says how.",
    ]
    if args.onto:
        origin.append(f"It adds to {', '.join(path.name for path in args.onto)}.")
    text = render(draft.values, draft.dispositions, origin)
    _write(args, text)
    for line in summary(draft.dispositions):
        print(line, file=sys.stderr)
    return 0


def _write(args: argparse.Namespace, text: str) -> None:
    from rlhf.core.files import write_atomic
    from rlhf.errors import RlhfError

    if args.output is None:
        print(text, end="")
        return
    if args.output in args.onto:
        raise RlhfError(
            "The file to write is one that it adds to.",
            where=args.output,
            hint="name another file, and give both to snakemake --configfile",
        )
    write_atomic(args.output, text)
    chain = " ".join(str(path) for path in [*args.onto, args.output])
    print(f"{args.output}: valid; run it with\n  snakemake --profile local --configfile {chain}")
