"""Base models: where they come from and how their tokenizer is completed."""

from __future__ import annotations

import datetime
import re
from typing import Any, Literal

from pydantic import field_validator, model_validator

from rlhf.config.base import Strict, key
from rlhf.config.paths import expanded


class RandomModel(Strict):
    """A tiny randomly initialised model, for tests and smoke runs."""

    architecture: Literal["llama"] = key("llama", about="model family")
    hidden_size: int = key(64, ge=8, about="width", unit="features")
    layers: int = key(2, ge=1, about="decoder layers")
    heads: int = key(4, ge=1, about="attention heads")
    vocab_size: int = key(512, ge=300, about="size of the tokenizer that is trained for it")
    seed: int = key(0, ge=0, about="seed of the initial weights")
    tokenizer_text: str = key(about="text or JSON lines file that the tokenizer is trained on")

    _path = field_validator("tokenizer_text")(expanded)


class ModelSource(Strict):
    """Exactly one of `package`, `path`, `hub`, `random`."""

    package: str | None = key(None, about="installed Python package that contains a GGUF file")
    file: str | None = key(None, about="pattern of the file inside the package; default: `*.gguf`")
    version: str | None = key(None, about="version of the package; checked when given")
    path: str | None = key(None, about="local folder in Hugging Face's layout (safetensors)")
    hub: str | None = key(None, about="model id on the Hugging Face hub, such as org/name")
    revision: str | None = key(None, about="commit on the hub, 40 hex digits; required with `hub`")
    random: RandomModel | None = key(None, about="a tiny random model instead of a real one")

    _path = field_validator("path")(expanded)

    @model_validator(mode="after")
    def _exactly_one(self) -> ModelSource:
        kinds = [k for k in ("package", "path", "hub", "random") if getattr(self, k) is not None]
        if len(kinds) != 1:
            raise ValueError(f"give exactly one of package, path, hub, random; found {kinds}")
        if self.hub and not self.revision:
            raise ValueError(
                "`hub` needs `revision`: a commit of 40 hex digits, so runs can repeat"
            )
        if self.revision is not None and not re.fullmatch(r"[0-9a-f]{40}", self.revision):
            raise ValueError(
                "revision must be a commit of 40 hex digits, not a branch or tag: "
                f"found {self.revision!r}"
            )
        return self


class RopeScalingConfig(Strict):
    """Rotary positions for longer rows than a model was pretrained on."""

    kind: Literal["linear", "ntk", "yarn", "llama3", "dynamic"] = key(
        about="how frequencies change: all by the factor (`linear`), the low ones (`ntk`, `yarn`, "
        "`llama3`); `dynamic`: only as a row gets longer than in pretraining, so runs here still "
        "take no longer ones",
    )
    factor: float = key(gt=1, about="how much longer rows get")


class ModelConfig(Strict):
    """One base model."""

    source: ModelSource = key(about="where the weights and the tokenizer come from")
    template: Literal["own", "chatml", "oasst", "hh", "deepspeed_chat"] = key(
        "own", about="chat template; `own` keeps the one that the tokenizer brings"
    )
    template_date: str | None = key(
        None,
        about="date that the template always writes, such as `2024-07-26`; for an `own` one that "
        "writes the current date, and required then",
    )
    pad_token: str | None = key(
        None, about="padding token, if neither the tokenizer nor its family names one besides EOS"
    )
    eos_token: str | None = key(
        None, about="end-of-turn token, if neither the template nor the tokenizer names one"
    )
    new_tokens: list[str] = key(
        [], about="special tokens to add to the vocabulary, besides those that the template needs"
    )
    per_digit_tokens: bool = key(
        False, about="one token per digit, whatever the vocabulary has for numbers"
    )
    pad_vocab_to_multiple: int = key(
        1, ge=1, about="the embeddings are padded to a multiple of this many rows", unit="rows"
    )
    rope_scaling: RopeScalingConfig | None = key(
        None,
        about="scaling of rotary positions, for rows longer than in pretraining; absent: as the "
        "model has it",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = key(
        "float32", about="type of the stored weights"
    )
    trust_remote_code: bool = key(
        False,
        about="run the code that the model brings, for an architecture that transformers lacks; "
        "review it first: it runs with your permissions",
    )

    @field_validator("template_date", mode="before")
    @classmethod
    def _is_a_date(cls, value: Any) -> Any:
        # Without quotes YAML takes it for a date by itself.
        text = value.isoformat() if type(value) is datetime.date else value
        try:
            if text is None or datetime.date.fromisoformat(text).isoformat() == text:
                return text
        except (TypeError, ValueError):
            pass
        raise ValueError("a date is written 2024-07-26")

    @model_validator(mode="after")
    def _dates_are_for_own_templates(self) -> ModelConfig:
        if self.template_date is not None and self.template != "own":
            raise ValueError(
                f"template_date is for a template that reads a clock; {self.template!r} has none"
            )
        return self


class ModelSlice(ModelConfig):
    """What ``fetch_model`` gets: a model's section, and what stands outside of it."""

    content: str | None = key(None, about="digest of a local source")
    lock: str | None = key(None, about="digest of the model's entry in the lock")
