"""Decoding by advantages: an ILQL model's policy, shifted towards tokens of a higher value.

Snell et al. 2022 (arXiv 2206.11871): π(a|s)·exp(β·(Q(s, a) − V(s))), normalized.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from rlhf.errors import IntegrityError
from rlhf.models.ilql import HEADS, ValueHeads
from rlhf.models.roots import TokenScorer


class AdvantagePolicy(TokenScorer):
    """A language model whose logits are log π + β·(Q − V).

    Args:
        policy: the language model.
        heads: its value heads.
        beta: β; 0: the language model itself.
        top_k: tokens of the largest logits that alone can be drawn; 0: all.
    """

    def __init__(self, policy: TokenScorer, heads: ValueHeads, beta: float, top_k: int) -> None:
        super().__init__(policy.model, policy._own_head)
        self._heads, self._beta, self._top_k = heads, beta, top_k

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """See ``TokenScorer``; of tokens that can't be drawn −∞."""
        logits = super().logits(hidden)
        if self._beta:
            advantages = self._heads.to(hidden.device).advantages(hidden.float())
            logits = logits.log_softmax(-1) + self._beta * advantages
        if 0 < self._top_k < logits.shape[-1]:
            least = logits.topk(self._top_k).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        return logits

    def logprobs(
        self,
        before: torch.Tensor,
        targets: torch.Tensor,
        temperature: float = 1.0,
        with_entropy: bool = False,
        entropy_gradient: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See ``TokenScorer``; of what is drawn from."""
        logprobs = (self.logits(before.to(self.model.dtype)) / temperature).log_softmax(-1)
        entropy = before.new_zeros(0)
        if with_entropy:
            known = logprobs if entropy_gradient else logprobs.detach()
            entropy = -(known.exp() * known).nan_to_num().sum(-1)
        return logprobs.gather(1, targets.to(logprobs.device)[:, None]).squeeze(1), entropy


def has_heads(folder: Path) -> bool:
    """Whether a model folder has value heads."""
    return (folder / HEADS).is_file()


def load_heads(folder: Path, policy: TokenScorer) -> ValueHeads:
    """The value heads beside a published model, for decoding.

    Args:
        folder: the model's.
        policy: the model.

    Raises:
        IntegrityError: they are not there, or not those of this model.
    """
    path = folder / HEADS
    try:
        tensors = load_file(path)
        two = "target.1.outer.bias" in tensors
        heads = ValueHeads(policy.width, policy.vocabulary, two, seed=None)
        del heads.q  # nothing is learned from them here
        heads.load_state_dict(tensors)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise IntegrityError(
            f"The value heads can't be loaded: {(str(error).splitlines() or [''])[-1].strip()}.",
            where=path,
            expected=f"the {HEADS} that an ILQL run publishes beside its model",
            hint="`rlhf verify` says whether an artifact's files are whole",
        ) from error
    return heads.requires_grad_(False)
