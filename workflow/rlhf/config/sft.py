"""Supervised fine-tuning."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from rlhf.config.base import Strict, is_given, key
from rlhf.config.offline import OfflineConfig, StartConfig


class LossConfig(Strict):
    """The loss of a token, and which tokens have one."""

    kind: Literal["cross_entropy", "poly"] = key(
        "cross_entropy",
        about="`poly`: PolyLoss, cross-entropy + ε(1 − p) where p is the token's probability",
        source="Leng et al. 2022",
    )
    epsilon: float = key(1.0, ge=-1, about="ε of `poly`", source="Open-Assistant")
    tokens: Literal["assistant", "all"] = key(
        "assistant", about="tokens that are trained on; `all`: prompts and the template's too"
    )

    @model_validator(mode="after")
    def _epsilon_is_of_poly(self) -> LossConfig:
        if is_given(self, "epsilon") and self.kind != "poly":
            raise ValueError("epsilon belongs to kind: poly; cross-entropy has none")
        return self


class SftConfig(OfflineConfig, StartConfig):
    """One supervised fine-tuning run."""

    loss: LossConfig = key(LossConfig(), about="the loss of a token, and which tokens have one")
    neftune_alpha: float | None = key(
        None,
        gt=0,
        about="noise on the embeddings while training (NEFTune): uniform within ± α/√(tokens × "
        "width) of a row; absent: none",
        source="Jain et al. 2023, who take 5",
    )

    @property
    def draws_in_passes(self) -> bool:
        """See ``OfflineConfig``."""
        return super().draws_in_passes or self.neftune_alpha is not None

    @model_validator(mode="after")
    def _embeddings_are_trained(self) -> SftConfig:
        if self.neftune_alpha is not None and self.freeze_layers:
            raise ValueError(
                f"neftune_alpha {self.neftune_alpha:g} and freeze_layers {self.freeze_layers} "
                "exclude each other: what frozen embeddings and layers compute is remembered, "
                "without noise; leave one of them out"
            )
        return self
