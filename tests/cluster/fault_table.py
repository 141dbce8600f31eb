"""Write docs/faults.md from what the tests declare, and from the results of their last run.

python tests/cluster/fault_table.py          after: pytest tests/cluster
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from support.cluster.faults import FAULTS, Fault  # noqa: E402

PAGE = ROOT / "docs/faults.md"
RESULTS = ROOT / ".pytest_cache/v/rlhf/faults"
STAGES = {"train_sft": "SFT", "train_reward": "RM", "train_ppo": "PPO"}

_HEAD = """\
# Faults

What goes wrong on a cluster, and what happens then.
`tests/cluster` injects every fault into a real run on a real SLURM cluster, submitted by an \
ordinary user with `snakemake --profile slurm`.
At the end, the run's files must be byte-identical to those of an undisturbed run with the same \
number of processes.

`python tests/cluster/fault_table.py` writes this page from the tests and their latest results.

| fault | how it is injected | what happens | in | same bytes |
|---|---|---|---|---|
"""


def table(results: dict[str, dict[str, Any]]) -> str:
    """The page.

    Args:
        results: id of a fault → what came of it.
    """
    groups: dict[str, list[Fault]] = {}
    for fault in FAULTS:
        groups.setdefault(fault.play.__name__, []).append(fault)
    rows = []
    for faults in groups.values():
        first = faults[0]
        sharded = [
            f"{STAGES[one.rule]} by {one.engine}; {one.topology}" for one in faults if one.engine
        ]
        stages = ", ".join(STAGES[one.rule] for one in faults if not one.engine)
        said = {_result(results.get(one.id)) for one in faults}
        places = "<br>".join([f"{stages}; {first.topology}", *sharded])
        cells = [first.title, first.injected, first.outcome, places]
        rows.append(f"| {' | '.join([*cells, ', '.join(sorted(said))])} |\n")
    return _HEAD + "".join(rows)


def _result(result: dict[str, Any] | None) -> str:
    if result is None:
        return "not run"
    return "yes" if result["outcome"] == "passed" else "**no**"


def main() -> None:
    """Write the page."""
    PAGE.write_text(table(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
