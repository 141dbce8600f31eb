"""Adapters: a run that trains something small beside the frozen weights."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from rlhf.config.base import Strict, key


class AdapterConfig(Strict):
    """Something small that is trained beside frozen weights: low-rank matrices, or a prefix."""

    kind: Literal["lora", "prefix"] = key(
        "lora",
        about="`lora`: matrices of low rank beside those of the layers; `prefix`: keys and values "
        "that every token attends to, published alone",
        source="Hu et al. 2021; Li & Liang 2021",
    )
    virtual_tokens: int = key(
        30, ge=1, about="tokens that a prefix stands for, in each layer", source="Open-Assistant"
    )
    rank: int = key(16, ge=1, about="rank r of the update of each matrix", source="TRL")
    alpha: float = key(
        32.0, gt=0, about="α: the update B·A is scaled by α/r, or α/√r", source="TRL"
    )
    dropout: float = key(
        0.0,
        ge=0,
        lt=1,
        about="share of an adapter's inputs that are dropped in training; on-policy methods have "
        "none",
    )
    dora: bool = key(
        False,
        about="DoRA: the lengths of the rows of each matrix are trained apart from their "
        "directions, which the update turns",
        source="Liu et al. 2024",
    )
    rank_stabilized: bool = key(
        False,
        about="rsLoRA: scale the update by α/√r, so that large ranks learn as fast",
        source="Kalajdzievski 2023",
    )
    target_modules: list[str] | Literal["all-linear"] = key(
        "all-linear",
        about="linear layers that are adapted, such as `q_proj`: the ends of their names; "
        "`all-linear`: all but the head",
        source="Dettmers et al. 2023",
    )
    rank_pattern: dict[str, Annotated[int, Field(ge=1)]] = key(
        {},
        about="ranks of some of these layers, by the ends of their names: the longest that fits",
    )
    alpha_pattern: dict[str, Annotated[float, Field(gt=0)]] = key({}, about="their α, likewise")
    modules_to_save: list[str] = key(
        [],
        about="modules that are trained whole, by the ends of their names, such as `lm_head`; a "
        "reward model's score always is",
    )
    quantize: Literal["nf4"] | None = key(
        None,
        about="`nf4`: QLoRA: the frozen weights of the layers are kept in 4 bits, on GPUs; what "
        "the adapter is merged into later is not",
        source="Dettmers et al. 2023",
    )
    publish: Literal["model", "adapter"] = key(
        "model",
        about="what becomes of it: `model`: it is merged into the weights, and stands beside them "
        "too; `adapter`: it alone, and what needs the model merges it into its base",
    )

    @model_validator(mode="after")
    def _kinds_are_apart(self) -> Self:
        others = {"lora": ("virtual_tokens",), "prefix": LORA}[self.kind]
        fields = type(self).model_fields
        if given := [name for name in others if getattr(self, name) != fields[name].default]:
            raise ValueError(
                f"{', '.join(given)}: not with kind: {self.kind}; leave out, or write "
                f"kind: {'prefix' if self.kind == 'lora' else 'lora'}"
            )
        if self.kind == "prefix" and not self.alone:
            raise ValueError("publish: model: weights can't hold a prefix; write publish: adapter")
        if self.quantize and not self.alone:
            raise ValueError(
                "publish: model: with quantize no whole weights are there; write publish: adapter"
            )
        if self.quantize and self.dora:
            raise ValueError("quantize: DoRA needs the norms of whole weights; leave one out")
        return self

    @property
    def alone(self) -> bool:
        """Whether the adapter is published without the weights that it changes."""
        return self.publish == "adapter"

    @field_validator("target_modules", mode="before")
    @classmethod
    def _names_are_a_list(cls, value: Any) -> Any:
        if isinstance(value, str) and value != "all-linear":
            raise ValueError(f"write a list of names, such as [{value}], or all-linear")
        return value

    @model_validator(mode="after")
    def _targets_something(self) -> Self:
        if not self.target_modules:
            raise ValueError("target_modules: name a layer, or write all-linear")
        return self


# Keys that low-rank adapters alone have.
LORA = (
    "rank", "alpha", "dropout", "dora", "rank_stabilized", "target_modules", "rank_pattern",
    "alpha_pattern", "modules_to_save", "quantize",
)  # fmt: skip
ADAPTER: Any = key(None, about="train an adapter; without it all weights are trained")


def refuse_frozen_layers(adapter: AdapterConfig | None, freeze_layers: int) -> None:
    """Refuse an adapter where layers are frozen too: it freezes them all.

    Raises:
        ValueError: both are given.
    """
    if adapter and freeze_layers:
        raise ValueError(
            f"freeze_layers {freeze_layers} does not go with adapter, which freezes all layers: "
            "leave one out; adapter.target_modules names what is changed"
        )
