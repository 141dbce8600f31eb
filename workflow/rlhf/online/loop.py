"""The loop of on-policy methods: roll out, reward, optimise, update after update.

What one method does differently is in its ``Algorithm``. Sequences stay unpadded between the
phases, sampled ids are what is trained on, and old log probabilities come from the trainer's own
forward pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch

from rlhf.core.seeds import generator
from rlhf.models import devices
from rlhf.online import mismatch
from rlhf.online.algorithm import ActorOutput, Algorithm, Batch, Experience, Mixed
from rlhf.online.dynamic_sampling import draw_groups
from rlhf.online.kl import kl_estimate
from rlhf.online.loss_weights import loss_weights
from rlhf.online.minibatches import micro_batches_by_prompt, minibatches, places_of
from rlhf.online.prompts import PromptStream
from rlhf.online.reference import Reference
from rlhf.online.rewards import RewardShaping
from rlhf.online.rollout import Rollout
from rlhf.online.sampler import Noise, Sampler
from rlhf.online.scoring import Scoring
from rlhf.online.terms import RewardSum, Scores
from rlhf.runtime.options import RunOptions
from rlhf.training import distributed, finite
from rlhf.training.determinism import random_state, restore_random_state, seed_everything
from rlhf.training.engine.protocol import Engine
from rlhf.training.optim import learning_rate_factor
from rlhf.training.rounds import Round, equal_rounds
from rlhf.training.run import TrainingRun
from rlhf.training.sums import Sums

if TYPE_CHECKING:
    from rlhf.config.online import OnlineConfig

SAMPLES_KEPT = 4  # texts written to the samples file in each update


class OnlineTrainer:
    """One run of an on-policy method.

    Args:
        algorithm: advantages and loss.
        engine: holds what is trained, an ``Actor`` or ``ActorCritic``.
        sampler: samples from the policy in it.
        reward: scores responses.
        reference: what the KL penalty holds the policy to.
        prompts: the prompts.
        tokenizer: for texts in the samples file.
        config: the run's configuration.
        options: saving, naming.
        micro_batch_tokens: padded tokens in one forward and backward pass.
        mixed: what is learned beside the rollouts.

    Raises:
        NumericsError: a weight that the run starts from is not finite.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        engine: Engine,
        sampler: Sampler,
        reward: RewardSum,
        reference: Reference,
        prompts: PromptStream,
        tokenizer: Any,
        config: OnlineConfig,
        options: RunOptions,
        micro_batch_tokens: int,
        mixed: Mixed | None = None,
    ) -> None:
        seed_everything(config.seed)
        self.algorithm, self.engine, self.sampler = algorithm, engine, sampler
        self.scoring = Scoring(reward, reference)
        self.prompts, self.shaping = prompts, RewardShaping(config, reward.calibration)
        self.tokenizer, self.config = tokenizer, config
        self.micro_batch_tokens, self.mixed = micro_batch_tokens, mixed
        self.name = options.name
        self.advice = finite.advice(config.learning_rates, config.precision)
        if config.ema:
            engine.keep_average(config.ema.decay, "policy.")
        self.run = TrainingRun(
            options, config.updates, self._snapshot, self._restore, engine=engine
        )
        if self.run.start == 0:
            finite.check_weights(engine.weights(), self._place(-1), finite.START_ADVICE)

    def train(self) -> TrainingRun:
        """Run all updates that are left.

        In the end the engine has the weights to publish: averaged if the run keeps an average.

        Raises:
            NumericsError: a score, log probability, value, advantage, loss, norm or weight is not
                finite; what was saved before is.
        """
        for update in range(self.run.start, self.config.updates):
            experience = self.experience(update, self.roll_out(update))
            measures = self._measure(experience)
            finite.check(measures, self._place(update), self.advice)
            if self.config.sampling.compared:
                self._check_sampler(update, measures)
            self._keep_samples(update, experience)
            with self.run.performance.phase("optimise"):
                measures |= self.optimise(update, experience)
            self.shaping.kl.update(measures["kl"], self.config.rollout_batch_size)
            self.run.record(measures | {"step": update + 1}, update + 1)
            note = f"reward {measures['reward']:.3f}  KL {measures['kl']:.3f}"
            minibatches = self.config.rollout_batch_size // self.config.minibatch_size
            epochs = measures["optimizer_steps"] / minibatches
            tokens, replaced = measures["tokens"], experience.rollout.replaced
            trained = (tokens - (replaced.tokens if replaced else 0)) * epochs
            self.run.finish_step(update + 1, tokens, note, trained=round(trained))
        self.run.close()
        self.engine.swap_average()
        return self.run

    def roll_out(self, update: int) -> Rollout:
        """Sample k responses to each of this rank's prompts; old log probabilities and values."""
        config, k = self.config, self.config.responses_per_prompt
        prompts, rounds = config.rollout_batch_size // k, config.dynamic_sampling.max_rounds
        draw = partial(self._draw, update)
        scores: Scores | None = None
        if rounds > 1:
            rollout, scores = draw_groups(draw, self._score, prompts, k, rounds)
        else:
            rollout = draw(range(prompts))
        self.scoring.begin(rollout, scores)
        with self.run.performance.phase("old_logprobs"):
            logprobs, values = self._evaluate(
                update, rollout.sequences, rollout.starts, rollout.lengths
            )
        return replace(rollout, logprobs=logprobs, values=values)

    def _draw(self, update: int, groups: Sequence[int], number: int = 0) -> Rollout:
        """This rank's responses to the next prompts.

        Args:
            update: from 0.
            groups: places in the global batch of the prompts' groups, on all ranks.
            number: of the round of sampling.
        """
        config, k = self.config, self.config.responses_per_prompt
        examples = dict(zip(groups, self.prompts.take(len(groups)), strict=True))
        places = [place for place in self._places(distributed.rank()) if place // k in examples]
        own = [examples[place // k] for place in places]
        prompts = [torch.tensor(example["input_ids"]) for example in own]  # n × [P_i]
        random = generator(config.seed, "rollout", update, *([number] if number else []))
        noise = Noise(random, config.rollout_batch_size, places)
        with self.run.performance.phase("sampling"):
            self.sampler.refresh(self.engine.weights())
            responses = self.sampler.sample(prompts, noise)
        return Rollout.drawn(own, prompts, responses)

    def _score(self, rollout: Rollout) -> tuple[Scores, torch.Tensor]:
        """What the reward says, and penalties [n] for ends and lengths."""
        with self.run.performance.phase("scoring"):
            return self.scoring.score(rollout), self.shaping.penalties(rollout)

    def experience(self, update: int, rollout: Rollout) -> Experience:
        """Scores, rewards and advantages of a rollout."""
        with self.run.performance.phase("scoring"):
            found, reference = self.scoring.finish(rollout)
        raw_scores = found.raw
        scores, rewards = self.shaping(raw_scores, rollout, reference, found.tokens)
        credit = self.algorithm.advantages(rollout, rewards)
        # The raw scores too: clipping would let an infinite one pass as a large one.
        parts: dict[str, Iterable[torch.Tensor]] = {
            "reward model's scores": raw_scores,
            "log probabilities of the policy": rollout.logprobs,
            "log probabilities of the reference": reference,
            "values": rollout.values,
            "shaped scores": scores,
            "rewards with their KL penalty": rewards,
            "returns": credit.returns,
            "advantages": credit.advantages,
        }
        finite.check_rows(parts, rollout.examples, self._place(update), self.advice)
        importance = mismatch.importance_weights(rollout, self.config.sampling.importance_cap)
        coefficient, weights = self.shaping.kl.coefficient, loss_weights(rollout, self.config)
        return Experience(
            rollout,
            reference,
            raw_scores,
            scores,
            credit,
            importance,
            coefficient,
            weights,
            found.of_tokens,
            found.terms,
        )

    def optimise(self, update: int, experience: Experience) -> dict[str, float]:
        """Several passes of minibatches over one rollout; means of their measures."""
        factor, rate = self._rate(update)
        only = "value." if update < self.config.value_updates else ""
        sums, norms, steps, max_ratio = Sums(), list[float](), 0, 0.0
        for epoch in range(self.config.epochs):
            for rounds in self._rounds(update, epoch, experience.rollout.lengths):
                beside = self.mixed.accumulate(self.engine) if self.mixed and not only else {}
                measures, ratio = self._accumulate(experience, rounds)
                measures |= beside
                finite.check(measures, self._place(update, rate), self.advice)
                norm = self.engine.step(factor, only)
                place = self._place(update, rate)
                if finite.check_norm(norm, self.engine.loss_scale, place, self.advice):
                    norms.append(norm)
                sums.add(measures)
                steps, max_ratio = steps + 1, max(max_ratio, ratio)
            if measures["approx_kl"] > self.config.max_approx_kl:
                break
        self._check_actor(update, experience.rollout)
        max_ratio = max(distributed.gather([max_ratio]))
        scale = self.engine.loss_scale
        return (
            sums.means(steps)
            | ({"grad_norm": sum(norms) / len(norms)} if norms else {})
            | {"max_ratio": max_ratio, "learning_rate": rate, "optimizer_steps": steps}
            | (scale.figures() if scale else {})
        )

    def _places(self, rank: int) -> list[int]:
        """Places of a rank's responses in the global batch."""
        k = self.config.responses_per_prompt
        prompts = self.config.rollout_batch_size // k
        return places_of(prompts, k, rank, distributed.world_size())

    def _minibatches(self, update: int, epoch: int, rank: int) -> list[list[int]]:
        """A rank's responses in minibatches, shuffled anew in every epoch."""
        config = self.config
        count = config.rollout_batch_size // config.minibatch_size
        random = generator(config.seed, "minibatches", update, epoch, rank)
        k, size = config.responses_per_prompt, config.minibatch_size
        return minibatches(self._places(rank), k, size, count, random)

    def _rounds(self, update: int, epoch: int, lengths: list[list[int]]) -> list[list[Round]]:
        """This rank's rounds in each minibatch of an epoch, as many as the other ranks'.

        Args:
            update: from 0.
            epoch: from 0.
            lengths: rank → tokens of each of its sequences.
        """
        k, tokens = self.config.responses_per_prompt, self.micro_batch_tokens
        micro_batches = [  # rank → minibatch → its micro-batches
            [
                micro_batches_by_prompt(minibatch, known, k, tokens)
                for minibatch in self._minibatches(update, epoch, rank)
            ]
            for rank, known in enumerate(lengths)
        ]
        shapes = [[(1, length) for length in known] for known in lengths]
        own = distributed.rank()
        return [equal_rounds(each, shapes)[own] for each in zip(*micro_batches, strict=True)]

    @torch.no_grad()
    def _evaluate(
        self,
        update: int,
        sequences: list[torch.Tensor],
        starts: list[int],
        lengths: list[list[int]],
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Old log probabilities and values n × [L_i], by the rounds of the first epoch.

        The same responses share a forward pass as in training, so before the first optimizer step
        the probability ratio is exactly 1.
        """
        order: list[int] = []
        logprobs: list[torch.Tensor] = []
        values: list[torch.Tensor] = []
        for each in chain.from_iterable(self._rounds(update, 0, lengths)):
            output = self._act(sequences, starts, each.rows)
            if not each.counts:
                continue
            sizes = [len(sequences[i]) - starts[i] for i in each.rows]
            order += each.rows
            logprobs += output.logprobs.split(sizes)
            if len(output.values):
                values += output.values.split(sizes)

        def in_order(parts: list[torch.Tensor]) -> list[torch.Tensor]:
            known = dict(zip(order, devices.fetched(parts), strict=False))
            return [known.get(i, torch.empty(0)) for i in range(len(sequences))]

        return in_order(logprobs), in_order(values)

    def _accumulate(
        self, experience: Experience, rounds: list[Round]
    ) -> tuple[dict[str, float], float]:
        """Gradients of one minibatch: the mean over all its tokens, on all ranks.

        Returns:
            Means of the measures over these tokens; this rank's largest probability ratio.
        """
        rollout = experience.rollout
        rows = [i for each in rounds if each.counts for i in each.rows]
        tokens, counted = distributed.total(
            [
                sum(len(rollout.logprobs[i]) for i in rows),
                sum(experience.weights.counts[i] for i in rows),
            ]
        )
        scale = tokens / counted if counted else 0.0
        sums, ratios = Sums(), []
        for each in rounds:
            output = self._act(
                rollout.sequences,
                rollout.starts,
                each.rows,
                with_entropy=True,
                entropy_gradient=self.config.loss.entropy_coefficient > 0,
            )
            batch = Batch.of(experience, each.rows, output, scale)
            loss, measures = self.algorithm.loss(batch)
            self.engine.backward(each.weight * loss / tokens, last=each is rounds[-1])
            sums.add(measures | {"entropy": output.entropy.detach().sum()}, each.counts)
            if each.counts:
                ratio = (output.logprobs.detach() - batch.logprobs).exp()  # [N]
                ratios.append(ratio.max())
        largest = torch.stack(ratios).tolist() if ratios else []
        return sums.over_ranks().means(tokens), max([0.0, *largest])

    def _check_sampler(self, update: int, measures: dict[str, float]) -> None:
        """Refuse to learn from responses that are not the policy's."""
        key = f"{self.name}.sampling.max_mismatch"
        bound = self.config.sampling.max_mismatch
        mismatch.check(measures, bound, self._place(update), key)

    @torch.no_grad()
    def _check_actor(self, update: int, rollout: Rollout) -> None:
        """Refuse weights that are not finite, and last ones that give no finite answer."""
        place = self._place(update)
        finite.check_weights(self.engine.parts(), place, self.advice)
        if update + 1 == self.config.updates:  # no rollout will show it any more
            output = self._act(rollout.sequences, rollout.starts, [0])
            parts = {"log probabilities of the policy": output.logprobs, "values": output.values}
            after = {f"{name} after it": [part] for name, part in parts.items()}
            finite.check_rows(after, rollout.examples, place, self.advice)

    def _act(
        self,
        sequences: Sequence[torch.Tensor],
        starts: Sequence[int],
        indices: Sequence[int],
        with_entropy: bool = False,
        entropy_gradient: bool = False,
    ) -> ActorOutput:
        """The output of what is trained on some of the responses."""
        output = self.engine(
            [sequences[i] for i in indices],
            [starts[i] for i in indices],
            with_entropy=with_entropy,
            entropy_gradient=entropy_gradient,
        )
        return ActorOutput(*output)

    def _measure(self, experience: Experience) -> dict[str, Any]:
        """Figures of a rollout, over all ranks."""
        rollout, reference = experience.rollout, experience.reference
        pairs = zip(rollout.logprobs, reference, strict=True)
        kl = sum(float(kl_estimate(policy, ref).sum()) for policy, ref in pairs)
        sums = Sums()
        rewards = self._rewards(experience, experience.raw_scores)
        sums.add(
            {
                "reward": rewards.sum(),
                "raw_score": experience.raw_scores.sum(),
                "shaped_score": experience.scores.sum(),
                "kl": kl,
                "response_length": sum(map(len, rollout.logprobs)),
                "eos_rate": rollout.ended.sum(),
            }
            | {f"reward_{name}": scores.sum() for name, scores in experience.terms.items()}
        )
        tokens = sum(map(len, rollout.sequences))
        episodes, tokens = map(int, distributed.total([len(rollout), tokens]))
        record = sums.over_ranks().means(episodes) | {
            "kl_coefficient": self.shaping.kl.coefficient,
            "episodes": episodes,
            "tokens": tokens,
        }
        returns = torch.cat(experience.credit.returns)  # [N], or [0] without a value function
        if len(returns):
            record["explained_variance"] = _explained_variance(returns, torch.cat(rollout.values))
        if rollout.replaced:
            replaced, k = rollout.replaced, self.config.responses_per_prompt
            record |= {
                "sampling_rounds": replaced.rounds,
                "replaced_prompts": replaced.groups,
                "equal_prompts": replaced.equal,
            }
            record["episodes"] += replaced.groups * k
            record["tokens"] += replaced.tokens
        if self.config.sampling.compared:
            cap = self.config.sampling.importance_cap
            record |= mismatch.measure(rollout, experience.importance, cap)
        return record

    def _rewards(self, experience: Experience, raw_scores: torch.Tensor) -> torch.Tensor:
        """Calibrated rewards [n] of whole responses, with those of their tokens."""
        calibrated = self.shaping.calibrated(raw_scores)
        tokens = experience.token_rewards
        return calibrated if tokens is None else calibrated + tokens

    def _keep_samples(self, update: int, experience: Experience) -> None:
        rollout = experience.rollout
        rewards = self._rewards(experience, experience.raw_scores.double())  # [n]
        for i in range(min(SAMPLES_KEPT, len(rollout))):
            response = rollout.sequences[i][rollout.starts[i] :]
            self.run.sample(
                {
                    "step": update + 1,
                    "dataset": rollout.examples[i]["dataset"],
                    "id": rollout.examples[i]["id"],
                    "response": self.tokenizer.decode(response, skip_special_tokens=True),
                    "ended": bool(rollout.ended[i]),
                    "reward": float(rewards[i]),
                    "kl": float((rollout.logprobs[i] - experience.reference[i]).sum()),
                }
            )

    def _rate(self, update: int) -> tuple[float, float]:
        """Factor and the policy's learning rate of an update."""
        config, settings = self.config, self.config.optimizer
        factor = learning_rate_factor(update, config.updates, settings.schedule, settings.warmup)
        return factor, settings.learning_rate * factor

    def _place(self, update: int, rate: float | None = None) -> str:
        """Where the run is, for errors; the learning rate is the last one used if none is given."""
        if rate is None and update >= 0:
            _, rate = self._rate(update)
        return finite.place(self.name, update + 1, rate, "update")

    def _snapshot(self) -> dict[str, Any]:
        return {
            "random": random_state(),
            "shaping": self.shaping.state(),
            "prompts": self.prompts.state(),
            **({"mixed": self.mixed.state()} if self.mixed else {}),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        restore_random_state(state["random"])
        self.shaping.load(state["shaping"])
        self.prompts.load(state["prompts"])
        if self.mixed:
            self.mixed.load(state["mixed"])


def _explained_variance(returns: torch.Tensor, values: torch.Tensor) -> float:
    """Share of the variance of the returns [N] that the values [N] explain, over all ranks."""
    returns, error = returns.double(), returns.double() - values.double()
    n, r, r2, e, e2 = distributed.total(
        [
            len(returns),
            float(returns.sum()),
            float((returns**2).sum()),
            float(error.sum()),
            float((error**2).sum()),
        ]
    )
    variance, unexplained = r2 / n - (r / n) ** 2, e2 / n - (e / n) ** 2
    return 1 - unexplained / variance if variance > 0 else 0.0
