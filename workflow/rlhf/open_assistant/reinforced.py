"""trainer_rl: one run of ``ppo``, with an evaluation and a report."""

from __future__ import annotations

from typing import Any

from rlhf.config.ppo import PpoConfig
from rlhf.errors import ConfigError
from rlhf.open_assistant.datasets import Mixture
from rlhf.open_assistant.dispositions import Read, Settings, read_settings
from rlhf.open_assistant.request import Draft, Request, batches
from rlhf.open_assistant.settings import (
    TRAINERS,
    RlModelSettings,
    RlSettings,
    TrlxAdam,
    TrlxCosine,
    TrlxMethod,
    TrlxModel,
    TrlxOptimizer,
    TrlxSampling,
    TrlxScheduler,
    TrlxTokenizer,
    TrlxTrain,
)
from rlhf.open_assistant.tree import arranged, place

# trlX's own, where its file says nothing.
NEW_TOKENS, PPO_EPOCHS = 40, 4


def translate_reinforced(request: Request) -> Draft:
    """Turn settings of trainer_rl, and trlX's, into a run.

    Raises:
        ConfigError: a key, a dataset or a value is wrong, or trlX's file is missing.
    """
    return _Reinforced(request).draft


class _Reinforced:
    def __init__(self, request: Request) -> None:
        if not request.trlx:
            raise ConfigError(
                "There is no file of trlX, with sections train and method.",
                where="configs/ppo_config.yaml",
                hint="give --repo, or a second --config-file",
            )
        self.request, self.draft = request, Draft(request)
        self.dispositions = self.draft.dispositions
        self.settings = read_settings(
            request.settings, RlSettings, self.dispositions, request.script, TRAINERS
        )
        self.run: dict[str, Any] = {}
        self.all_read: list[tuple[Settings, str]] = [(self.settings, "")]
        policy = self._read(RlModelSettings, self.settings.sft_config, "sft_config.")
        self._read(RlModelSettings, self.settings.rank_config, "rank_config.")
        name = self._start(policy)
        self.key = f"ppo.{name}"
        mixture = self.draft.mix(self.settings, self.key, subsampled=False)
        self.run["data"] = mixture.shares
        self._make_up(mixture)
        self._judge_models(policy)
        self._carry(self.settings, "")
        self._trlx()
        self.draft.values["ppo"] = {name: arranged(self.run, PpoConfig)}
        self._measure(name)
        for settings, prefix in self.all_read:
            self.dispositions.close(settings, prefix)

    def _read(self, model: type[Read], values: Any, prefix: str) -> Read:
        settings = read_settings(
            values or {}, model, self.dispositions, self.request.script, (), prefix
        )
        self.all_read.append((settings, prefix))
        return settings

    def _carry(self, settings: Settings, prefix: str) -> None:
        for to, value in self.dispositions.carry_over(settings, self.key, prefix).items():
            place(self.run, to, value)

    def _start(self, policy: RlModelSettings) -> str:
        """The SFT run and the reward model; returns the run's name."""
        request, draft = self.request, self.draft
        sft, reward = request.chosen("sft"), request.chosen("reward")
        self.missing = [kind for kind, one in (("sft", sft), ("reward", reward)) if one is None]
        if sft is None:
            self.model = draft.declare_model(policy.model_name, key="sft_config.model_name")
        else:
            self.model = request.declared("sft")[sft]["model"]
        own = request.name or self.model
        self.run |= {"sft": sft or own, "reward": reward or own}
        return draft.name_run(self.model)

    def _make_up(self, mixture: Mixture) -> None:
        """What PPO starts from, if nothing is there."""
        sft, reward = self.run["sft"], self.run["reward"]
        serving: dict[str, dict[str, Any]] = {
            view: {one: {} for one, views in mixture.views.items() if view in views}
            for view in ("conversation", "preference")
        }
        if "sft" in self.missing:
            made: dict[str, Any] = {"model": self.model, "data": serving["conversation"]}
            self.draft.values["sft"] = {sft: made}
            self.draft.made_up(f"sft.{sft}", "PPO starts from an SFT run here")
        if "reward" in self.missing:
            if not serving["preference"]:
                raise ConfigError(
                    "A reward model cannot be made up: no dataset of this run has preferences.",
                    where=f"datasets: {', '.join(mixture.shares)}",
                    hint="import a reward model with --stage rm, then give its file to --onto",
                )
            self.draft.values["reward"] = {reward: {"sft": sft, "data": serving["preference"]}}
            self.draft.made_up(f"reward.{reward}", "PPO starts from a reward model here")

    def _judge_models(self, policy: RlModelSettings) -> None:
        self._carry(policy, "sft_config.")
        self.draft.place_precision(self.run, self.key, "sft_config.dtype", policy.dtype)
        given = self.settings.rank_config or {}
        for key in given:
            self.dispositions.ignore(
                f"rank_config.{key}", f"reward.{self.run['reward']} says what the reward model is"
            )
        if policy.model_name and "sft_config.model_name" not in self.dispositions.carried:
            self.dispositions.ignore(
                "sft_config.model_name", f"the policy is what sft.{self.run['sft']} makes"
            )

    def _trlx(self) -> None:
        sections = self.request.trlx
        train = self._read(TrlxTrain, sections.get("train"), "train.")
        method = self._read(TrlxMethod, sections.get("method"), "method.")
        for model, name in ((TrlxModel, "model"), (TrlxTokenizer, "tokenizer")):
            self._carry(self._read(model, sections.get(name), f"{name}."), f"{name}.")
        self._carry(train, "train.")
        self._carry(method, "method.")
        sampling = self._read(TrlxSampling, method.gen_kwargs, "method.gen_kwargs.")
        self._carry(sampling, "method.gen_kwargs.")
        self._batches(train)
        self._optimizer(sections)
        self._rewards(method)
        tokens = sampling.max_new_tokens or NEW_TOKENS
        place(self.run, "sampling.max_new_tokens", tokens)
        # What trlX cuts, it cuts from the left; here whole turns go.
        prompt: dict[str, Any] = {"overlong": "truncate"}
        if train.seq_length is not None:
            prompt["max_length"] = train.seq_length - tokens
            self.dispositions.carry(
                "train.seq_length", "tokenization.prompt.max_length (less max_new_tokens)"
            )
        place(self.draft.values, "tokenization.prompt", prompt)

    def _batches(self, train: TrlxTrain) -> None:
        settings, run, gpus = self.settings, self.run, self.request.gpus
        size, rollouts = settings.batch_size or 1, settings.num_rollouts or 1
        size = min(size, rollouts)
        whole = batches(rollouts, size) * size
        run["minibatch_size"], run["rollout_batch_size"] = size * gpus, whole * gpus
        for key, ours in (("batch_size", "minibatch_size"), ("num_rollouts", "rollout_batch_size")):
            if key in settings.model_fields_set:
                self.dispositions.carry(key, f"{self.key}.{ours}")
        if whole != rollouts:
            self.dispositions.note(
                f"{self.key}.rollout_batch_size: {whole} and not {rollouts} for each GPU, "
                f"so that minibatches of {size} divide it"
            )
        self.dispositions.note(
            f"{self.key}: batches are for {gpus} GPU{'s' if gpus > 1 else ''} of the policy; "
            "--num-gpus says how many Open-Assistant had"
        )
        rounds = [train.epochs] if train.epochs else []
        if settings.total_steps:
            each = run.get("epochs", PPO_EPOCHS) * (whole // size)
            rounds.append(batches(settings.total_steps, each))
            self.dispositions.carry("total_steps", f"{self.key}.updates")
        if train.epochs:
            self.dispositions.carry("train.epochs", f"{self.key}.updates")
        if rounds:
            run["updates"] = min(rounds)

    def _optimizer(self, sections: dict[str, Any]) -> None:
        optimizer = self._read(TrlxOptimizer, sections.get("optimizer"), "optimizer.")
        adam = self._read(TrlxAdam, optimizer.kwargs, "optimizer.kwargs.")
        self._carry(optimizer, "optimizer.")
        self._carry(adam, "optimizer.kwargs.")
        if adam.betas:
            place(self.run, "optimizer.beta1", adam.betas[0])
            place(self.run, "optimizer.beta2", adam.betas[1])
            self.dispositions.carry("optimizer.kwargs.betas", f"{self.key}.optimizer.beta1, beta2")
        if adam.lr:
            place(self.run, "value.learning_rate", adam.lr)  # one for all of trlX's model
        place(self.run, "optimizer.warmup", 0.0)
        scheduler = self._read(TrlxScheduler, sections.get("scheduler"), "scheduler.")
        cosine = self._read(TrlxCosine, scheduler.kwargs, "scheduler.kwargs.")
        floor = cosine.eta_min or 0.0
        if scheduler.name != "cosine_annealing":
            place(self.run, "optimizer.schedule", "constant")
            if scheduler.name is not None:
                why = "of trlX's schedules only cosine_annealing is known: constant was taken"
                self.dispositions.miss("scheduler.name", scheduler.name, why)
            return
        constant = adam.lr is not None and floor >= adam.lr
        place(self.run, "optimizer.schedule", "constant" if constant else "cosine")
        self.dispositions.carry("scheduler.name", f"{self.key}.optimizer.schedule")
        if constant:
            why = "it is not less than the learning rate, which so is constant"
            self.dispositions.ignore("scheduler.kwargs.eta_min", why)
        elif floor:
            self.dispositions.miss("scheduler.kwargs.eta_min", floor, "the schedule ends at 0")
        if cosine.T_max in (None, self.settings.total_steps) or constant:
            self.dispositions.ignore("scheduler.kwargs.T_max", "the schedule ends with the run")
        else:
            why = "the schedule ends with the run"
            self.dispositions.miss("scheduler.kwargs.T_max", cosine.T_max, why)

    def _rewards(self, method: TrlxMethod) -> None:
        if method.target is None:
            place(self.run, "kl.controller", "fixed")
        else:
            place(self.run, "kl.controller", "adaptive")
            place(self.run, "kl.target", method.target)
        self.dispositions.carry("method.target", f"{self.key}.kl.controller, kl.target")
        scaling = method.scale_reward or "none"
        if scaling in ("none", "running"):
            place(self.run, "rewards.scaling", scaling)
            self.dispositions.carry("method.scale_reward", f"{self.key}.rewards.scaling")
        else:
            why = "scores are set to mean 0 and deviation 1; running scales them on"
            self.dispositions.miss("method.scale_reward", scaling, why)
        # trlX subtracts nothing from a response that never ended.
        place(self.run, "rewards.missing_eos_penalty", 0.0)

    def _measure(self, name: str) -> None:
        """An evaluation of the run, and a report."""
        evaluation: dict[str, Any] = {"ppo": name}
        if self.settings.num_eval_prompts:
            evaluation["max_prompts"] = self.settings.num_eval_prompts
            self.dispositions.carry("num_eval_prompts", f"evaluation.{name}.max_prompts")
        evaluation |= self.run["sampling"]
        self.draft.values["evaluation"] = {name: evaluation}
        self.draft.values["report"] = {name: {"evaluations": [name]}}
