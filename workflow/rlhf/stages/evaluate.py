"""Base, SFT and trained policy on held-out prompts, scored by one reward model or two."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch

from rlhf.config.evaluation import EvaluationConfig
from rlhf.core.files import write_json
from rlhf.core.seeds import generator
from rlhf.data.enough import require_prompts
from rlhf.data.mixture import Mixture
from rlhf.evaluation.sampling_report import SamplingResult, prompt_text, sampling_report
from rlhf.evaluation.scores import write_scores
from rlhf.evaluation.summary import ModelSamples, summarize
from rlhf.models import devices, inference
from rlhf.models.advantage import AdvantagePolicy, load_heads
from rlhf.models.generate import Response, generate, uniforms
from rlhf.models.load import load_tokenizer
from rlhf.models.reward import load_calibration, with_final_eos
from rlhf.models.roots import ReplyScorer, TokenScorer
from rlhf.models.sampling_check import check_sampling
from rlhf.models.scoring import score, sequence_logprobs
from rlhf.runtime import fence
from rlhf.stages.decoding import decoding_of
from rlhf.stages.model_needs import check_tokenized
from rlhf.stages.stage import Stage, main
from rlhf.stages.training import begin, messages_of, tokenizer_facts
from rlhf.training import finite

logger = logging.getLogger(__name__)

Messages = list[dict[str, str]]  # role and content of each turn


def run(stage: Stage) -> None:
    """Sample, score, compare; write ``evaluation.json``, all scores and the samples."""
    threads = begin()
    config, tokens = stage.read(EvaluationConfig), stage.micro_batch_tokens
    method, _ = config.policy
    earlier = [name for name in ("base", "sft") if stage.inputs.get(name)]
    names = (*earlier, method)  # from the earliest model to the latest
    reference = earlier[-1]  # of the models, the one that the KL is measured from
    scoring = ("reward", "gold") if "gold" in stage.inputs else ("reward",)
    facts = tokenizer_facts(stage, *names, *scoring, "data")
    response = f"evaluation.{stage.name}.max_new_tokens", config.max_new_tokens
    for name in (*names, *scoring):
        check_tokenized(stage, stage.folder(name) / "model", new=response)
    tokenizer = load_tokenizer(stage.folder(method) / "model")
    rows = _held_out(stage, config.max_prompts)
    prompts = [torch.tensor(row["input_ids"]) for row in rows]
    repeats = config.samples_per_prompt
    repeated = [prompt for prompt in prompts for _ in range(repeats)]
    groups = [i for i in range(len(prompts)) for _ in range(repeats)]
    random = generator(config.seed, "evaluation")
    draws = uniforms(random, len(repeated), config.max_new_tokens)

    # One model is in memory at a time; the reference comes last, for it scores the others too.
    eos, decoding = tokenizer.eos_token_id, decoding_of(config, tokenizer)
    responses: dict[str, list[Response]] = {name: [] for name in names}
    referred: dict[str, list[float]] = {}
    for name in sorted(names, key=lambda name: name == reference):
        logger.info("evaluate.%s: %d responses from %s", stage.name, len(repeated), name)
        folder = stage.folder(name) / "model"
        model = inference.token_scorer(folder)
        check_sampling(model, folder)
        if config.ilql is not None and name == method:
            shift = config.advantage
            model = AdvantagePolicy(model, load_heads(folder, model), shift.beta, shift.top_k)
        responses[name] = generate(
            model, repeated, draws, eos, config.temperature, decoding=decoding
        )
        if name == reference:
            others = {other: responses[other] for other in names if other != reference}
            referred = _logprobs(model, repeated, others, config.temperature, tokens)
        del model
        devices.free_memory()
    scores = {}  # key of a reward model → model → its rewards
    for key in scoring:
        folder = stage.folder(key) / "model"
        reward_model = inference.reply_scorer(folder)
        calibration = load_calibration(folder)
        scores[key] = _rewards(reward_model, calibration, repeated, responses, eos, tokens)
        del reward_model
        devices.free_memory()
    rewards, gold = scores["reward"], scores.get("gold", {})
    samples = {}
    for name in names:
        own = [one.logprob for one in responses[name]]
        kl = [p - q for p, q in zip(own, referred.get(name, own), strict=True)]
        rows_repeated = [row for row in rows for _ in range(repeats)]
        parts = {"rewards": rewards[name], "log probabilities": own, "KL from the reference": kl}
        parts |= {"gold rewards": gold[name]} if gold else {}
        finite.check_rows(
            {part: torch.tensor(values) for part, values in parts.items()},
            rows_repeated,
            f"evaluate.{stage.name}, responses of {name}",
            "`rlhf verify` says whether the model's weights are finite",
        )
        samples[name] = ModelSamples(
            rewards=rewards[name],
            lengths=[len(response.ids) for response in responses[name]],
            ended=[response.ended for response in responses[name]],
            kl=kl,
            token_ids=[response.ids.tolist() for response in responses[name]],
            groups=groups,
            gold=gold.get(name),
        )
    fence.check()
    summary = summarize(samples, config.seed)
    write_json(stage.outputs["evaluation"], summary)
    write_scores(stage.outputs["scores"], samples, rows)
    texts = {
        name: [tokenizer.decode(r.ids, skip_special_tokens=True) for r in responses[name]]
        for name in names
    }
    conversations = messages_of(stage, rows)
    write_json(stage.outputs["samples"], _side_by_side(conversations, repeats, texts, rewards))
    write_json(stage.outputs["sampling_report"], _report(config, conversations, repeats, texts))
    stage.finish(
        counts={"prompts": len(prompts), "samples": len(repeated)},
        metrics={
            **{f"{key}_{name}": summary["models"][name][key] for key in scoring for name in names},
            f"{method}_vs_{reference}": summary["comparisons"][f"{method}_vs_{reference}"],
        },
        facts=facts | {"threads": threads} | devices.facts(),
    )


def _held_out(stage: Stage, most: int) -> list[dict[str, Any]]:
    """Held-out prompts, at most ``most``, chosen by hash.

    Raises:
        DataError: there are none.
    """
    folders = {path.parent.name: path.parent / "data" for path in stage.inputs["data"]}
    mixture = Mixture(folders, {}, "validation")
    require_prompts(f"evaluation.{stage.name}", mixture)
    return mixture.by_hash(most)


@torch.no_grad()
def _logprobs(
    scorer: TokenScorer,
    prompts: Sequence[torch.Tensor],
    responses: dict[str, list[Response]],
    temperature: float,
    max_tokens: int,
) -> dict[str, list[float]]:
    """Log probability of each whole response, in nats; all models' share a pass over the prompt."""
    sequences, starts = _joined(prompts, responses)
    found = sequence_logprobs(scorer, sequences, starts, temperature, max_tokens)
    return _by_model(responses, [float(one.double().sum()) for one in found])


@torch.no_grad()
def _rewards(
    reward_model: ReplyScorer,
    calibration: tuple[float, float],
    prompts: Sequence[torch.Tensor],
    responses: dict[str, list[Response]],
    eos_id: int,
    max_tokens: int,
) -> dict[str, list[float]]:
    """Calibrated reward of each model's responses; all models' share a pass over the prompt."""
    mean, std = calibration
    sequences, starts = _joined(prompts, responses)
    ended = [one.ended for found in responses.values() for one in found]
    closed = with_final_eos(sequences, ended, eos_id)
    scores = score(reward_model, closed, max_tokens, starts)
    return _by_model(responses, ((scores - mean) / std).tolist())


def _joined(
    prompts: Sequence[torch.Tensor], responses: dict[str, list[Response]]
) -> tuple[list[torch.Tensor], list[int]]:
    """Each response after its prompt, model by model; and the tokens of each prompt."""
    pairs = [pair for found in responses.values() for pair in zip(prompts, found, strict=True)]
    sequences = [torch.cat([prompt, response.ids]) for prompt, response in pairs]
    return sequences, [len(prompt) for prompt, _ in pairs]


def _by_model(responses: dict[str, list[Response]], values: list[float]) -> dict[str, list[float]]:
    """Values of all responses, each model's apart."""
    rest = iter(values)
    return {name: list(islice(rest, len(found))) for name, found in responses.items()}


def _side_by_side(
    prompts: Sequence[Messages],
    repeats: int,
    texts: dict[str, list[str]],
    rewards: dict[str, list[float]],
) -> list[dict[str, Any]]:
    """The first sample of every prompt, one entry for each model."""
    entries = []
    for i, prompt in enumerate(prompts):
        first = i * repeats
        entry: dict[str, Any] = {"prompt": prompt}
        for name in texts:
            entry[name] = {"text": texts[name][first], "reward": rewards[name][first]}
        entries.append(entry)
    return entries


def _report(
    config: EvaluationConfig,
    prompts: Sequence[Messages],
    repeats: int,
    texts: dict[str, list[str]],
) -> dict[str, Any]:
    """The samples of the trained policy in Open-Assistant's form, with SFT and base beside it."""
    params: dict[str, Any] = {
        "max_new_tokens": config.max_new_tokens,
        "temperature": config.temperature,
        "top_k": config.top_k,
        "top_p": config.top_p,
        "do_sample": True,
    }
    others = {name: getattr(config, name) for name in ("min_p", "min_new_tokens", "stop")}
    params |= {name: value for name, value in others.items() if value}
    entries = []
    for i, prompt in enumerate(prompts):
        results = [
            SamplingResult(name, params, texts[name][i * repeats : (i + 1) * repeats])
            for name in reversed(texts)
        ]
        entries.append((prompt_text(prompt), results))
    return sampling_report(config.policy[1], {"seed": config.seed} | params, entries)


if __name__ == "__main__":
    main(run)
