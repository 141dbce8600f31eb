"""Pretraining loss beside PPO: the policy goes on learning from demonstrations or plain text.

Ouyang et al. 2022 (InstructGPT, arXiv 2203.02155), equation 2: γ·E[log π(x)] is added to the
objective. In each minibatch, the mean cross-entropy over the labelled tokens of the next rows,
times γ, adds its gradient to PPO's, and one optimizer step follows both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rlhf.algorithms.sft import SftObjective
from rlhf.config.ppo import PtxConfig
from rlhf.core.seeds import derived_seed
from rlhf.data.mixture import Mixture
from rlhf.errors import NumericsError
from rlhf.online.prompts import PromptStream
from rlhf.training import distributed
from rlhf.training.engine.protocol import Engine
from rlhf.training.rounds import plan_rounds
from rlhf.training.sums import Sums


class Ptx:
    """See ``Mixed``: the cross-entropy of SFT, on rows of a mixture of their own.

    Args:
        config: its settings.
        rows: of each optimizer step.
        data: training rows of the ``conversation`` view.
        seed: the run's.
        micro_batch_tokens: padded tokens in one forward and backward pass.
    """

    def __init__(
        self, config: PtxConfig, rows: int, data: Mixture, seed: int, micro_batch_tokens: int
    ) -> None:
        self._coefficient, self._rows, self._max_tokens = (
            config.coefficient,
            rows,
            micro_batch_tokens,
        )
        self._stream = PromptStream(data, derived_seed(seed, "ptx"))
        self._objective = SftObjective()

    def accumulate(self, engine: Engine) -> dict[str, float]:
        """See ``Mixed``.

        Raises:
            NumericsError: no token of the next rows is trained on.
        """

        def score(
            sequences: Sequence[torch.Tensor], places: Sequence[torch.Tensor]
        ) -> tuple[torch.Tensor, ...]:
            return engine(sequences, [], places=places)[:2]

        rows: list[dict[str, Any]] = self._stream.take(self._rows)
        weight = sum(self._objective.weight(row) for row in rows)
        if not weight:
            raise NumericsError(
                "No token of the rows beside a minibatch is trained on, so there is no mean loss.",
                where="ptx.data",
                hint="raise `ptx.batch_size`, or drop rows without a reply",
            )
        shapes = [self._objective.shape(row) for row in rows]
        plan = plan_rounds(shapes, self._max_tokens, distributed.world_size())
        sums = Sums()
        for each in plan[distributed.rank()]:
            loss, _ = self._objective(score, [rows[i] for i in each.rows])
            engine.backward(each.weight * self._coefficient * loss / weight, last=False)
            sums.add({"ptx_loss": loss}, each.counts)
        return sums.over_ranks().means(weight)

    def state(self) -> dict[str, Any]:
        """See ``Mixed``."""
        return self._stream.state()

    def load(self, state: dict[str, Any]) -> None:
        """See ``Mixed``."""
        self._stream.load(state)
