"""The whole of PPO: figures that were recorded once, update by update."""

from __future__ import annotations

import pytest
from support.tiny_online import config, save_prompts, trainer

FIGURES = (
    "reward",
    "kl",
    "policy_loss",
    "value_loss",
    "approx_kl",
    "grad_norm",
    "explained_variance",
)
RECORDED = {
    "head": [
        (-1.35945, 5.96046e-08, 0.0232196, 2.10588, 0.179794, 2.91875, 0.0),
        (-0.497341, 0.679214, -0.00294041, 1.95945, 0.0790539, 2.09543, -0.01985),
        (1.03778, 2.63153, -0.0630769, 4.1946, 0.0136187, 3.39273, -0.0961462),
    ],
    "critic": [
        (-1.35945, 5.96046e-08, 0.0111591, 4.37463, 0.179729, 5.48763, 0.127654),
        (-0.406768, 0.566046, -0.0864916, 1.78227, 0.124067, 3.22355, 0.302075),
        (0.0679052, 2.97526, -0.171232, 1.28009, 0.0158012, 3.20512, 0.356616),
    ],
}


@pytest.mark.parametrize("kind", RECORDED)
def test_the_figures_of_a_run_are_those_that_were_recorded(tmp_path, kind):
    """Any other order of steps, or number, shows here; another machine rounds differently."""
    settings = config(
        value__kind=kind,
        responses_per_prompt=2,
        updates=3,
        epochs=3,
        minibatch_size=4,
        rewards__scaling="running",
        rewards__whiten=True,
        kl__controller="adaptive",
        kl__estimator="k3",
        sampling__temperature=0.7,
    )
    run = trainer(save_prompts(tmp_path / "prompts"), tmp_path / "state", settings).train()
    records = run.journals["metrics"].records()
    for record, recorded in zip(records, RECORDED[kind], strict=True):
        found = tuple(record[name] for name in FIGURES)
        assert found == pytest.approx(recorded, rel=1e-3, abs=1e-5)
