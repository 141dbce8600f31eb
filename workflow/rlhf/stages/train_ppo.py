"""PPO against a reward model, starting from and staying near an SFT checkpoint."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from rlhf.config.training import OptimizerConfig
from rlhf.core.digest import canonical_json
from rlhf.core.files import write_atomic
from rlhf.errors import ServingError
from rlhf.models import devices
from rlhf.models.load import load_token_scorer, load_tokenizer
from rlhf.models.parts import write_tensors
from rlhf.models.reward import load_calibration, load_critic, load_reply_scorer
from rlhf.models.roots import ActorCritic, Critic, ValueHead
from rlhf.models.sampling_check import check_sampling
from rlhf.ppo.prompts import PromptStream
from rlhf.ppo.scoring import LocalScoring, Scoring, TritonScoring
from rlhf.ppo.trainer import PpoTrainer
from rlhf.runtime.deadline import stop_requested
from rlhf.runtime.tls import FOLDER_VARIABLE, Certificates
from rlhf.serving.client import TritonScorer
from rlhf.serving.store import Kind, model_identity
from rlhf.stages.model_needs import check_tokenized
from rlhf.stages.stage import Stage, main
from rlhf.stages.training import (
    begin,
    messages_of,
    mixture,
    publish_model,
    publish_weights,
    tokenizer_facts,
)
from rlhf.training import distributed
from rlhf.training.batches import check_rollouts
from rlhf.training.engine.replicated import Replicated


def run(stage: Stage) -> None:
    """Train, then publish ``model/``, ``value/``, ``metrics.jsonl`` and ``samples.jsonl``."""
    threads = begin()
    config, device = stage.config, devices.own_device()
    check_rollouts("ppo", stage.name, config, distributed.world_size())
    facts = tokenizer_facts(stage, "sft", "reward", "data")
    start, judge = stage.folder("sft") / "model", stage.folder("reward") / "model"
    response = f"ppo.{stage.name}.sampling.max_new_tokens", config["sampling"]["max_new_tokens"]
    for model in (start, judge):
        check_tokenized(stage, model, new=response)
    calibration = load_calibration(judge)

    policy = load_token_scorer(start).to(device)
    check_sampling(policy, start)
    policy.freeze(config["freeze_layers"])
    policy.compute_in(config["precision"])
    value: Critic | ValueHead
    if config["value"]["kind"] == "critic":
        value = load_critic(judge).to(device)
        value.freeze(config["freeze_layers"])
        value.compute_in(config["precision"])
    else:
        value = ValueHead(policy.width).to(device)

    tokenizer = load_tokenizer(start)
    prompts = mixture(stage, "data", "train")
    actor = ActorCritic(policy, value, config["sampling"]["temperature"])
    rates = {
        "policy.": config["optimizer"]["learning_rate"],
        "value.": config["value"]["learning_rate"],
    }
    engine = Replicated(actor, rates, OptimizerConfig.from_slice(config["optimizer"]))
    trainer = PpoTrainer(
        engine,
        policy,
        PromptStream(prompts, config["seed"]),
        _scoring(stage, start, judge),
        calibration,
        tokenizer,
        config,
        stage.run_options(threads),
        stage.micro_batch_tokens,
    )
    finished = trainer.train()

    publish_model(engine, policy, tokenizer, stage.outputs["model"], prefix="policy.")
    publish_weights(engine, "value.", stage.outputs["value"], _write_value)
    finished.publish(metrics=stage.outputs["metrics"])
    if distributed.rank() == 0:
        samples = finished.journals["samples"].records()
        prompts_of = zip(samples, messages_of(stage, samples), strict=True)
        lines = [canonical_json(one | {"prompt": prompt}) for one, prompt in prompts_of]
        write_atomic(stage.outputs["samples"], "".join(f"{line}\n" for line in lines))
        measures = ("reward", "kl", "kl_coefficient", "response_length", "eos_rate")
        stage.finish(
            counts={"prompts": len(prompts), "updates": config["updates"]},
            metrics=finished.last_metrics(*measures),
            facts=facts | {"threads": threads, "processes": distributed.world_size()},
        )
        finished.mark_published()
    distributed.finish()


def _write_value(folder: Path, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
    write_tensors(folder / "model.safetensors", dict(weights))


def _scoring(stage: Stage, start: Path, judge: Path) -> Scoring:
    """In-process models, or clients that have checked that the servers hold the same models."""
    if stage.config["scoring"] == "local":
        device = devices.own_device()
        reward, reference = load_reply_scorer(judge).to(device), load_token_scorer(start).to(device)
        reward.compute_in(stage.config["precision"])
        reference.compute_in(stage.config["precision"])
        return LocalScoring(reward, reference, stage.micro_batch_tokens)
    certificates = Certificates(Path(os.environ.get(FOLDER_VARIABLE, "")))
    clients = {}
    models: dict[Kind, Path] = {"reward": judge, "reference": start}
    for kind, model in models.items():
        endpoint = os.environ.get(f"RLHF_ENDPOINT_{kind.upper()}")
        if not endpoint:
            raise ServingError(
                f"No {kind} server was announced (RLHF_ENDPOINT_{kind.upper()} is not set).",
                where=f"{stage.stage}.{stage.name}",
                hint="start this stage through `rlhf launch --serve …`, or set scoring: local",
            )
        identity = model_identity(kind, model.parent)
        clients[kind] = TritonScorer(endpoint, kind, identity, certificates, ending=stop_requested)
        clients[kind].handshake()
    return TritonScoring(clients["reward"], clients["reference"])


if __name__ == "__main__":
    main(run)
