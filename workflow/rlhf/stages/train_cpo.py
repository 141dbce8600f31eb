"""CPO: an SFT policy learns from ranked replies and imitates the better ones."""

from rlhf.algorithms.cpo import CpoLoss
from rlhf.algorithms.replies import RankedObjective
from rlhf.config.cpo import CpoConfig
from rlhf.stages.preference import learn, open_policy
from rlhf.stages.stage import Stage, main
from rlhf.stages.training import begin


def run(stage: Stage) -> None:
    """Train, then publish ``model/`` and ``metrics.jsonl``."""
    threads = begin(stage.deterministic)
    config = stage.read(CpoConfig)
    policy = open_policy(stage, config, threads, "sft")
    objective = RankedObjective(CpoLoss(config), policy.model.shares_prompts)
    learn(stage, config, policy, objective)


if __name__ == "__main__":
    main(run)
