"""SimPO: an SFT policy learns from ranked replies by their mean log probabilities."""

from rlhf.algorithms.replies import RankedObjective
from rlhf.algorithms.simpo import SimpoLoss
from rlhf.config.simpo import SimpoConfig
from rlhf.stages.preference import learn, open_policy
from rlhf.stages.stage import Stage, main
from rlhf.stages.training import begin


def run(stage: Stage) -> None:
    """Train, then publish ``model/`` and ``metrics.jsonl``."""
    threads = begin(stage.deterministic)
    config = stage.read(SimpoConfig)
    policy = open_policy(stage, config, threads, "sft")
    objective = RankedObjective(SimpoLoss(config), policy.model.shares_prompts)
    learn(stage, config, policy, objective)


if __name__ == "__main__":
    main(run)
