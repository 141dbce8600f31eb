"""DeepSpeed's ZeRO: ranks share the optimizer's state, from stage 2 gradients, in stage 3 weights.

Rajbhandari et al. 2020, ZeRO: Memory Optimizations Toward Training Trillion Parameter Models.
DeepSpeed is driven directly, without its launcher, its files and its configuration of a run; its
compiled parts are not used, so nothing is built on the machine that trains. What reads or writes
the optimizer's state goes by the layout of the pinned version: in 0.19.8 its own functions for it
fail for some groups and sizes of parameters.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from rlhf.config.training import OptimizerConfig
from rlhf.errors import ConfigError
from rlhf.models import devices
from rlhf.models.backbone import Backbone, backbones
from rlhf.models.branch import branches
from rlhf.models.layers import decoder_layers, partly_used
from rlhf.runtime.options import EngineOptions
from rlhf.training import distributed
from rlhf.training.ema import Ema, average_of
from rlhf.training.engine.named import followers, published, trained
from rlhf.training.engine.placing import Types, narrow_types, place
from rlhf.training.engine.scale import LossScale
from rlhf.training.engine.state import AVERAGE, MOMENTS, ParameterState, SavedState, write_state
from rlhf.training.optim import build_optimizer, parameter_groups

Root = TypeVar("Root", bound=Backbone)
STAGES = {"zero1": 1, "zero2": 2, "zero3": 3}


@dataclass(frozen=True)
class _Part:
    """What a rank keeps of a parameter's master weights and moments.

    Attributes:
        flat: the rank's master weights of a group of parameters; their moments lie alike.
        start: where the part begins in ``flat``.
        first: its first number's place in the whole parameter, flattened.
        count: how many numbers it has; 0: other ranks have all.
    """

    flat: torch.Tensor
    start: int
    first: int
    count: int

    def of(self, flat: torch.Tensor) -> torch.Tensor:
        """The part [count] of weights or moments of the group."""
        return flat.detach()[self.start : self.start + self.count]

    @property
    def places(self) -> slice:
        """Where it lies in the whole parameter, flattened."""
        return slice(self.first, self.first + self.count)


class Zero:
    """See ``Engine``. In stages 1 and 2 every rank also has whole weights to compute with.

    A norm that is not finite is given as infinity. A parameter that no row of an update used counts
    as one with a gradient of zeros. In stages 2 and 3 every rank's micro-batch has to use all of
    them: models that need not are refused. Under stage 3 roots are called as modules: their inner
    parts hold no weights.

    Args:
        root: the module that is trained, its frozen parameters already marked.
        rates: prefix of parameter names → peak learning rate; ``""`` stands for all.
        config: AdamW's.
        options: the stage, and what is kept in the memory of the CPUs.

    Raises:
        ConfigError: DeepSpeed is not installed, the stage does not have an option, parameters of
            the root follow others, or ranks might use different parts of the model.
    """

    def __init__(
        self,
        root: nn.Module,
        rates: Mapping[str, float],
        config: OptimizerConfig,
        options: EngineOptions,
    ) -> None:
        self._stage = STAGES[options.kind]
        self.sharded = self._stage == 3
        _check(options)
        _check_followers(root, options.kind)
        if self.sharded and branches(root):
            raise ConfigError(
                "zero3 gathers layers by their place, which those of a branch take in turn.",
                where="cluster.engine",
                expected="replicated, fsdp, zero1 or zero2",
                hint="take the engine fsdp; or value.kind: head, and reference: model",
            )
        if self._stage > 1:
            _check_use(root, options.kind)
        distributed.start_alone()
        self.device = devices.own_device()
        self._deepspeed = _load_deepspeed(self.device)
        self._root, self._offload = root, options.offload
        self._max_norm = config.max_grad_norm
        # Before anything is cut: the optimizer goes by the parameters' shapes.
        self._optimizer = build_optimizer(parameter_groups(root, rates), config)
        self._place(root)
        self.loss_scale = LossScale.of(root)
        self._engine = self._initialize(root, self._optimizer)
        self._zero = self._engine.optimizer
        self._parts = dict(self._layout())
        self._ema: Ema | None = None

    def _place(self, root: nn.Module) -> None:
        """Whole on the device; or layer by layer widened, cut into the ranks' parts, dropped."""
        types = narrow_types(root, self.device)
        for backbone in backbones(root):
            backbone.place(self.device, lockstep=self.sharded)
            for layer in decoder_layers(backbone.model) if self.sharded else ():
                self._cut(layer, root, types)
        if self.sharded:
            self._cut(root, root, types)
        place(root, self.device)

    def _cut(self, module: nn.Module, root: nn.Module, types: Types) -> None:
        for parameter in module.parameters():
            if not hasattr(parameter, "ds_id"):
                # A copy: DeepSpeed would write into pages that are mapped from a file.
                dtype = types.get(parameter, torch.float32)
                parameter.data = parameter.data.to(self.device, dtype, copy=True)
        self._deepspeed.zero.Init(
            module=module, config_dict_or_path=self._settings(root), dtype=torch.float32
        )

    def _initialize(self, root: nn.Module, optimizer: Any = None) -> Any:
        return self._deepspeed.initialize(
            model=root,
            optimizer=optimizer,
            config=self._settings(root),
            dist_init_required=False,
        )[0]

    def _settings(self, root: nn.Module) -> dict[str, Any]:
        """DeepSpeed's configuration."""
        width = max(backbone.model.config.hidden_size for backbone in backbones(root))
        cpu = {"device": "cpu", "pin_memory": self.device.type != "cpu"}
        zero: dict[str, Any] = {
            "stage": self._stage,
            "overlap_comm": self.device.type != "cpu",
            "contiguous_gradients": True,
            # The defaults are for the largest models: buffers of 2 GB on every rank, and smaller
            # models would not be cut at all.
            "reduce_bucket_size": width * width,
        }
        if self.sharded:
            zero |= {
                "stage3_prefetch_bucket_size": int(0.9 * width * width),
                "stage3_param_persistence_threshold": 10 * width,
            }
        if self._offload != "none":
            zero["offload_optimizer"] = cpu
        if self._offload == "all":
            zero["offload_param"] = cpu
        return {
            "train_micro_batch_size_per_gpu": 1,  # it has to be given, and counts samples only
            "gradient_accumulation_steps": 1,  # ``backward`` says which micro-batch is the last
            "gradient_clipping": self._max_norm,
            "steps_per_print": 10**9,
            # AdamW is torch's: DeepSpeed's own ones are compiled where they are used.
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": zero,
        }

    def __call__(self, *batch: Any, **options: Any) -> tuple[torch.Tensor, ...]:
        """See ``Engine``."""
        return self._engine(*batch, **options)

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """See ``Engine``."""
        # Every time: what is not said to be otherwise is the last one, and stage 2 would forget
        # the gradients of those before it.
        self._engine.set_gradient_accumulation_boundary(last)
        if self.loss_scale:  # it scales losses by this, and gradients back
            self._zero.override_loss_scale(self.loss_scale.factor)
        self._engine.backward(loss * distributed.world_size())  # it takes means over the ranks

    def step(self, factor: float, only: str = "") -> float:
        """See ``Engine``; it updates all parameters together: stages refuse a part of them."""
        assert not only
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        self._engine.step()
        norm = float(self._engine.get_global_grad_norm())
        if self._ema and math.isfinite(norm):
            self._ema.update()
        if self.loss_scale:
            self.loss_scale.update(norm)
        return norm

    def follow(self, share: float) -> None:
        """See ``Engine``; no root has any here."""

    def frozen(self, root: Root) -> Root:
        """See ``Engine``."""
        if self.sharded:
            _check_use(root, "zero3")
        root.eval().requires_grad_(False)
        self._place(root)
        if self.sharded:
            self._initialize(root)  # its hooks on the root's modules gather the layers
        return root

    def keep_average(self, decay: float, prefix: str = "") -> None:
        """See ``Engine``."""
        named = trained(self._root)
        flats = (self._parts[p].flat for name, p in named if name.startswith(prefix))
        self._ema = Ema(flats, decay)

    @torch.no_grad()
    def swap_average(self) -> None:
        """See ``Engine``."""
        if self._ema:
            self._ema.swap()
            self._compute_with_masters()

    def parts(self) -> Iterator[tuple[str, torch.Tensor]]:
        """See ``Engine``."""
        for name, parameter in trained(self._root):
            part = self._parts[parameter]
            yield name, part.of(part.flat) if self.sharded else parameter

    @torch.no_grad()
    def weights(self, dtype: torch.dtype | None = None) -> Iterator[tuple[str, torch.Tensor]]:
        """See ``Engine``."""
        if self.sharded:  # what a forward pass without a backward pass has left on its way here
            self._zero.empty_partition_cache()
        yield from published(self._root, self._gathered, dtype)

    def _gathered(self, tensor: torch.Tensor) -> torch.Tensor:
        if not hasattr(tensor, "ds_id"):
            return tensor.detach()
        with self._deepspeed.zero.GatheredParameters([tensor]):
            return tensor.detach().clone()

    @torch.no_grad()
    def save(self, folder: Path) -> list[str]:
        """See ``Engine``; the ranks share the writing."""
        parameters, states = dict(trained(self._root)), self._optimizer.state

        def kept() -> Iterator[ParameterState]:
            for name, parameter in parameters.items():
                flat = self._parts[parameter].flat
                numbers = _shape(parameter).numel()
                average = average_of(self._ema, flat)
                yield ParameterState.of(name, numbers, flat, states.get(flat, {}), average)

        return write_state(
            folder,
            kept(),
            lambda name, flat: self._joined(parameters[name], flat),
            loss_scale=self.loss_scale,
        )

    def _joined(self, parameter: nn.Parameter, flat: torch.Tensor) -> torch.Tensor:
        """All ranks' parts of a parameter, of its group's master weights or of a moment."""
        part, shape = self._parts[parameter], _shape(parameter)
        whole = torch.zeros(shape.numel(), dtype=flat.dtype, device=self.device)
        whole[part.places] = part.of(flat).to(self.device)
        # As integers, where zeros added change nothing; of floats they would, the sign of -0.
        dist.all_reduce(whole.view(torch.int32))
        return whole.view(shape)

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """See ``Engine``.

        DeepSpeed counts the updates of a group: all of its parameters are taken for as old as the
        oldest.
        """
        parameters = dict(trained(self._root))
        saved = SavedState(folder, {name: _shape(p) for name, p in parameters.items()})
        self.loss_scale = saved.loss_scale or self.loss_scale
        states = self._optimizer.state
        states.clear()
        for name, parameter in parameters.items():
            part = self._parts[parameter]
            flats = {"weight": part.flat}
            if (average := average_of(self._ema, part.flat)) is not None:
                flats[AVERAGE] = average
            if name in saved.updates:
                state = states.setdefault(part.flat, {})
                for kind in MOMENTS:
                    flats[kind] = state.setdefault(kind, torch.zeros_like(part.flat.detach()))
                step = max(saved.updates[name], float(state.get("step", 0.0)))
                state["step"] = torch.tensor(step, device=part.flat.device)
            for kind, flat in flats.items():
                part.of(flat).copy_(saved.tensor(kind, name).flatten()[part.places])
        self._compute_with_masters()

    def _compute_with_masters(self) -> None:
        """Make the weights that passes compute with those of the optimizer."""
        if not self.sharded:
            self._zero.update_lp_params()
            return
        self._engine.empty_partition_cache()  # small parameters stay whole between passes
        for _, parameter in trained(self._root):
            part = self._parts[parameter]
            parameter.ds_tensor.data.view(-1)[: part.count].copy_(part.of(part.flat))

    def _layout(self) -> Iterator[tuple[nn.Parameter, _Part]]:
        """Where this rank keeps its part of each trained parameter."""
        zero, rank = self._zero, distributed.rank()
        if self.sharded:  # each parameter is padded and cut
            for parameters, flat in zip(
                zero.fp16_groups, zero.fp32_partitioned_groups_flat, strict=True
            ):
                start = 0
                for parameter in parameters:
                    size = parameter.ds_tensor.ds_numel
                    first = min(rank * size, parameter.ds_numel)
                    count = min(size, parameter.ds_numel - first)
                    yield parameter, _Part(flat, start, first, count)
                    start += size
            return
        for parameters, flat in zip(
            zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True
        ):  # all of a group stand in a row, which is padded and cut
            place = -rank * flat.numel()
            for parameter in parameters:
                begin, end = max(place, 0), min(place + parameter.numel(), flat.numel())
                yield parameter, _Part(flat, begin, begin - place, max(end - begin, 0))
                place += parameter.numel()


def _shape(parameter: Any) -> torch.Size:
    """A parameter's shape, though only a part of it may be here."""
    return getattr(parameter, "ds_shape", parameter.shape)


def _check(options: EngineOptions) -> None:
    if find_spec("deepspeed") is None:
        raise ConfigError(
            f"The engine {options.kind} is DeepSpeed's, which is not installed.",
            where="cluster.engine",
            hint="pip install -c envs/lock.txt -r envs/train.txt; or take the engine fsdp, which "
            "comes with torch",
        )
    if options.offload == "all" and options.kind != "zero3":
        raise ConfigError(
            f"With {options.kind} every rank keeps whole weights where it computes.",
            where="cluster.offload",
            expected="none, or optimizer",
            hint="take zero3 to keep weights in the memory of the CPUs",
        )
    if options.shard != "all":
        raise ConfigError(
            f"{options.kind} cuts over all ranks only.",
            where="cluster.shard",
            expected="all",
            hint="take the engine fsdp to cut over the ranks of each node",
        )


def _check_followers(root: nn.Module, kind: str) -> None:
    if any(True for _ in followers(root)):
        raise ConfigError(
            f"Some of the weights follow others that are trained, which {kind} does not keep: its "
            "states have what its optimizer holds, and nothing besides.",
            where="cluster.engine",
            expected="auto, replicated or fsdp",
            hint="take the engine fsdp, which cuts as zero3 does",
        )


def _check_use(root: nn.Module, kind: str) -> None:
    """Refuse a model of which ranks might use different parts: each would wait for the others."""
    for backbone in backbones(root):
        model, part = backbone.model, partly_used(backbone.model)
        if part is not None:
            raise ConfigError(
                f"The layers of {type(model).__name__} ({model.config.model_type}) have a list of "
                f"modules, {part}, of which a row may use a part: {kind} would wait for what other "
                "ranks don't use.",
                where="cluster.engine",
                expected="replicated, fsdp or zero1",
                hint="take the engine fsdp, which gathers whole layers",
            )


def _load_deepspeed(device: torch.device) -> Any:
    """DeepSpeed on this process's group, quiet, and with nothing that it would compile."""
    # By itself it looks for a GPU, and warns where there is none.
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    os.environ.setdefault("LOCAL_RANK", "0")
    import deepspeed

    with _without_compiler():
        import deepspeed.runtime.zero.muon.muon_optimizer  # as every engine does
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # Its collectives have newer names in torch, which says so at every call.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    # Sums through shared memory, for ranks on CPUs; the table is there to be edited.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(
        dist_backend=dist.get_backend(), auto_mpi_discovery=False, verbose=False
    )
    return deepspeed


@contextmanager
def _without_compiler() -> Iterator[None]:
    """What is decorated with torch.compile meanwhile stays plain Python.

    An optimizer that is not used here is; loading the compiler for it takes seconds.
    """
    key = "TORCHDYNAMO_DISABLE"
    before = os.environ.get(key)
    os.environ[key] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[key]
        else:
            os.environ[key] = before
