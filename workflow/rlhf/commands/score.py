"""``rlhf score MODEL FILE``: a reward model's scores of the replies in a file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf import paths
from rlhf.commands.arguments import whole
from rlhf.core.files import read_json, write_atomic
from rlhf.core.user_paths import path_argument
from rlhf.errors import ConfigError, RlhfError

if TYPE_CHECKING:
    from rlhf.data.rows import Row
    from rlhf.evaluation.text_scores import Candidates, Scores

REPORT = "sampling-report"  # Open-Assistant's, in place of a format's name
AT_ONCE = 256  # rows that are in memory together
EXPECTED = "a reward run, such as reward.helpful, or its folder, such as results/reward/helpful"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, the file and how it is read."""
    parser.add_argument("model", metavar="MODEL_OR_RUN", help=EXPECTED)
    parser.add_argument("file", type=path_argument, metavar="FILE", help="or a folder, or a glob")
    parser.add_argument(
        "--format", default="preference", metavar="NAME",
        help=f"of the file (docs/data.md), or {REPORT}; default: %(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE",
        help="an option of the format, its value in YAML; may be repeated (docs/data.md)",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=path_argument, metavar="FILE", help="JSON lines; default: standard output"
    )
    parser.add_argument(
        "--max-tokens", type=whole(1), default=4096, metavar="N",
        help="padded tokens in one forward pass; default: %(default)s",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Write a JSON line for each row; then say how the scores agree with people's order."""
    from rlhf.data.formats.source import Source
    from rlhf.evaluation.text_scores import TextScorer
    from rlhf.models import devices

    folder, options = find_reward_model(args.model), _options(args.option)
    if args.format == REPORT:
        rows = iter(_samples(args.file))
    else:
        rows = candidates(Source(args.format, args.file, options, dataset=args.file.stem))
    devices.check_device()
    scorer = TextScorer(folder, args.max_tokens)
    lines: list[str] = []
    known: list[tuple[Candidates, Scores]] = []
    while some := list(islice(rows, AT_ONCE)):
        for one, scores in zip(some, scorer(some), strict=True):
            line = json.dumps(_line(one, scores), ensure_ascii=False)
            known.append((one, scores))
            if args.output:
                lines.append(line)
            else:
                print(line)
    if args.output:
        write_atomic(args.output, "".join(f"{line}\n" for line in lines))
    if not known:
        raise RlhfError(
            "The file has no reply to score.",
            where=args.file,
            expected="preferences, or conversations that end with the assistant",
        )
    ordered = args.format != REPORT
    for text in _summary(known, args.file.stem) if ordered else _by_configuration(known):
        print(text, file=sys.stderr)
    return 0


def find_reward_model(text: str) -> Path:
    """Folder of the reward model that a run's name, or a path, stands for.

    Raises:
        RlhfError: there is none.
    """
    section, _, name = text.partition(".")
    named = [paths.artifact(section, name) / "model"] if section == "reward" and name else []
    try:
        given = path_argument(text)
    except argparse.ArgumentTypeError as error:
        raise RlhfError(f"{error}.", where=text, expected=EXPECTED) from None
    for folder in (*named, given, given / "model"):
        try:
            config = read_json(folder / "config.json")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except ValueError as error:
            raise RlhfError(f"config.json is not JSON: {error}.", where=folder) from None
        kinds = config.get("architectures") if isinstance(config, dict) else None
        if any(str(kind).endswith("ForSequenceClassification") for kind in kinds or ()):
            return folder
        raise RlhfError("This is no reward model.", where=folder, expected=EXPECTED)
    raise RlhfError("There is no model here (no config.json).", where=text, expected=EXPECTED)


def candidates(rows: Iterable[Row]) -> Iterator[Candidates]:
    """What is scored of a dataset's rows: each list of replies, or else each conversation's last.

    Formats give the best reply of a list as a demonstration too: it is not scored again.
    """
    from rlhf.data.rows import Conversation, Preference
    from rlhf.evaluation.text_scores import Candidates

    for _, group in groupby(rows, key=lambda row: row.id):
        together = list(group)
        lists = [row for row in together if isinstance(row, Preference)]
        for ranked in lists:
            yield Candidates(ranked.id, ranked.history, ranked.replies)
        for row in [] if lists else together:
            if isinstance(row, Conversation) and len(row.messages) > 1:  # else it is plain text
                *history, last = row.messages
                yield Candidates(row.id, tuple(history), (last.content,))


def _options(given: Sequence[str]) -> dict[str, Any]:
    """Options of a format, as they stand on the command line."""
    import yaml

    options = {}
    for text in given:
        key, equals, value = text.partition("=")
        try:
            options[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            equals = ""
        if not equals:
            raise ConfigError(
                f"This option can't be read: {text!r}.",
                where="--option",
                expected="KEY=VALUE with a value in YAML, such as scores=[good, bad]",
            )
    return options


def _line(one: Candidates, scores: Scores) -> dict[str, Any]:
    line: dict[str, Any] = {"row": one.row, "scores": scores.raw}
    if scores.rewards is not None:
        line["rewards"] = scores.rewards
    return line | {"tokens": scores.tokens}


def _samples(path: Path) -> list[Candidates]:
    """What is scored of a sampling report: the outputs of each configuration for each prompt."""
    from rlhf.data.rows import Message
    from rlhf.evaluation.text_scores import Candidates

    try:
        found = []
        for number, entry in enumerate(read_json(path)["prompts"], start=1):
            history = (Message("user", entry["prompt"]),)
            for result in entry["results"]:
                row = f"{number} {result['sampling_config']}"
                found.append(Candidates(row, history, tuple(result["outputs"])))
    except (ValueError, KeyError, TypeError) as error:
        raise RlhfError(
            f"This is no sampling report: {type(error).__name__}: {error}.",
            where=path,
            expected="`prompts`, each with `prompt` and `results` of `sampling_config`, `outputs`",
            hint="such as results/evaluation/<name>/sampling_report.json",
        ) from None
    return found


def _by_configuration(known: Sequence[tuple[Candidates, Scores]]) -> Iterator[str]:
    """The mean of each configuration of a sampling report."""
    groups: dict[str, list[Scores]] = {}
    for one, scores in known:
        groups.setdefault(one.row.partition(" ")[2], []).append(scores)
    for name, group in groups.items():
        yield f"{name}: {_mean(group)}"


def _mean(known: Sequence[Scores]) -> str:
    """How many replies there are, and the mean of their rewards, or of raw scores."""
    rewards = [value for one in known for value in one.rewards or ()]
    raw = [value for one in known for value in one.raw]
    values, what = (rewards, "reward") if rewards else (raw, "score")
    return f"{len(raw)} replies, mean {what} {sum(values) / len(values):.3f}"


def _summary(known: Sequence[tuple[Candidates, Scores]], dataset: str) -> Iterator[str]:
    """How many there are, their mean, and how they agree with the order of the replies."""
    from rlhf.evaluation.agreement import ScoredRow, figures, tables

    every = [scores for _, scores in known]
    yield f"{len(every)} rows, {_mean(every)}"
    lists = [ScoredRow(dataset, one.raw, one.tokens) for one in every if len(one.raw) > 1]
    if not lists:
        return
    found = tables(lists)
    for row in (*found["datasets"], *found["lengths"]):
        yield (
            f"accuracy {row['accuracy']:.1%} [{row['low']:.1%}, {row['high']:.1%}] "
            f"on {row['pairs']} pairs: {row['name']}"
        )
    for name, value in figures(lists).items():
        yield f"{name.replace('_', ' ')} {value:.3f}"
