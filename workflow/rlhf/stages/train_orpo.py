"""ORPO: a base or SFT model learns to imitate the better replies and to prefer them."""

from pathlib import Path

from rlhf.algorithms.orpo import OrpoLoss
from rlhf.algorithms.replies import RankedObjective
from rlhf.config.orpo import OrpoConfig
from rlhf.provenance.facts import CANNOT
from rlhf.provenance.manifest import read_manifest
from rlhf.stages.model_needs import check_needs
from rlhf.stages.preference import learn, open_policy
from rlhf.stages.stage import Stage, main
from rlhf.stages.training import begin


def run(stage: Stage) -> None:
    """Train, then publish ``model/`` and ``metrics.jsonl``."""
    threads = begin(stage.deterministic)
    config = stage.read(OrpoConfig)

    def check(start: Path) -> None:
        check_needs(stage, start, read_manifest(stage.input("start"))["facts"].get(CANNOT, {}))

    policy = open_policy(stage, config, threads, "start", check)
    objective = RankedObjective(OrpoLoss(config), policy.model.shares_prompts)
    learn(stage, config, policy, objective)


if __name__ == "__main__":
    main(run)
