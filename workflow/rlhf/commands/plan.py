"""``rlhf plan CONFIG``: memory, disk and work of every stage, before anything runs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf import paths
from rlhf.commands.arguments import number
from rlhf.core.user_paths import path_argument

if TYPE_CHECKING:
    from rlhf.config.schema import Config
    from rlhf.pipeline.plan import Plan

CONFIG = Path("config/config.yaml")
TFLOPS = 150.0  # about half of what an A100 can do at most in bfloat16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which configuration, and how fast a GPU is."""
    parser.add_argument("config", nargs="*", type=path_argument, default=[CONFIG], metavar="CONFIG")
    parser.add_argument("--results", type=path_argument, default=paths.RESULTS, metavar="FOLDER")
    parser.add_argument(
        "--tflops",
        type=number(0.001),
        default=TFLOPS,
        help="10¹² operations a second that one GPU sustains, for GPU hours; 150",
    )


def run(args: argparse.Namespace) -> int:
    """Print the plan; 1 if something does not fit."""
    from rlhf.config.load import load_config_file
    from rlhf.pipeline.plan import all_plans, claim

    config = load_config_file(*args.config)
    plans, others = all_plans(config), _other_seeds(config)
    for planned in plans:
        if (also := others.get((planned.rule, planned.name), "")) is not None:
            print("\n".join(_lines(config, planned, args, also)), end="\n\n")
    large = list(_large_servers(config))
    print("\n".join(large), end="\n\n" if large else "")
    if config.cluster.gpus_per_node:
        print(f"fits: {claim(config)}")
    return int(bool(large) or not all(planned.fits for planned in plans))


def _other_seeds(config: Config) -> dict[tuple[str, str], str | None]:
    """Of the first of several seeds, what is said of the others; None: it is one of the others."""
    from rlhf.catalog import SECTIONS
    from rlhf.config.seeds import run_name

    said: dict[tuple[str, str], str | None] = {}
    for (section, name), (first, *others) in config.seeds.items():
        rule = SECTIONS[section].rule
        said |= {(rule, run_name(name, seed)): None for seed in others}
        if others:
            numbers = ", ".join(map(str, others))
            said[rule, run_name(name, first)] = f", and again for seed {numbers}"
    return said


def _lines(
    config: Config, planned: Plan, args: argparse.Namespace, also: str | None
) -> Iterator[str]:
    """A stage: its engine, its models, and what it needs.

    Args:
        config: the whole configuration.
        planned: the job.
        args: of the command.
        also: what is added to its title.
    """
    from rlhf.pipeline.amounts import disk_bytes, training_flops, training_tokens
    from rlhf.pipeline.plan import nearest_fit
    from rlhf.pipeline.resources import stage_resources

    work, layout = planned.work, planned.work.layout
    device = "GPU" if layout.gpus else "rank"
    many, unit = (work.ranks, "rank") if work.trained or not layout.gpus else (work.gpus, "GPU")
    ranks = f", {many} {unit}{'s' * (many > 1)}"
    yield f"{planned.rule} {planned.name}{ranks}{_engine(planned) if work.trained else ''}{also}"
    for model in dict.fromkeys((*work.trained, *work.held, *work.scoring)):
        trained = f", {_count(model.trained)} trained" if model in work.trained else ""
        kind = model.shape.family + " with a score" * model.scored
        count = f"{_count(model.parameters)} parameters{trained}"
        yield f"  model       {kind}: {count}; from {model.shape.source}"
    for phase, components in planned.phases.items():
        parts = ", ".join(f"{name} {_gb(size)}" for name, size in components.items() if size)
        gb = sum(components.values())
        yield f"  {device:4} memory  {phase}: {_gb(gb)} GB: {parts}"
    rule, name = planned.rule, planned.name
    host = stage_resources(config, rule, name).mem_mb / 1000
    yield f"  host memory {host:.0f} GB a node"
    if work.trained:
        published, states = disk_bytes(planned)
        yield f"  disk        results {_gb(published)} GB, states {_gb(states)} GB"
        tokens = training_tokens(config, planned, args.results)
        if tokens is None:
            yield "  work        known once the data is tokenized"
        else:
            hours = training_flops(config, planned, tokens) / (args.tflops * 1e12 * 3600)
            rate = f", {hours:.3g} GPU hours at {args.tflops:g} TFLOP/s"
            yield f"  work        {_count(tokens)} tokens{rate if layout.gpus else ''}"
    if not planned.fits:
        change = nearest_fit(planned)
        advice = f"fits with {change}" if change else "no setting fits"
        yield (
            f"  DOES NOT FIT in 80 % of {planned.work.gpu_memory_gb:g} GB"
            f" ({planned.peak_gb:.0f} GB); {advice}"
        )


def _engine(planned: Plan) -> str:
    """The engine and what it does, and what of it is chosen by itself."""
    setting = planned.setting
    words: list[tuple[str, str]] = [("engine", setting.kind)]
    if setting.offload != "none":
        words.append(("offload", f"offload {setting.offload}"))
    if setting.checkpointing:
        words.append(("activation_checkpointing", "activation checkpointing"))
    return "".join(f", {text}{' (auto)' * (key in planned.decided)}" for key, text in words)


def _large_servers(config: Config) -> Iterator[str]:
    from rlhf.catalog import ONLINE
    from rlhf.pipeline.server_memory import large_servers

    for section in ONLINE:
        for name in getattr(config, section):
            for one in large_servers(config, section, name):
                yield f"{one.what}; {one.changes}"


def _count(number: float) -> str:
    """Such as ``1.24 B``."""
    for unit, size in (("B", 1e9), ("M", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f}" if size >= 5e7 else f"{size / 1e9:.3f}"
