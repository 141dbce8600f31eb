"""What is asked for, what comes of it, and what the stages' translations share."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf.catalog import DRAWING
from rlhf.errors import ConfigError
from rlhf.open_assistant.datasets import Mixture, translate_datasets
from rlhf.open_assistant.dispositions import Dispositions
from rlhf.open_assistant.hub import commit_of
from rlhf.open_assistant.names import Trainer

# The section of each trainer's runs, and the view that they read.
SECTIONS = {"sft": "sft", "rm": "reward", "rl": "ppo"}
VIEWS = {trainer: str(DRAWING[section].view) for trainer, section in SECTIONS.items()}
PRECISIONS = {
    "fp32": "float32", "float32": "float32", "bf16": "bfloat16", "bfloat16": "bfloat16",
    "fp16": "bfloat16", "float16": "bfloat16",
}  # fmt: skip


@dataclass(frozen=True)
class Request:
    """What to translate.

    Attributes:
        trainer: whose settings they are.
        settings: merged settings, options applied.
        trlx: sections of trlX's file; PPO only.
        base: values of the configuration that the result adds to.
        name: name of the run; None: that of the model.
        gpus: GPUs that the batch sizes are meant for.
        rows: training rows of an epoch; None: as the registry says.
        revision: commit of the model; None: as the hub says.
        sft: name of the SFT run to start from; None: the only one.
        reward: name of the reward model, likewise.
    """

    trainer: Trainer
    settings: dict[str, Any]
    trlx: dict[str, Any] = field(default_factory=dict)
    base: dict[str, Any] = field(default_factory=dict)
    name: str | None = None
    gpus: int = 1
    rows: int | None = None
    revision: str | None = None
    sft: str | None = None
    reward: str | None = None

    @property
    def script(self) -> str:
        """The trainer, for messages."""
        return f"trainer_{self.trainer}.py"

    def declared(self, section: str) -> dict[str, Any]:
        """Entries of a section of the configuration that the result adds to."""
        return self.base.get(section) or {}

    def chosen(self, section: str) -> str | None:
        """The run of a section that the stage starts from; None: there is none.

        Raises:
            ConfigError: the name is unknown, or has to be given.
        """
        wanted = self.sft if section == "sft" else self.reward
        known = sorted(self.declared(section))
        if wanted is not None and wanted not in known:
            raise ConfigError(
                f"There is no {section}.{wanted}.",
                where=f"--{section}",
                expected=f"one of {', '.join(known)}" if known else "a run in --onto FILE",
            )
        if wanted is None and len(known) > 1:
            raise ConfigError(
                f"The configuration has several runs in {section}.",
                where="--onto",
                expected=f"--{section} and one of {', '.join(known)}",
            )
        return wanted or (known[0] if known else None)


@dataclass
class Draft:
    """The configuration as it grows."""

    request: Request
    values: dict[str, Any] = field(default_factory=dict)
    dispositions: Dispositions = field(default_factory=Dispositions)

    def name_run(self, model: str) -> str:
        """A name for the run, that no other one has.

        Raises:
            ConfigError: the name is taken.
        """
        name = self.request.name or model
        section = SECTIONS[self.request.trainer]
        if name in self.request.declared(section):
            raise ConfigError(
                f"There is a {section}.{name} already.", where="--onto", hint="give --name NAME"
            )
        return name

    def declare_model(
        self, name: str | None, per_digit: bool = False, key: str = "model_name"
    ) -> str:
        """Declare a base model, unless it is there; returns its name here.

        Args:
            name: a folder, or an id of the hub.
            per_digit: whether each digit is a token.
            key: Open-Assistant's key that names it.

        Raises:
            ConfigError: no model is named, or the hub does not say at which commit it is.
        """
        if not name:
            raise ConfigError(
                "No model is named.",
                where=key,
                hint="name a configuration that has one, such as galactica-125m",
            )
        kind = "path" if is_path(name) else "hub"
        for known, entry in self.request.declared("models").items():
            digits = entry.get("per_digit_tokens", False)
            if entry["source"].get(kind) == name and digits == per_digit:
                self.dispositions.carry(key, f"models.{known}")
                return known
        source = {kind: name}
        if kind == "hub":
            source["revision"] = self.request.revision or commit_of(name)
            if not self.request.revision:
                self.dispositions.note(f"models: the newest commit of {name} on the hub")
        plain = re.sub(r"[^A-Za-z0-9_-]", "_", Path(name).name).lstrip("_-") or "model"
        names = itertools.chain([plain], (f"{plain}-{n}" for n in itertools.count(2)))
        own = next(one for one in names if one not in self.request.declared("models"))
        # Open-Assistant pads its embeddings so, whatever the settings say.
        entry = {"source": source, "template": "oasst", "pad_vocab_to_multiple": 16}
        if per_digit:
            entry["per_digit_tokens"] = True
        self.values["models"] = {own: entry}
        self.dispositions.carry(key, f"models.{own}")
        self._size(name)
        return own

    def _size(self, name: str) -> None:
        """What jobs ask for follows from the size that the name tells."""
        found = re.search(r"(\d+(?:[._]\d+)?)([bm])(?![a-z])", name.lower())
        if not found:
            return
        billions = float(found[1].replace("_", ".")) * (1 if found[2] == "b" else 0.001)
        known = (self.request.base.get("cluster") or {}).get("model_billions", 0)
        if billions > known:
            self.values["cluster"] = {"model_billions": round(billions, 4)}
            self.dispositions.note(f"cluster.model_billions: from the name {name}")

    def mix(self, settings: Any, run: str, subsampled: bool) -> Mixture:
        """Declare the datasets; returns what the run takes from them."""
        mixture = translate_datasets(
            [*(settings.datasets or []), *(settings.datasets_extra or [])],
            VIEWS[self.request.trainer],
            run,
            self.dispositions,
            subsampled=subsampled,
            limit=settings.eval_size,
            cache=settings.cache_dir or ".cache",
            declared=self.request.declared("datasets"),
        )
        self.values["datasets"] = mixture.datasets
        for key in ("datasets", "datasets_extra"):
            if getattr(settings, key):
                self.dispositions.carry(key, f"datasets, {run}.data")
        if settings.eval_size:
            self.dispositions.carry("eval_size", f"{run}.data.*.max_validation")
        return mixture

    def made_up(self, what: str, why: str) -> None:
        """A run that the stage starts from, and that nobody asked for, was added."""
        self.dispositions.note(
            f"{what} was made up, with this pipeline's defaults: {why}; "
            "--onto FILE names a configuration that has one"
        )

    def place_precision(self, run: dict[str, Any], at: str, key: str, dtype: str | None) -> None:
        """Carry a type of weights over to the run that is found at ``at``."""
        if dtype is None:
            return
        if dtype not in PRECISIONS:
            self.dispositions.miss(key, dtype, f"`precision` is one of {', '.join(PRECISIONS)}")
            return
        run["precision"] = PRECISIONS[dtype]
        self.dispositions.carry(key, f"{at}.precision")
        if dtype in ("fp16", "float16"):
            self.dispositions.note(
                f"{key} {dtype} became bfloat16, which is as fast and needs no scaling of the "
                "loss; GPUs before Ampere lack it: set precision: float16 there"
            )


def is_path(name: str) -> bool:
    """Whether a model's name is a folder and not an id of the hub."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1 or Path(name).is_dir()


def batches(rows: float, size: int) -> int:
    """Updates that so many rows give."""
    return max(1, math.ceil(rows / size))
