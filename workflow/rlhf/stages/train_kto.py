"""KTO: an SFT policy learns from single replies that are good or bad."""

import logging

from rlhf.algorithms.kto import KlEstimate, KtoObjective, Mismatches, balance
from rlhf.config.kto import KtoConfig
from rlhf.data.enough import DESIRABLE
from rlhf.stages.preference import learn, open_policy, reference_of
from rlhf.stages.stage import Stage, main
from rlhf.stages.training import begin
from rlhf.training import distributed

logger = logging.getLogger(__name__)

MEASURES = ("validation_loss", "validation_accuracy")


def run(stage: Stage) -> None:
    """Train, then publish ``model/`` and ``metrics.jsonl``."""
    threads = begin(stage.deterministic)
    config = stage.read(KtoConfig)
    policy = open_policy(stage, config, threads, "sft")
    data, held_out, shares = policy.data, policy.held_out, policy.model.shares_prompts
    weighed = balance(data.true_share(DESIRABLE) or 0.0, config)
    warning = _warning(weighed)
    if warning and distributed.rank() == 0:
        logger.warning("kto.%s: %s", stage.name, warning)
    pairs = Mismatches(data, held_out, config)
    reference = reference_of(stage, policy, (data, held_out, pairs))
    tokens = stage.micro_batch_tokens
    learn(
        stage,
        config,
        policy,
        KtoObjective(config, reference, shares),
        reference,
        enrich=KlEstimate(policy.engine, reference, pairs.longest, shares, tokens),
        measures=MEASURES,
        counts={"balance": round(weighed, 6)},
        facts={"warning": warning} if warning else {},
    )


def _warning(weighed: float) -> str | None:
    """What is to be said of how much good replies count for each bad one."""
    if 1 <= weighed <= 4 / 3:
        return None
    return (
        f"good replies count {weighed:.3g} times as much as bad ones, and should 1 to 1.33 times: "
        "change desirable_weight or undesirable_weight"
    )


if __name__ == "__main__":
    main(run)
