"""trainer_sft and trainer_rm: one run of ``sft`` or ``reward``."""

from __future__ import annotations

from typing import Any

from rlhf.config.reward import RewardConfig
from rlhf.config.sft import SftConfig
from rlhf.open_assistant.datasets import Mixture
from rlhf.open_assistant.dispositions import AS_HERE, read_settings
from rlhf.open_assistant.request import (
    SECTIONS,
    VIEWS,
    Draft,
    Request,
    batches,
)
from rlhf.open_assistant.settings import (
    NO_PEFT,
    TRAINERS,
    RmSettings,
    SftSettings,
    SupervisedSettings,
)
from rlhf.open_assistant.tree import arranged, place

GROUPED = 100  # batches that are sorted by length together; Open-Assistant sorts whole epochs
# Defaults of its `peft_model`, our keys for them, and what happens here anyway.
LORA: dict[str, Any] = {
    "r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "target_modules": "all",
    "modules_to_save": ["wte", "lm_head"],
}
LORA_KEYS = {
    "r": "rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "target_modules": "target_modules",
}
LORA_SAME = {"bias": "none", "task_type": "CAUSAL_LM"}
# Types of its `superhot_config`, what their factor is called, and its default.
ROPE: dict[Any, tuple[str, float]] = {
    "linear": ("scaling_factor", 1.0),
    "dynamic": ("scaling_factor", 1.0),
    "ntk": ("alpha", 2.0),
}
HOW_LONG = "give --train-rows N, or set {} yourself"


def translate_supervised(request: Request) -> Draft:
    """Turn settings of trainer_sft or trainer_rm into a run.

    Raises:
        ConfigError: a key, a dataset or a value is wrong.
    """
    return _Supervised(request).draft


class _Supervised:
    def __init__(self, request: Request) -> None:
        self.request, self.draft = request, Draft(request)
        self.dispositions = self.draft.dispositions
        model: type[SupervisedSettings] = SftSettings if request.trainer == "sft" else RmSettings
        settings = read_settings(
            request.settings, model, self.dispositions, request.script, TRAINERS
        )
        self.settings, self.section = settings, SECTIONS[request.trainer]
        self.run: dict[str, Any] = {}
        name = self._start()
        self.key = f"{self.section}.{name}"
        for to, value in self.dispositions.carry_over(settings, self.key).items():
            place(self.run, to, value)
        mixture = self._mixture()
        if self.made_up:
            self._make_up(name, mixture)
        self._fill(mixture)
        self._tokens()
        if isinstance(settings, RmSettings):
            self._ranking_loss(settings)
        self._adapter()
        self._regularize()
        if isinstance(settings, SftSettings):
            self._loss(settings)
            self._positions(settings)
        self.draft.place_precision(self.run, self.key, "dtype", settings.dtype)
        self.dispositions.close(settings)
        shape = SftConfig if request.trainer == "sft" else RewardConfig
        run = arranged(self.run, shape, "model", "sft", "data")
        self.draft.values.setdefault(self.section, {})[name] = run

    def _start(self) -> str:
        """What the run starts from; returns the run's name."""
        settings, draft = self.settings, self.draft
        digits = bool(settings.per_digit_tokens)
        sft = self.request.chosen("sft") if self.request.trainer == "rm" else None
        self.made_up = self.request.trainer == "rm" and sft is None
        if sft is not None:
            self.run["sft"] = sft
            return draft.name_run(self._given(sft, digits))
        model = draft.declare_model(settings.model_name, digits)
        if digits:
            self.dispositions.carry("per_digit_tokens", f"models.{model}.per_digit_tokens")
        elif "per_digit_tokens" in settings.model_fields_set:
            self.dispositions.ignore("per_digit_tokens", AS_HERE)
        name = draft.name_run(model)
        self.run |= {"sft": name} if self.made_up else {"model": model}
        self.model = model
        return name

    def _given(self, sft: str, digits: bool) -> str:
        """The model of the SFT run that a reward model starts from."""
        model: str = self.request.declared("sft")[sft]["model"]
        entry = self.request.declared("models")[model]
        source = entry["source"]
        wanted = self.settings.model_name
        if wanted in (source.get("hub"), source.get("path")):
            self.dispositions.carry("model_name", f"models.{model}")
        elif wanted:
            why = f"the reward model starts from sft.{sft}, which comes from models.{model}"
            self.dispositions.miss("model_name", wanted, why)
        if digits != bool(entry.get("per_digit_tokens")):
            self.dispositions.miss("per_digit_tokens", digits, f"models.{model} is there already")
        elif "per_digit_tokens" in self.settings.model_fields_set:
            self.dispositions.carry("per_digit_tokens", f"models.{model}.per_digit_tokens")
        return model

    def _make_up(self, name: str, mixture: Mixture) -> None:
        """An SFT run that the reward model can start from."""
        data: dict[str, Any] = {
            one: {} for one, views in mixture.views.items() if "conversation" in views
        }
        self.draft.values["sft"] = {name: {"model": self.model, "data": data}}
        self.draft.made_up(f"sft.{name}", "a reward model starts from an SFT run here")

    def _mixture(self) -> Mixture:
        settings = self.settings
        sampler = bool(settings.use_custom_sampler)
        mixture = self.draft.mix(settings, self.key, subsampled=sampler)
        self.run["data"] = mixture.shares
        if "use_custom_sampler" in settings.model_fields_set:
            self.dispositions.ignore("use_custom_sampler", "shares are always drawn anew")
        if settings.sort_by_length and sampler:
            self.run["length_grouping"] = GROUPED
            self.dispositions.carry("sort_by_length", f"{self.key}.length_grouping")
        elif settings.sort_by_length:
            self.dispositions.ignore("sort_by_length", "it needs use_custom_sampler")
        elif "sort_by_length" in settings.model_fields_set:
            self.dispositions.ignore("sort_by_length", AS_HERE)
        return mixture

    def _ranking_loss(self, settings: RmSettings) -> None:
        """``RMLoss`` is the loss here; ``RMCLSLoss`` takes all pairs alike, and no L2."""
        dispositions, loss, l2 = self.dispositions, settings.loss_fn, settings.score_l2_reg
        if loss == "RMCLSLoss":
            self.run |= {"loss": {"kind": "classification"}, "score_l2": 0.0}
            dispositions.carry("loss_fn", f"{self.key}.loss")
            if l2 is not None:
                dispositions.ignore("score_l2_reg", "RMCLSLoss does not read it")
            return
        if loss == "RMLoss":
            dispositions.ignore("loss_fn", AS_HERE)
        elif loss is not None:
            dispositions.miss("loss_fn", loss, "a reward model's are RMLoss and RMCLSLoss")
        if l2 is not None:
            self.run["score_l2"] = l2
            dispositions.carry("score_l2_reg", f"{self.key}.score_l2")

    def _adapter(self) -> None:
        """LoRA as its ``peft_model`` makes it: ``peft_config`` goes before its defaults."""
        settings, dispositions = self.settings, self.dispositions
        given = settings.model_fields_set & {"peft_model", "peft_type", "peft_config"}
        if not settings.peft_model:
            for key in sorted(given):
                why = AS_HERE if key == "peft_model" else "it says something of peft_model only"
                dispositions.ignore(key, why)
            return
        theirs = LORA | (settings.peft_config or {})
        if theirs.pop("peft_type", settings.peft_type or "lora") != "lora":
            dispositions.miss("peft_model", True, NO_PEFT)
            for key in sorted(given - {"peft_model"}):
                dispositions.ignore(key, "it says something of peft_model only")
            return
        for key, ours in LORA_KEYS.items():
            value = theirs.pop(key)
            if (key, value) != ("target_modules", "all"):  # the linear layers, as here
                place(self.run, f"adapter.{ours}", value)
        for key in sorted(given):
            dispositions.carry(key, f"{self.key}.adapter")
        for key, value in theirs.items():
            why = "adapters have no such setting here"
            if key == "modules_to_save":
                why = "of these a model has some; write those into adapter.modules_to_save"
            if LORA_SAME.get(key) != value:
                dispositions.miss(f"peft_config.{key}", value, why)

    def _regularize(self) -> None:
        """Residual dropout with LIMA's ramp, and the optimizer of ``quantization``."""
        settings, dispositions = self.settings, self.dispositions
        if settings.residual_dropout:
            place(self.run, "residual_dropout.rate", settings.residual_dropout)
            dispositions.carry("residual_dropout", f"{self.key}.residual_dropout.rate")
        elif settings.residual_dropout is not None:
            dispositions.ignore("residual_dropout", AS_HERE)
        if settings.residual_dropout_lima and settings.residual_dropout:
            place(self.run, "residual_dropout.ramp", "linear")
            dispositions.carry("residual_dropout_lima", f"{self.key}.residual_dropout.ramp")
        elif settings.residual_dropout_lima is not None:
            dispositions.ignore(
                "residual_dropout_lima",
                "there is no residual_dropout" if settings.residual_dropout_lima else AS_HERE,
            )
        if settings.quantization:
            place(self.run, "optimizer.kind", "adamw_8bit")
            dispositions.carry("quantization", f"{self.key}.optimizer.kind")
            if not (self.request.base.get("cluster") or {}).get("gpus_per_node"):
                place(self.draft.values, "cluster.gpus_per_node", self.request.gpus)
                dispositions.note(
                    "cluster.gpus_per_node: moments of 8 bits need GPUs; --num-gpus says how many"
                )
        elif settings.quantization is not None:
            dispositions.ignore("quantization", AS_HERE)

    def _loss(self, settings: SftSettings) -> None:
        """The loss of a token, and which have one."""
        dispositions, name = self.dispositions, settings.loss_fn
        poly = name == "Poly"
        if poly:
            place(self.run, "loss.kind", "poly")
            dispositions.carry("loss_fn", f"{self.key}.loss.kind")
        elif name == "CrossEntropyLoss":
            dispositions.ignore("loss_fn", AS_HERE)
        elif name is not None:
            why = "trainer_sft knows CrossEntropyLoss and Poly, and so does this"
            dispositions.miss("loss_fn", name, why)
        if poly and settings.poly_eps is not None:
            place(self.run, "loss.epsilon", settings.poly_eps)
            dispositions.carry("poly_eps", f"{self.key}.loss.epsilon")
        elif settings.poly_eps is not None:
            dispositions.ignore("poly_eps", "it says something of the loss Poly only")
        if settings.label_masking is False:
            place(self.run, "loss.tokens", "all")
            dispositions.carry("label_masking", f"{self.key}.loss.tokens")
        elif settings.label_masking:
            dispositions.ignore("label_masking", AS_HERE)

    def _positions(self, settings: SftSettings) -> None:
        """RoPE scaling, which is a matter of the model here."""
        dispositions, theirs = self.dispositions, dict(settings.superhot_config or {})
        if not settings.superhot:
            for key in sorted(settings.model_fields_set & {"superhot", "superhot_config"}):
                why = AS_HERE if key == "superhot" else "it says something of superhot only"
                dispositions.ignore(key, why)
            return
        kind = theirs.pop("type", None)
        name, default = ROPE.get(kind, ("", 0))
        factor = theirs.pop(name, default)
        if not name or theirs or factor <= 1:
            why = f"rope_scaling takes the types {', '.join(ROPE)} and their factor, above 1"
            dispositions.miss("superhot_config", settings.superhot_config, why)
            return
        scaling, own = {"kind": kind, "factor": float(factor)}, self.draft.values.get("models", {})
        if self.model in own:
            own[self.model]["rope_scaling"] = scaling
        elif self.request.declared("models")[self.model].get("rope_scaling") != scaling:
            why = f"models.{self.model} is there already"
            dispositions.miss("superhot_config", settings.superhot_config, why)
            return
        for key in ("superhot", "superhot_config"):
            dispositions.carry(key, f"models.{self.model}.rope_scaling")

    def _fill(self, mixture: Mixture) -> None:
        """Batch size, epochs, and what Open-Assistant counts in steps."""
        settings, run = self.settings, self.run
        parts = {
            "per_device_train_batch_size": settings.per_device_train_batch_size or 8,
            "gradient_accumulation_steps": settings.gradient_accumulation_steps or 1,
        }
        run["global_batch_size"] = self.request.gpus
        for key, value in parts.items():
            run["global_batch_size"] *= value
            if getattr(settings, key) is not None:
                self.dispositions.carry(key, f"{self.key}.global_batch_size")
        product = " × ".join(f"{value}" for value in parts.values())
        self.dispositions.note(
            f"{self.key}.global_batch_size: {product} × {self.request.gpus} GPU"
            + ("s" if self.request.gpus > 1 else "")
            + "; --num-gpus says how many Open-Assistant had"
        )
        # The default of transformers.Trainer, which Open-Assistant leaves as it is.
        place(run, "optimizer.schedule", "linear")
        epochs, part = self._epochs()
        rows = self.request.rows or mixture.rows
        steps = batches(rows * part, run["global_batch_size"]) * epochs if rows else None
        left_out = [] if self.request.rows else mixture.uncounted
        warmup, every = settings.warmup_steps, settings.eval_steps
        if warmup is not None and (steps or not warmup):
            share = warmup / steps if steps else 0.0
            place(run, "optimizer.warmup", float(f"{min(share, 0.99):.3g}"))
            self.dispositions.carry("warmup_steps", f"{self.key}.optimizer.warmup")
        elif warmup:
            why = "a share of all steps here, and nobody knows how many these are: "
            self.dispositions.miss(
                "warmup_steps", warmup, why + HOW_LONG.format("optimizer.warmup")
            )
        if every and steps:
            run["evaluations"] = max(1, round(steps / every))
            self.dispositions.carry("eval_steps", f"{self.key}.evaluations")
        elif every:
            why = "a number for the whole run here, and nobody knows how many steps it has: "
            self.dispositions.miss("eval_steps", every, why + HOW_LONG.format("evaluations"))
        if steps and (warmup or every):
            self.dispositions.note(
                f"{self.key}: optimizer.warmup and evaluations are for {steps} steps"
                + ("" if self.request.rows else ", as the registry's sizes say")
                + (f" (without {', '.join(left_out)})" if left_out else "")
                + "; --train-rows says how many rows an epoch has"
            )

    def _epochs(self) -> tuple[int, float]:
        """Epochs, and the part of each dataset that one takes."""
        given = self.settings.num_train_epochs
        wanted = 3.0 if given is None else given  # transformers' default
        epochs = self.run["epochs"] = max(1, round(wanted))
        if wanted < 1:
            for share in self.run["data"].values():
                if "size" in share:
                    share["size"] = max(1, round(share["size"] * wanted))
                else:
                    fraction = share.get("fraction", 1.0) * wanted
                    share["fraction"] = float(f"{fraction:.6g}")
            self.dispositions.carry(
                "num_train_epochs", f"{self.key}.epochs, and less of each dataset"
            )
        elif wanted != epochs:
            why = f"epochs are whole: {epochs} were taken"
            self.dispositions.miss("num_train_epochs", wanted, why)
        elif given is not None:
            self.dispositions.carry("num_train_epochs", f"{self.key}.epochs")
        return epochs, min(1.0, wanted)

    def _tokens(self) -> None:
        """The section `tokenization`."""
        settings, view = self.settings, VIEWS[self.request.trainer]
        place_of = f"tokenization.{view}"
        tokens: dict[str, Any] = {}
        if settings.max_length is not None:
            tokens["max_length"] = settings.max_length
            self.dispositions.carry("max_length", f"{place_of}.max_length")
        tags = ("use_system_tag", "system_property_dropout", "system_add_length")
        given = [key for key in tags if key in settings.model_fields_set]
        if settings.use_system_tag:
            dropout = settings.system_property_dropout
            tokens["reply_tags"] = {
                "dropout": 0.5 if dropout is None else dropout,
                "length": settings.system_add_length is not False,
            }
        for key in given:
            if settings.use_system_tag:
                self.dispositions.carry(key, f"{place_of}.reply_tags")
            else:
                self.dispositions.ignore(key, "use_system_tag is off")
        place(self.draft.values, place_of, tokens)
        if isinstance(settings, SftSettings):
            self._sft_tokens(settings, tokens)
        elif isinstance(settings, RmSettings) and settings.max_replies:
            tokens["max_replies"] = settings.max_replies
            self.dispositions.carry("max_replies", f"{place_of}.max_replies")

    def _sft_tokens(self, settings: SftSettings, tokens: dict[str, Any]) -> None:
        longest = settings.val_max_length
        if longest not in (None, settings.max_length):
            why = "validation rows are as long as training rows"
            self.dispositions.miss("val_max_length", longest, why)
        elif longest is not None:
            self.dispositions.ignore("val_max_length", "it is that of max_length")
        if settings.random_offset_probability is not None:
            tokens["random_offset"] = settings.random_offset_probability
            self.dispositions.carry(
                "random_offset_probability", "tokenization.conversation.random_offset"
            )
        if settings.samples_mixing:
            tokens["samples_mixing"] = {}
            self.dispositions.carry("samples_mixing", "tokenization.conversation.samples_mixing")
        elif settings.samples_mixing is not None:
            self.dispositions.ignore("samples_mixing", AS_HERE)
        for key in ("use_system_prefix", "system_prefix"):
            if settings.use_system_prefix:
                self.dispositions.carry(key, "tokenization.*.system_prefix")
            elif key in settings.model_fields_set:
                self.dispositions.ignore(key, "use_system_prefix is off")
        if settings.use_system_prefix:
            for view in VIEWS.values():
                place(
                    self.draft.values, f"tokenization.{view}.system_prefix", settings.system_prefix
                )
