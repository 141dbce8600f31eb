"""Fully sharded (FSDP2): every rank holds a slice of each tensor, its gradient and its moments.

Layers are gathered one at a time for their forward and backward passes, and gradients are reduced
to the slices' owners (Rajbhandari et al. 2020, ZeRO, stage 3; Zhao et al. 2023, PyTorch FSDP).
"""

from __future__ import annotations

import math
import os
from collections import UserList
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor, Shard

from rlhf.config.training import OptimizerConfig
from rlhf.models import devices
from rlhf.models.backbone import Backbone, backbones
from rlhf.models.branch import branches
from rlhf.models.layers import decoder_layers
from rlhf.models.precision import is_narrow
from rlhf.runtime.options import EngineOptions
from rlhf.training import distributed
from rlhf.training.ema import Ema, average_of
from rlhf.training.engine.named import changing, drop_others, followers, published, trained
from rlhf.training.engine.placing import Types, narrow_types, untied_ends
from rlhf.training.engine.scale import LossScale
from rlhf.training.engine.state import AVERAGE, MOMENTS, ParameterState, SavedState, write_state
from rlhf.training.optim import build_optimizer, parameter_groups

Root = TypeVar("Root", bound=Backbone)


class FullySharded:
    """See ``Engine``. Units are the decoder layers, the embeddings and the output head.

    So are those of a branch.

    All else is one unit with the root, and so are embeddings that the head is tied to: they are
    needed from the first operation of a pass to the last.

    Weights may come mapped from files and in any type: layer by layer they are widened to float32,
    cut, and dropped, so a rank holds its slices and one layer.

    Args:
        root: the module that is trained, its frozen parameters already marked.
        rates: prefix of parameter names → peak learning rate; ``""`` stands for all.
        config: AdamW's.
        options: over which ranks slices are spread, and what is kept in the memory of the CPUs.
    """

    sharded = True

    def __init__(
        self,
        root: nn.Module,
        rates: Mapping[str, float],
        config: OptimizerConfig,
        options: EngineOptions,
    ) -> None:
        distributed.start_alone()
        self.device = devices.own_device()
        self._mesh = _mesh(self.device, options.shard)
        offloaded = options.offload != "none" and self.device.type != "cpu"
        self._offload = CPUOffloadPolicy() if offloaded else OffloadPolicy()
        self._root, self._max_norm = root, config.max_grad_norm
        self._shard(root)
        self.loss_scale = LossScale.of(root)
        self._optimizer = build_optimizer(parameter_groups(root, rates), config)
        self._ema: Ema | None = None

    def _shard(self, root: nn.Module) -> None:
        types = narrow_types(root, self.device)
        wide = MixedPrecisionPolicy(cast_forward_inputs=False)
        for backbone in backbones(root):
            backbone.place(self.device, lockstep=True)
            # As under autocast: products are narrow, all else is float32. Only what is gathered
            # is narrow already, which halves the traffic and what the graph keeps.
            narrow = backbone.product_dtype if is_narrow(backbone.product_dtype) else None
            policy = MixedPrecisionPolicy(narrow, torch.float32, cast_forward_inputs=False)
            own = [each for each in branches(root) if each.model is backbone.model]
            layers = [
                *decoder_layers(backbone.model),
                *(one for each in own for one in each.layers),
            ]
            for layer in layers:
                if narrow is not None:
                    _widen_norms(layer)
                self._cut(layer, policy, types)
            for module in (one for each in own for one in each.rest):
                if isinstance(module, nn.Linear):  # such as an output head
                    self._cut(module, wide, types)
            embeddings, head = untied_ends(backbone)
            if embeddings is not None:
                self._cut(embeddings, wide, types)
                embeddings.set_unshard_in_backward(False)  # it only adds to rows of the gradient
            if head is not None:
                self._cut(head, wide, types)
        self._cut(root, wide, types)
        root.register_forward_pre_hook(_closed, prepend=True, with_kwargs=True)
        for unit in root.modules():
            if isinstance(unit, FSDPModule):
                # Losses are shares of the global mean, so gradients are sums. A factor alone
                # would be multiplied in by the collective, which gloo can't, and NCCL has zeroed
                # bfloat16 with.
                unit.set_gradient_divide_factor(1.0)
                unit.set_force_sum_reduction_for_comms(True)
                unit.set_reduce_scatter_unused_params(True)  # experts that other ranks use

    def _cut(self, module: nn.Module, policy: MixedPrecisionPolicy, types: Types) -> None:
        for parameter in module.parameters():
            if not isinstance(parameter, DTensor):
                dtype = types.get(parameter, torch.float32)
                parameter.data = parameter.data.to(self.device, dtype)
        fully_shard(module, mesh=self._mesh, mp_policy=policy, offload_policy=self._offload)

    def __call__(self, *batch: Any, **options: Any) -> tuple[torch.Tensor, ...]:
        """See ``Engine``."""
        return self._root(*batch, **options)

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """See ``Engine``."""
        (loss * self.loss_scale.factor if self.loss_scale else loss).backward()

    def step(self, factor: float, only: str = "") -> float:
        """See ``Engine``."""
        drop_others(self._root, only)
        groups = self._optimizer.param_groups
        for group in groups:
            group["lr"] = group["peak"] * factor
        parameters = [p for group in groups for p in group["params"]]
        if self.loss_scale:
            self.loss_scale.unscale(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, self._max_norm)
        total = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        if math.isfinite(total):
            self._optimizer.step()
            if self._ema:
                self._ema.update()
        self._optimizer.zero_grad(set_to_none=True)
        if self.loss_scale:
            self.loss_scale.update(total)
        return total

    @torch.no_grad()
    def follow(self, share: float) -> None:
        """See ``Engine``; both are cut alike."""
        self._reshard()
        for _, follower, trained_one in followers(self._root):
            follower.to_local().lerp_(trained_one.to_local(), share)

    def frozen(self, root: Root) -> Root:
        """See ``Engine``."""
        root.eval().requires_grad_(False)
        self._shard(root)
        return root

    def keep_average(self, decay: float, prefix: str = "") -> None:
        """See ``Engine``."""
        self._ema = Ema((p for name, p in self._trained() if name.startswith(prefix)), decay)

    def swap_average(self) -> None:
        """See ``Engine``."""
        if self._ema:
            self._reshard()
            self._ema.swap()

    def parts(self) -> Iterator[tuple[str, torch.Tensor]]:
        """See ``Engine``."""
        for name, parameter in self._trained():
            yield name, parameter.to_local()

    @torch.no_grad()
    def weights(self, dtype: torch.dtype | None = None) -> Iterator[tuple[str, torch.Tensor]]:
        """See ``Engine``."""
        self._reshard()
        yield from published(self._root, self._whole, dtype)

    def _whole(self, tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, DTensor):
            return tensor.detach()
        # Collectives are made by the device that computes, wherever slices are kept.
        placed: Any = tensor.detach().to(self.device)
        return placed.full_tensor()

    @torch.no_grad()
    def save(self, folder: Path) -> list[str]:
        """See ``Engine``; the ranks share the writing."""
        states = self._optimizer.state
        return write_state(
            folder,
            (
                ParameterState.of(name, p.numel(), p, states.get(p, {}), average_of(self._ema, p))
                for name, p in self._changing()
            ),
            lambda _name, tensor: self._whole(tensor),
            loss_scale=self.loss_scale,
        )

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """See ``Engine``; a rank reads its slices."""
        parameters = dict(self._changing())
        saved = SavedState(folder, {name: p.shape for name, p in parameters.items()})
        self.loss_scale = saved.loss_scale or self.loss_scale
        for name, parameter in parameters.items():
            rows = _rows(parameter)

            def slice_of(kind: str, name: str = name, rows: slice = rows) -> torch.Tensor:
                return saved.tensor(kind, name, rows)

            parameter.to_local().copy_(slice_of("weight"))
            if (average := average_of(self._ema, parameter)) is not None:
                average.to_local().copy_(slice_of(AVERAGE))
            self._optimizer.state.pop(parameter, None)
            if name in saved.updates:
                state: dict[str, torch.Tensor] = {
                    "step": torch.tensor(saved.updates[name], device=parameter.device)
                }
                for kind in MOMENTS:
                    moment: Any = torch.zeros_like(parameter)
                    moment.to_local().copy_(slice_of(kind))
                    state[kind] = moment
                self._optimizer.state[parameter] = state

    def _reshard(self) -> None:
        """Drop what a forward pass without a backward pass has left gathered."""
        root: Any = self._root
        root.reshard()

    def _trained(self) -> Iterator[tuple[str, Any]]:
        self._reshard()
        return trained(self._root)

    def _changing(self) -> Iterator[tuple[str, Any]]:
        self._reshard()
        return changing(self._root)


def _closed(
    _root: nn.Module, given: tuple[Any, ...], options: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call whose lists FSDP does not look into.

    It would move each of their tensors to the GPU by itself, and wait; the root moves what it
    needs, joined.
    """

    def closed(value: Any) -> Any:
        return UserList(value) if isinstance(value, list) else value

    return tuple(map(closed, given)), {name: closed(value) for name, value in options.items()}


def _widen_norms(layer: nn.Module) -> None:
    """Let a layer's norms scale and shift in the type of what they normalise.

    That is float32 under autocast, while their own weights are gathered narrow with the layer.
    RMSNorm multiplies, so types are promoted; LayerNorm on a CPU takes no mixture.
    """
    for norm in layer.modules():
        if isinstance(norm, nn.LayerNorm):
            norm.forward = partial(_normalize, norm)  # type: ignore[method-assign]


def _normalize(norm: nn.LayerNorm, hidden: torch.Tensor) -> torch.Tensor:
    weight, bias = (None if p is None else p.to(hidden.dtype) for p in (norm.weight, norm.bias))
    return nn.functional.layer_norm(hidden, norm.normalized_shape, weight, bias, norm.eps)


def _mesh(device: torch.device, shard: str) -> DeviceMesh:
    """All ranks in a row; or a row for each node, with replicas between nodes."""
    ranks, local = distributed.world_size(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if shard == "node" and 1 < local < ranks:
        return init_device_mesh(
            device.type, (ranks // local, local), mesh_dim_names=("nodes", "ranks")
        )
    return init_device_mesh(device.type, (ranks,))


def _rows(parameter: DTensor) -> slice:
    """Which rows of the whole tensor this rank holds."""
    mesh = parameter.device_mesh
    (dim,) = [i for i, how in enumerate(parameter.placements) if isinstance(how, Shard)]
    ranks, own = mesh.size(dim), mesh.get_local_rank(dim)
    rows = parameter.shape[0]
    each = -(-rows // ranks)  # as torch.chunk cuts
    return slice(min(own * each, rows), min((own + 1) * each, rows))
