"""DPO: an SFT policy learns from ranked replies and stays near where it started."""

from rlhf.algorithms.dpo import DpoLoss
from rlhf.algorithms.replies import RankedObjective
from rlhf.config.dpo import DpoConfig
from rlhf.stages.preference import learn, open_policy, reference_of
from rlhf.stages.stage import Stage, main
from rlhf.stages.training import begin


def run(stage: Stage) -> None:
    """Train, then publish ``model/`` and ``metrics.jsonl``."""
    threads = begin(stage.deterministic)
    config = stage.read(DpoConfig)
    policy = open_policy(stage, config, threads, "sft")
    reference = reference_of(stage, policy, (policy.data, policy.held_out))
    objective = RankedObjective(DpoLoss(config, reference), policy.model.shares_prompts)
    learn(stage, config, policy, objective, reference)


if __name__ == "__main__":
    main(run)
