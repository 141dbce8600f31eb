"""Puts the page together: what it says, in the order of the template."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml

from rlhf.catalog import EVALUATED, RUNS
from rlhf.provenance.code import PACKAGE_ROOT
from rlhf.provenance.lineage import Lineage, Node, trace
from rlhf.provenance.manifest import read_manifest
from rlhf.reporting import numbers
from rlhf.reporting.axes import colour
from rlhf.reporting.charts import line_chart
from rlhf.reporting.comparison import compared, paths, points
from rlhf.reporting.curves import figures
from rlhf.reporting.graph import lineage_graph
from rlhf.reporting.rows import bar_chart, interval_chart
from rlhf.reporting.runs import Run, Seeds, load_runs
from rlhf.reporting.scatter import reward_by_distance

CODE_FILES = ["../../report/page.html.jinja"]
TEMPLATE = PACKAGE_ROOT.parent / "report" / "page.html.jinja"
# Of models, in this order wherever they are listed.
LABELS = {"base": "Base"} | {section: row.label for section, row in RUNS.items() if row.label}
# Of a reward model's held-out pairs: parts of evaluation.json, and metrics.
AGREEMENT = {"datasets": "Dataset", "lengths": "Length"}
AGREEMENT_FIGURES = {
    "accuracy": "accuracy",
    "kendall_tau": "Kendall’s τ",
    "spearman": "Spearman’s ρ",
    "calibration_error": "calibration error",
    "length_correlation": "correlation with length",
}
SAMPLES_SHOWN, SAMPLES_FOLDED = 3, 37  # beyond these the page would grow heavy on a telephone


def render_page(
    title: str, inputs: Mapping[str, Sequence[Path]], seeds: Seeds | None = None
) -> str:
    """The whole page as HTML.

    Args:
        title: heading of the page.
        inputs: role (``sft``, ``reward``, ``ppo``, ``evaluation``) → manifests. Any may be
            absent; other roles enter the lineage alone.
        seeds: run with several seeds → names of its runs → their seeds.

    Raises:
        IntegrityError: as in ``load_runs``.
    """
    runs = load_runs(inputs, seeds or {})
    lineage = trace([path for paths in inputs.values() for path in paths])
    manifests = [(node, read_manifest(node.path)) for node in lineage.nodes]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figure": numbers.figure,
        "percent": numbers.percent,
        "interval": numbers.interval,
        "duration": numbers.duration,
        "short": numbers.short,
        "label": _label,
    }
    environment.globals |= {"figure": numbers.figure, "percent": numbers.percent}  # for macros
    return environment.get_template(TEMPLATE.name).render(
        title=title,
        tiles=_tiles(runs),
        comparison=_comparison(runs),
        evaluations=[_evaluation(one) for one in _of(runs, "evaluation")],
        rewards=[one for one in map(_agreement, _of(runs, "reward")) if one["tables"]],
        curves=_curves(runs),
        samples=[one for one in map(_samples, _of(runs, "evaluation")) if one["rows"]],
        lineage=lineage,
        missing=_missing(lineage),
        graph=lineage_graph(lineage),
        timing=_timing(lineage.nodes),
        counts=[(node, _flat(m["counts"])) for node, m in manifests if m["counts"]],
        config=_config(manifests),
    )


def _of(runs: Iterable[Run], role: str) -> list[Run]:
    return [run for run in runs if run.role == role]


def _label(model: str) -> str:
    return LABELS.get(model, model)


def _in_order(names: Iterable[str]) -> list[str]:
    """Model names from the earliest model to the latest, unknown ones last."""
    order = list(LABELS)
    return sorted(names, key=lambda name: (order.index(name) if name in order else 99, name))


def _tiles(runs: list[Run]) -> list[dict[str, str]]:
    """Headline figures: a label, the figure, and a line of small print."""
    tiles = []
    rewards, evaluations = _of(runs, "reward"), _of(runs, "evaluation")
    for run in rewards:
        accuracy = run.last("validation_accuracy")
        if accuracy is not None:
            note = "of validation pairs ordered as people did"
            tiles.append(_tile("Reward model accuracy", accuracy, note, run, rewards))
    for run in evaluations:
        tiles += _evaluation_tiles(run, evaluations)
    return tiles


def _tile(label: str, share: float, note: str, run: Run, siblings: list[Run]) -> dict[str, str]:
    return {
        "label": label,
        "value": numbers.percent(share),
        "note": _named(note, run, siblings),
    }


def _named(note: str, run: Run, siblings: list[Run]) -> str:
    return note if len(siblings) == 1 else f"{run.name} · {note}"


def _evaluation_tiles(run: Run, siblings: list[Run]) -> list[dict[str, str]]:
    models = run.evaluation.get("models", {})
    comparisons = run.evaluation.get("comparisons", {})
    earlier = "sft" if models.get("sft") else "base"  # what a policy is compared with
    before = models.get(earlier, {}).get("reward")
    tiles = []

    def add(label: str, value: str, note: str) -> None:
        note = _named(note, run, siblings)
        tiles.append({"label": label, "value": value, "note": note})

    for section, row in EVALUATED.items():
        policy = models.get(section, {})
        if before and (after := policy.get("reward")):
            add(
                f"Reward, {_label(earlier)} → {row.label}",
                f"{numbers.figure(before['mean'])} → {numbers.figure(after['mean'])}",
                f"{numbers.interval(before)} → {numbers.interval(after)}, standard deviations",
            )
        if rate := comparisons.get(f"{section}_vs_{earlier}", {}).get("win_rate"):
            note = f"{numbers.interval(rate, numbers.percent)} by the reward model"
            add(f"{row.label} wins against {_label(earlier)}", numbers.percent(rate["mean"]), note)
        if policy.get("kl") is not None:
            note = "nats per response from the reference"
            add(f"KL of {row.label}", numbers.figure(policy["kl"]), note)
    return tiles


def _comparison(runs: list[Run]) -> dict[str, Any] | None:
    """All evaluated runs beside each other, where there is more than one policy."""
    evaluations = _of(runs, "evaluation")
    rows, policies = compared(runs), points(runs)
    if len(policies) < 2:
        return None
    trained = paths(runs, {one.method: one.hue for one in policies})
    return {
        "rows": rows,
        "gold": any(row["gold"] for row in rows),
        "several": any(run.several for run in evaluations),
        "chart": reward_by_distance(policies, title="Gain in reward against √KL"),
        "paths": line_chart(trained, title="Reward against √KL in training", x_label="√KL"),
        "legend": list({_label(one.method): colour(one.hue) for one in policies}.items()),
    }


def _evaluation(run: Run) -> dict[str, Any]:
    models = run.evaluation.get("models", {})
    comparisons = run.evaluation.get("comparisons", {})
    order = _in_order(models)
    rows = [
        (_label(name), reward["mean"], reward["low"], reward["high"])
        for name in order
        if (reward := models[name].get("reward"))
    ]
    return {
        "name": run.name,
        "seeds": run.seeds if run.several else (),
        "gold": any(one.get("gold") for one in models.values()),
        "models": [(name, models[name]) for name in order],
        "comparisons": [
            (" against ".join(map(_label, name.split("_vs_"))), comparisons[name])
            for name in sorted(comparisons)
        ],
        # 0 is the SFT model on the prompts that the reward was calibrated with.
        "chart": interval_chart(rows, title="Mean reward with 95 % intervals", reference=0.0),
    }


def _agreement(run: Run) -> dict[str, Any]:
    """How a reward model agrees with people on held-out pairs: figures, and their parts."""
    agreement = run.evaluation.get("agreement", {})
    tables = [(title, agreement[key]) for key, title in AGREEMENT.items() if agreement.get(key)]
    last = ((label, run.last(f"validation_{key}")) for key, label in AGREEMENT_FIGURES.items())
    figures = [(label, value) for label, value in last if value is not None]
    return {"name": run.name, "figures": figures, "tables": tables}


def _curves(runs: list[Run]) -> list[dict[str, Any]]:
    sections = []
    for role, row in RUNS.items():
        for run in _of(runs, role) if row.title else ():
            drawn = figures(run)
            if drawn:
                sections.append({"title": row.title, "name": run.name, "figures": drawn})
    return sections


def _samples(run: Run) -> dict[str, Any]:
    """Samples with their models in order; the longest lists are cut, and the page says so.

    Of several seeds, the first one's.
    """
    samples = run.artifacts[0].samples
    rows = [
        {
            "prompt": sample["prompt"],
            "replies": [(name, sample[name]) for name in _in_order(sample.keys() - {"prompt"})],
        }
        for sample in samples[: SAMPLES_SHOWN + SAMPLES_FOLDED]
    ]
    return {
        "name": run.name + f", {run.labels[0]}" * run.several,
        "rows": rows[:SAMPLES_SHOWN],
        "folded": rows[SAMPLES_SHOWN:],
        "total": len(samples),
    }


def _missing(lineage: Lineage) -> list[tuple[Node, str, str]]:
    """Artifact, role and digest of each parent that was not found."""
    nodes = {node.digest: node for node in lineage.nodes}
    return [(nodes[edge.child], edge.role, edge.parent) for edge in lineage.missing]


def _timing(nodes: Sequence[Node]) -> dict[str, Any]:
    rows = [
        (f"{node.stage} · {node.name}", node.seconds, numbers.duration(node.seconds))
        for node in nodes
        if node.seconds is not None
    ]
    chart = bar_chart(rows, title="Wall time of each stage")
    return {"chart": chart, "total": sum(seconds for _, seconds, _ in rows)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested counts as (``train rows``, ``1,234``)."""
    pairs: list[tuple[str, str]] = []
    for key, value in values.items():
        label = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            pairs += _flat(value, f"{label} ")
        elif isinstance(value, int | float):
            pairs.append((label, numbers.figure(value)))
        else:
            pairs.append((label, str(value)))
    return pairs


def _config(manifests: list[tuple[Node, dict[str, Any]]]) -> str:
    """The configuration of all artifacts, stage by stage, as YAML with sorted keys."""
    tree: dict[str, dict[str, Any]] = {}
    for node, manifest in manifests:
        tree.setdefault(node.stage, {})[node.name] = manifest["config"]
    return yaml.safe_dump(tree, sort_keys=True, allow_unicode=True) if tree else ""
