"""One process, or whole replicas: every rank holds all weights, and gradients are summed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from rlhf.config.training import OptimizerConfig
from rlhf.models import devices
from rlhf.models.backbone import Backbone, backbones
from rlhf.training import distributed
from rlhf.training.ema import Ema, average_of
from rlhf.training.engine.named import changing, drop_others, followers, published, trained
from rlhf.training.engine.placing import place
from rlhf.training.engine.scale import LossScale
from rlhf.training.engine.state import AVERAGE, ParameterState, SavedState, write_state
from rlhf.training.optim import build_optimizer, parameter_groups, restored

BUCKET_ELEMENTS = 2**25  # gradients that are summed over the ranks together: 128 MiB

Root = TypeVar("Root", bound=Backbone)


class Replicated:
    """See ``Engine``. Rank 0 writes states; all ranks hold the same.

    Args:
        root: the module that is trained, its frozen parameters already marked.
        rates: prefix of parameter names → peak learning rate; ``""`` stands for all.
        config: AdamW's.
    """

    sharded = False

    def __init__(
        self, root: nn.Module, rates: Mapping[str, float], config: OptimizerConfig
    ) -> None:
        self._root, self._max_norm = root, config.max_grad_norm
        self.device = devices.own_device()
        self._place(root)
        self.loss_scale = LossScale.of(root)
        embeddings = (m.weight for m in root.modules() if isinstance(m, nn.Embedding))
        self._optimizer = build_optimizer(parameter_groups(root, rates), config, embeddings)
        self._ema: Ema | None = None

    def _place(self, root: nn.Module) -> None:
        place(root, self.device)
        for backbone in backbones(root):
            backbone.place(self.device, lockstep=False)

    def __call__(self, *batch: Any, **options: Any) -> tuple[torch.Tensor, ...]:
        """See ``Engine``."""
        return self._root(*batch, **options)

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """See ``Engine``."""
        (loss * self.loss_scale.factor if self.loss_scale else loss).backward()

    def step(self, factor: float, only: str = "") -> float:
        """See ``Engine``."""
        drop_others(self._root, only)
        if distributed.world_size() > 1:
            self._sum_gradients()
        groups = self._optimizer.param_groups
        for group in groups:
            group["lr"] = group["peak"] * factor
        parameters = [p for group in groups for p in group["params"]]
        if self.loss_scale:
            self.loss_scale.unscale(parameters)
        norm = float(nn.utils.clip_grad_norm_(parameters, self._max_norm))
        if math.isfinite(norm):
            self._optimizer.step()
            if self._ema:
                self._ema.update()
        self._optimizer.zero_grad(set_to_none=True)
        if self.loss_scale:
            self.loss_scale.update(norm)
        return norm

    def _sum_gradients(self) -> None:
        """Over all ranks; a rank that did not use a parameter, such as an expert, adds nothing.

        Parameters that no rank used stay without a gradient, as in a single process.
        """
        parameters = [parameter for _, parameter in trained(self._root)]
        used = [float(parameter.grad is not None) for parameter in parameters]
        ranks = torch.tensor(used, device=self.device)
        dist.all_reduce(ranks)
        gradients = []
        for parameter, count in zip(parameters, ranks.tolist(), strict=True):
            if not count:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat)
            sums = flat.split([gradient.numel() for gradient in bucket])
            for gradient, total in zip(bucket, sums, strict=True):
                gradient.copy_(total.view_as(gradient))

    @torch.no_grad()
    def follow(self, share: float) -> None:
        """See ``Engine``."""
        for _, follower, trained_one in followers(self._root):
            follower.lerp_(trained_one, share)

    def frozen(self, root: Root) -> Root:
        """See ``Engine``."""
        root.eval().requires_grad_(False)
        self._place(root)
        return root

    def keep_average(self, decay: float, prefix: str = "") -> None:
        """See ``Engine``."""
        self._ema = Ema((p for name, p in trained(self._root) if name.startswith(prefix)), decay)

    def swap_average(self) -> None:
        """See ``Engine``."""
        if self._ema:
            self._ema.swap()

    def parts(self) -> Iterator[tuple[str, torch.Tensor]]:
        """See ``Engine``."""
        return trained(self._root)

    def weights(self, dtype: torch.dtype | None = None) -> Iterator[tuple[str, torch.Tensor]]:
        """See ``Engine``; without a change of type, the tensors themselves."""
        return published(self._root, torch.Tensor.detach, dtype)

    @torch.no_grad()
    def save(self, folder: Path) -> list[str]:
        """See ``Engine``; the ranks share the writing."""
        states = self._optimizer.state
        return write_state(
            folder,
            (
                ParameterState.of(name, p.numel(), p, states.get(p, {}), average_of(self._ema, p))
                for name, p in changing(self._root)
            ),
            loss_scale=self.loss_scale,
        )

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """See ``Engine``."""
        parameters = dict(changing(self._root))
        saved = SavedState(folder, {name: p.shape for name, p in parameters.items()})
        self.loss_scale = saved.loss_scale or self.loss_scale
        for name, parameter in parameters.items():
            parameter.copy_(saved.tensor("weight", name))
            if (average := average_of(self._ema, parameter)) is not None:
                average.copy_(saved.tensor(AVERAGE, name))
            self._optimizer.state.pop(parameter, None)
            if name in saved.updates:
                self._optimizer.state[parameter] = restored(
                    self._optimizer, saved.updates[name], saved.moments(name), parameter.device
                )


def _buckets(gradients: Iterable[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Gradients in groups of bounded size: a small one costs as long a wait as a large one."""
    bucket: list[torch.Tensor] = []
    for gradient in gradients:
        if bucket and sum(map(torch.numel, [*bucket, gradient])) > BUCKET_ELEMENTS:
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket
