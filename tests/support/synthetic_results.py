"""A small results folder, as a finished run would leave it."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from rlhf.core.digest import digest_file
from rlhf.evaluation.agreement import ScoredRow, tables
from rlhf.evaluation.statistics import calibration_curve
from rlhf.provenance.manifest import Manifest

HOSTILE = "<script>alert('x')</script> & <img src=x onerror=alert(1)>"


class Results:
    """Writes artifacts below ``root`` that name each other as parents."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(
        self,
        stage: str,
        name: str,
        parents: dict[str, Path] | None = None,
        metrics: list[dict[str, Any]] | None = None,
        files: dict[str, Any] | None = None,
        seconds: float = 60.0,
        **fields: Any,
    ) -> Path:
        folder = self.root / stage / name
        folder.mkdir(parents=True)
        if metrics:
            lines = "".join(json.dumps(row) + "\n" for row in metrics)
            (folder / "metrics.jsonl").write_text(lines)
        for file, value in (files or {}).items():
            (folder / file).write_text(json.dumps(value))
        digests = {role: digest_file(path) for role, path in (parents or {}).items()}
        config = fields.pop("config", {"seed": 17})
        manifest = Manifest(stage, name, config, "c0de" * 16, "", digests, **fields)
        manifest.write(folder, sorted(folder.iterdir()), 0.0)
        run = json.loads((folder / "run.json").read_text()) | {"seconds": seconds}
        (folder / "run.json").write_text(json.dumps(run))
        return folder / "manifest.json"


def full_run(results: Results, steps: int = 120) -> dict[str, list[Path]]:
    """A whole pipeline; returns the report's inputs."""
    rng = random.Random(5)
    model = results.add("models", "pythia-160m", seconds=41)
    data = results.add(
        "datasets",
        "helpful",
        seconds=95,
        counts={"rows": {"train": 43_835, "validation": 2_354}, "dropped": 12},
    )
    tokenized = {
        view: results.add(
            f"tokenized-{view}",
            "helpful",
            {"model": model, "data": data},
            counts={"rows": 43_823, "tokens": 9_301_221, "truncated": 181},
            seconds=33.0,
        )
        for view in ("conversation", "preference", "prompt")
    }
    sft = results.add(
        "sft",
        "chat",
        {"model": model, "data": tokenized["conversation"]},
        [
            {
                "step": s,
                "epoch": s / steps,
                "loss": 2.1 + 1.4 * math.exp(-s / 25) + rng.gauss(0, 0.06),
                "learning_rate": 1e-5 * (1 - s / steps),
                "tokens": 4096 * s,
                "grad_norm": 1 + rng.random(),
            }
            for s in range(1, steps + 1)
        ]
        + [
            {"step": s, "validation_loss": 2.2 + 1.3 * math.exp(-s / 25)}
            for s in range(20, steps + 1, 20)
        ],
        seconds=1860,
        counts={"rows": 43_823, "tokens": 9_301_221},
        config={"learning_rate": 1e-5, "epochs": 1, "batch": {"rows": 64}},
    )
    reward = results.add(
        "reward",
        "helpful",
        {"model": sft, "data": tokenized["preference"]},
        [
            {
                "step": s,
                "epoch": s / steps,
                "loss": 0.69 - 0.15 * s / steps + rng.gauss(0, 0.03),
                "accuracy": 0.5 + 0.2 * s / steps + rng.gauss(0, 0.03),
                "learning_rate": 1e-6,
                "grad_norm": 1,
            }
            for s in range(1, steps + 1)
        ]
        + [
            {
                "step": s,
                "validation_loss": 0.7 - 0.14 * s / steps,
                "validation_accuracy": 0.5 + 0.19 * s / steps,
                "validation_kendall_tau": 0.38 * s / steps,
            }
            for s in range(20, steps + 1, 20)
        ],
        {
            "evaluation.json": {
                "calibration": calibration_curve([rng.gauss(0.8, 1.3) for _ in range(2000)]),
                "agreement": tables(
                    [
                        ScoredRow("helpful", [rng.gauss(0.8, 1.3), 0.0], [i % 9, 4])
                        for i in range(90)
                    ]
                ),
            }
        },
        seconds=2950,
        counts={"rows": 43_823, "truncated": 44},
    )
    stores = {
        "reward": results.add("store-reward", "helpful", {"model": reward}, seconds=12),
        "reference": results.add("store-reference", "chat", {"model": sft}, seconds=11),
    }
    ppo = results.add(
        "ppo",
        "final",
        {"model": sft, "data": tokenized["prompt"], **stores},
        [
            {
                "step": s,
                "reward": 1.4 * (1 - math.exp(-s / 50)) + rng.gauss(0, 0.1),
                "raw_score": s / 100,
                "kl": 8 * s / steps + rng.random(),
                "kl_coefficient": 0.05 + 0.0002 * s,
                "response_length": 90 + 0.3 * s + rng.gauss(0, 4),
                "eos_rate": 0.8 + 0.1 * s / steps,
                "entropy": 2.4 - 0.004 * s + rng.gauss(0, 0.03),
                "approx_kl": 0.01,
                "clip_fraction": 0.05 + rng.random() / 20,
                "max_ratio": 1.4,
                "value_loss": 0.6 * math.exp(-s / 40) + 0.1 * rng.random(),
                "policy_loss": -0.01,
                "explained_variance": 1 - math.exp(-s / 30) - 0.1 * rng.random(),
                "learning_rate": 1e-6,
                "episodes": 64 * s,
            }
            for s in range(1, steps + 1)
        ],
        seconds=15_300,
        counts={"episodes": 64 * steps, "tokens": 812_331},
        config={"kl": {"coefficient": 0.05, "target": 6.0}, "steps": steps},
    )

    def model_figures(mean: float, kl: float) -> dict[str, Any]:
        return {
            "reward": {"mean": mean, "low": mean - 0.09, "high": mean + 0.08},
            "kl": kl,
            "response_length": 101.2,
            "eos_rate": 0.913,
            "repetition": 0.041,
            "prompts": 256,
            "samples": 512,
        }

    def comparison(rate: float, difference: float) -> dict[str, Any]:
        return {
            "win_rate": {"mean": rate, "low": rate - 0.04, "high": rate + 0.04},
            "reward_difference": {
                "mean": difference,
                "low": difference - 0.1,
                "high": difference + 0.1,
            },
        }

    evaluation = results.add(
        "evaluation",
        "final",
        {"base": model, "sft": sft, "ppo": ppo},
        files={
            "evaluation.json": {
                "models": {
                    "base": model_figures(-1.31, 4.2),
                    "sft": model_figures(0.012, 0.0),
                    "ppo": model_figures(1.274, 7.93),
                },
                "comparisons": {
                    "ppo_vs_sft": comparison(0.807, 1.26),
                    "ppo_vs_base": comparison(0.941, 2.58),
                    "sft_vs_base": comparison(0.822, 1.32),
                },
            },
            "samples.json": [
                {
                    "prompt": [
                        {"role": "user", "content": f"{HOSTILE} Why is the sky blue? ({i})"},
                        {"role": "assistant", "content": "Do you want the short answer?"},
                        {"role": "user", "content": "Yes, in two sentences, please."},
                    ],
                    "base": {
                        "text": "The sky is blue. The sky is blue. The sky is",
                        "reward": -1.7,
                    },
                    "sft": {
                        "text": "Because air scatters light.\n\nBlue most of all.",
                        "reward": 0.2,
                    },
                    "ppo": {
                        "text": "Sunlight is scattered by the air's molecules, and short waves far "
                        f"more than long ones. So blue reaches you from everywhere. {HOSTILE}",
                        "reward": 1.9,
                    },
                }
                for i in range(6)
            ],
        },
        seconds=610,
        counts={"prompts": 256, "samples": 1536},
    )
    return {"evaluation": [evaluation], "ppo": [ppo], "reward": [reward], "sft": [sft]}
