"""Proximal policy optimisation of a language model, one update top to bottom.

Schulman et al. 2017 (arXiv 1707.06347) in the form of Stiennon et al. 2020 and of "The N
Implementation Details of RLHF with PPO". Sequences stay unpadded between the phases, sampled ids
are what is trained on, and old log probabilities come from the trainer's own forward pass.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from rlhf.core.seeds import generator
from rlhf.data.batching import batches_by_length
from rlhf.models.generate import generate, uniforms
from rlhf.models.reward import close_sequences
from rlhf.models.roots import TokenScorer
from rlhf.ppo.advantages import gae, whiten
from rlhf.ppo.kl import KlController, kl_estimate
from rlhf.ppo.objective import approximate_kl, policy_loss, value_loss
from rlhf.ppo.prompts import PromptStream
from rlhf.ppo.rewards import RunningScale, leave_one_out, shape_scores, token_rewards
from rlhf.ppo.scoring import Scoring
from rlhf.runtime.options import RunOptions
from rlhf.training import distributed, finite
from rlhf.training.determinism import random_state, restore_random_state, seed_everything
from rlhf.training.engine.protocol import Engine
from rlhf.training.optim import learning_rate_factor
from rlhf.training.run import Run

SAMPLES_KEPT = 4  # texts written to the samples file in each update


@dataclass
class Rollout:
    """Responses of one update on this rank; lists have one entry for each response.

    Attributes:
        rows: rows of the prompts, as `PromptStream` gives them.
        sequences: token ids [P + L], prompt and response.
        starts: P, index of the first response token.
        ended: bool [n], whether the response has its EOS.
        logprobs: [L], log π when sampled.
        values: [L], value of the state before each token.
        reference: [L], log π_ref.
        raw: [n], scores of the reward model.
        scores: [n], scores as PPO uses them.
        advantages: [L], whitened.
        returns: [L].
    """

    rows: list[dict[str, Any]]
    sequences: list[torch.Tensor]
    starts: list[int]
    ended: torch.Tensor
    logprobs: list[torch.Tensor]
    values: list[torch.Tensor]
    reference: list[torch.Tensor]
    raw: torch.Tensor
    scores: torch.Tensor
    advantages: list[torch.Tensor]
    returns: list[torch.Tensor]


class PpoTrainer:
    """One PPO run.

    Args:
        engine: holds policy and value function, an ``ActorCritic``.
        policy: the policy in it, to sample from.
        prompts: the prompts.
        scoring: rewards and reference log probabilities.
        calibration: mean and std of the reward model's raw scores on demonstrations.
        tokenizer: for EOS and for texts in the samples file.
        config: a ``PpoConfig`` as a dict.
        options: saving, naming.
        micro_batch_tokens: padded tokens in one forward and backward pass.

    Raises:
        NumericsError: a weight that the run starts from is not finite.
    """

    def __init__(
        self,
        engine: Engine,
        policy: TokenScorer,
        prompts: PromptStream,
        scoring: Scoring,
        calibration: tuple[float, float],
        tokenizer: Any,
        config: dict[str, Any],
        options: RunOptions,
        micro_batch_tokens: int,
    ) -> None:
        seed_everything(config["seed"])
        self.engine, self.policy, self.prompts, self.scoring = engine, policy, prompts, scoring
        self.calibration, self.tokenizer, self.config = calibration, tokenizer, config
        self.micro_batch_tokens = micro_batch_tokens
        kl = config["kl"]
        adaptive = kl["controller"] == "adaptive"
        self.kl = KlController(kl["coefficient"], adaptive, kl["target"], kl["horizon"])
        self.scale = RunningScale()
        rates = {
            f"{section}.learning_rate": config[section]["learning_rate"]
            for section in ("optimizer", "value")
        }
        self.name, self.advice = options.name, finite.advice(rates, config["precision"])
        self.run = Run(options, config["updates"], self._snapshot, self._restore, engine=engine)
        if self.run.start == 0:
            finite.check_weights(engine.weights(), self._place(-1), finite.START_ADVICE)

    def train(self) -> Run:
        """Run all updates that are left.

        Raises:
            NumericsError: a score, log probability, value, advantage, loss, norm or weight is not
                finite; what was saved before is.
        """
        for update in range(self.run.start, self.config["updates"]):
            rollout = self.roll_out(update)
            record = self._measure(rollout)
            finite.check(record, self._place(update), self.advice)
            self._keep_samples(update, rollout)
            record |= self.optimise(update, rollout)
            self.kl.update(record["kl"], self.config["rollout_batch_size"])
            self.run.record(record | {"step": update + 1}, update + 1)
            note = f"reward {record['reward']:.3f}  KL {record['kl']:.3f}"
            self.run.finish_step(update + 1, record["tokens"], note)
        self.run.close()
        return self.run

    def roll_out(self, update: int) -> Rollout:
        """Sample responses and work out all that the objective needs."""
        config, ranks = self.config, slice(distributed.rank(), None, distributed.world_size())
        count, steps = config["rollout_batch_size"], config["sampling"]["max_new_tokens"]
        temperature = config["sampling"]["temperature"]
        each = config["responses_per_prompt"]
        asked = self.prompts.take(count // each)
        rows = [row for row in asked for _ in range(each)][ranks]
        prompts = [torch.tensor(row["input_ids"]) for row in rows]
        draws = uniforms(generator(config["seed"], "rollout", update), count, steps)[ranks]
        eos = self.tokenizer.eos_token_id
        responses = generate(self.policy, prompts, draws, eos, temperature)

        pairs = zip(prompts, responses, strict=True)
        sequences = [torch.cat([prompt, response.ids]) for prompt, response in pairs]
        starts = [len(prompt) for prompt in prompts]
        ended = torch.tensor([response.ended for response in responses])
        closed = close_sequences(sequences, ended.tolist(), eos)
        raw, reference = self.scoring.both(closed, sequences, starts, temperature)
        logprobs, values = self._evaluate(update, sequences, starts)

        scores = shape_scores(raw, ended, self.calibration, config["rewards"], self.scale)
        estimator = config["kl"]["estimator"]
        worth = scores
        if config["rewards"]["baseline"] == "leave_one_out":
            worth = leave_one_out(scores, each)
        rewards = token_rewards(worth, logprobs, reference, self.kl.coefficient, estimator)
        if config["rewards"]["whiten"]:
            rewards = whiten(rewards, shift_mean=False)
        advantages, returns = gae(rewards, values, config["gamma"], config["lam"])
        white = whiten(advantages)
        # The raw scores too: clipping would let an infinite one pass as a large one.
        parts: dict[str, Iterable[torch.Tensor]] = {
            "reward model's scores": raw, "log probabilities of the policy": logprobs,
            "log probabilities of the reference": reference, "values": values,
            "shaped scores": scores, "rewards with their KL penalty": rewards,
            "returns": returns, "advantages": white,
        }  # fmt: skip
        finite.check_rows(parts, rows, self._place(update), self.advice)
        return Rollout(
            rows, sequences, starts, ended, logprobs, values, reference, raw, scores, white, returns
        )

    def optimise(self, update: int, rollout: Rollout) -> dict[str, float]:
        """Several passes of minibatches over one rollout."""
        config = self.config
        factor, rate = self._rate(update)
        sums: dict[str, float] = defaultdict(float)
        largest, steps = 0.0, 0
        for epoch in range(config["epochs"]):
            for minibatch in self._minibatches(update, epoch, len(rollout.sequences)):
                measured, ratio = self._accumulate(rollout, minibatch)
                finite.check(measured, self._place(update, rate), self.advice)
                norm = self.engine.step(factor)
                finite.check({"grad_norm": norm}, self._place(update, rate), self.advice)
                measured["grad_norm"] = norm
                largest, steps = max(largest, ratio), steps + 1
                for name, value in measured.items():
                    sums[name] += value
            if measured["approx_kl"] > config["max_approx_kl"]:
                break  # the same on every rank: the measures are sums over all of them
        self._check_actor(update, rollout)
        largest = max(distributed.gather([largest]))
        means = {name: value / steps for name, value in sums.items()}
        return means | {"max_ratio": largest, "learning_rate": rate, "optimizer_steps": steps}

    def _accumulate(self, rollout: Rollout, minibatch: list[int]) -> tuple[dict[str, float], float]:
        """Gradients of one minibatch: the mean over all its tokens, on all ranks."""
        config = self.config
        (tokens,) = distributed.total([sum(len(rollout.logprobs[i]) for i in minibatch)])
        names = ("policy_loss", "value_loss", "approx_kl", "clip_fraction", "entropy")
        sums, largest = dict.fromkeys(names, 0.0), 0.0
        groups = self._micro_batches(minibatch, rollout.sequences)
        for number, rows in enumerate(groups, start=1):
            chosen = [rollout.sequences[i] for i in rows]
            begins = [rollout.starts[i] for i in rows]
            logprobs, predicted, entropy = self.engine(chosen, begins, with_entropy=True)
            old, values, advantages, returns = (
                torch.cat([part[i] for i in rows]).to(logprobs.device)
                for part in (
                    rollout.logprobs, rollout.values, rollout.advantages, rollout.returns
                )
            )  # fmt: skip
            policy, clipped = policy_loss(logprobs, old, advantages, config["clip"])
            value = value_loss(predicted, values, returns, config["value"]["clip"])
            loss = policy.sum() + config["value"]["coefficient"] * value.sum()
            self.engine.backward(loss / tokens, last=number == len(groups))
            with torch.no_grad():
                parts = (policy, value, approximate_kl(logprobs, old), clipped.float())
                for name, part in zip(names, (*parts, entropy), strict=True):
                    sums[name] += float(part.sum())
                largest = max(largest, float((logprobs - old).exp().max()))
        totals = distributed.total([sums[name] for name in names])
        return {name: value / tokens for name, value in zip(names, totals, strict=True)}, largest

    @torch.no_grad()
    def _evaluate(
        self, update: int, sequences: list[torch.Tensor], starts: list[int]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Old log probabilities and values, by the very forward passes of the first epoch.

        The same rows share a forward pass as in training, so before the first optimizer step the
        probability ratio is exactly 1.
        """
        logprobs: list[torch.Tensor] = [torch.empty(0)] * len(sequences)
        values: list[torch.Tensor] = [torch.empty(0)] * len(sequences)
        for minibatch in self._minibatches(update, 0, len(sequences)):
            for rows in self._micro_batches(minibatch, sequences):
                chosen, begins = [sequences[i] for i in rows], [starts[i] for i in rows]
                policy, value, _ = self.engine(chosen, begins)
                sizes = [len(s) - b for s, b in zip(chosen, begins, strict=True)]
                parts = zip(policy.cpu().split(sizes), value.cpu().split(sizes), strict=True)
                for i, (logprob, value) in zip(rows, parts, strict=True):
                    logprobs[i], values[i] = logprob, value
        return logprobs, values

    @torch.no_grad()
    def _check_actor(self, update: int, rollout: Rollout) -> None:
        """Refuse weights that are not finite, and last ones that give no finite answer."""
        place = self._place(update)
        finite.check_weights(self.engine.parts(), place, self.advice)
        if update + 1 == self.config["updates"]:  # no rollout will show it any more
            logprobs, values, _ = self.engine(rollout.sequences[:1], rollout.starts[:1])
            parts = {"log probabilities of the policy": logprobs, "values": values}
            after = {f"{name} after it": [part] for name, part in parts.items()}
            finite.check_rows(after, rollout.rows, place, self.advice)

    def _minibatches(self, update: int, epoch: int, rows: int) -> list[list[int]]:
        """This rank's rows in shuffled minibatches; shuffled anew in every epoch.

        The ranks' shuffled rows are dealt out in turn, so a minibatch has exactly its size over
        all ranks, and equal shares of them as far as that is possible.
        """
        config, rank, ranks = self.config, distributed.rank(), distributed.world_size()
        size = config["minibatch_size"]
        prompts = self._by_prompt(range(rows))
        shuffle = generator(config["seed"], "minibatches", update, epoch, rank)
        order = [row for i in shuffle.permutation(len(prompts)) for row in prompts[i]]
        parts: list[list[int]] = [[] for _ in range(config["rollout_batch_size"] // size)]
        for place, row in enumerate(order):
            parts[(place * ranks + rank) // size].append(row)
        return parts

    def _by_prompt(self, rows: Iterable[int]) -> list[list[int]]:
        """This rank's rows, those with one prompt together."""
        rank, ranks, each = (
            distributed.rank(), distributed.world_size(), self.config["responses_per_prompt"]
        )  # fmt: skip
        found: dict[int, list[int]] = defaultdict(list)
        for row in rows:
            found[(row * ranks + rank) // each].append(row)
        return list(found.values())

    def _micro_batches(self, rows: list[int], sequences: list[torch.Tensor]) -> list[list[int]]:
        """Rows that share a forward pass: those with one prompt together, where they fit."""
        lengths, most = [len(s) for s in sequences], self.micro_batch_tokens
        parts = [
            part
            for own in self._by_prompt(sorted(rows))
            for part in batches_by_length(lengths, most, indices=own)
        ]
        costs = [len(part) * max(lengths[i] for i in part) for part in parts]
        together = batches_by_length(costs, most)
        return [[i for place in places for i in parts[place]] for places in together]

    def _measure(self, rollout: Rollout) -> dict[str, Any]:
        """Figures of a rollout, over all ranks."""
        estimates = [
            float(kl_estimate(policy, ref).sum())
            for policy, ref in zip(rollout.logprobs, rollout.reference, strict=True)
        ]
        mean, std = self.calibration
        sums = {
            "reward": float(((rollout.raw - mean) / std).sum()),
            "raw_score": float(rollout.raw.sum()),
            "shaped_score": float(rollout.scores.sum()),
            "kl": sum(estimates),
            "response_length": float(sum(map(len, rollout.logprobs))),
            "eos_rate": float(rollout.ended.sum()),
        }
        returns, values = torch.cat(rollout.returns).double(), torch.cat(rollout.values).double()
        count, tokens, r, r2, e, e2, *totals = distributed.total(
            [
                len(estimates), sum(map(len, rollout.sequences)),
                float(returns.sum()), float((returns**2).sum()),
                float((returns - values).sum()), float(((returns - values) ** 2).sum()),
                *sums.values(),
            ]
        )  # fmt: skip
        n = totals[list(sums).index("response_length")]  # response tokens
        variance, unexplained = r2 / n - (r / n) ** 2, e2 / n - (e / n) ** 2
        record: dict[str, Any] = {
            name: value / count for name, value in zip(sums, totals, strict=True)
        }
        return record | {
            "kl_coefficient": self.kl.coefficient,
            "explained_variance": 1 - unexplained / variance if variance > 0 else 0.0,
            "episodes": int(count),
            "tokens": int(tokens),
        }

    def _keep_samples(self, update: int, rollout: Rollout) -> None:
        mean, std = self.calibration
        for i in range(min(SAMPLES_KEPT, len(rollout.sequences))):
            row, response = rollout.rows[i], rollout.sequences[i][rollout.starts[i] :]
            self.run.sample(
                {
                    "step": update + 1,
                    "dataset": row["dataset"],
                    "id": row["id"],
                    "response": self.tokenizer.decode(response, skip_special_tokens=True),
                    "ended": bool(rollout.ended[i]),
                    "reward": (float(rollout.raw[i]) - mean) / std,
                    "kl": float((rollout.logprobs[i] - rollout.reference[i]).sum()),
                }
            )

    def _rate(self, update: int) -> tuple[float, float]:
        """Factor and the policy's learning rate of an update."""
        settings = self.config["optimizer"]
        factor = learning_rate_factor(
            update, self.config["updates"], settings["schedule"], settings["warmup"]
        )
        return factor, settings["learning_rate"] * factor

    def _place(self, update: int, rate: float | None = None) -> str:
        """Where the run is, for errors; the learning rate is the last one used if none is given."""
        if rate is None and update >= 0:
            _, rate = self._rate(update)
        return finite.place(self.name, update + 1, rate, "update")

    def _snapshot(self) -> dict[str, Any]:
        return {
            "random": random_state(),
            "kl_coefficient": self.kl.coefficient,
            "scale": self.scale.state(),
            "prompts": self.prompts.state(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        restore_random_state(state["random"])
        self.kl.coefficient = state["kl_coefficient"]
        self.scale.load(state["scale"])
        self.prompts.load(state["prompts"])
