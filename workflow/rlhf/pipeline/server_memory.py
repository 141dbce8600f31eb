"""What model servers with GPUs of their own need there: one GPU, several for one model, or more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rlhf.catalog import SECTIONS, STORES
from rlhf.config.cluster import served_models, stage_layout
from rlhf.config.schema import Config
from rlhf.pipeline import memory
from rlhf.pipeline.memory import GB
from rlhf.pipeline.work import FITS, NODE_GPUS, model_of, served_width

Servers = dict[str, tuple[float, int]]


def server_gb(config: Config, section: str, name: str, size: float | None = None) -> Servers:
    """What each model server with GPUs of its own needs there.

    Args:
        config: the whole configuration.
        section: of an on-policy run.
        name: the run's name.
        size: memory of one GPU, in GB; None: as configured.

    Returns:
        What it is called → GB on each GPU, and over how many of them its model is spread: one, if
        it fits.
    """
    row, size = SECTIONS[section], size or config.cluster.gpu_memory_gb
    layout = stage_layout(config, row.rule, name)
    given = layout.server_gpus
    servers = {}
    for server in served_models(config, section, name) if given else ():
        alone = _served_gb(config, section, name, server, 1)
        spread = given > 1 and alone > FITS * size
        servers[server] = (
            (_served_gb(config, section, name, server, given), given) if spread else (alone, 1)
        )
    if given and layout.samplers:
        servers["sampler"] = (_sampler_gb(config, section, name, given), given)
    return servers


def spread_servers(config: Config, section: str, name: str) -> list[str]:
    """Model servers whose model is spread over its GPUs: it is too large for one.

    Args:
        config: the whole configuration.
        section: of an on-policy run.
        name: the run's name.
    """
    servers = server_gb(config, section, name)
    return [one for one in served_models(config, section, name) if servers.get(one, (0, 1))[1] > 1]


def _served_gb(config: Config, section: str, name: str, server: str, gpus: int) -> float:
    """GB of a model server on each of the GPUs that its model is spread over."""
    kind, served = served_models(config, section, name)[server]
    width = served_width(config, stage_layout(config, SECTIONS[section].rule, name))
    model = model_of(config, STORES[kind], served, scored=kind == "reward")
    inner, hidden = model.shape.inner, model.shape.hidden
    forward = config.store.max_batch_tokens * width * (4 * inner + 8 * hidden)
    weights, _ = memory.held_bytes(model, width, gpus)
    return (weights + forward + 12 * memory.CHUNK + memory.CONTEXT) / GB


def _sampler_gb(config: Config, section: str, name: str, gpus: int) -> float:
    """GB of a vLLM server on each of its GPUs: weights, and one row's keys and values."""
    run = getattr(config, section)[name]
    model = model_of(config, *config.start(section, name))
    columns = config.tokenization.prompt.max_length + run.sampling.max_new_tokens
    width = 4 if run.precision == "float32" else 2
    held = width * model.parameters + memory.cache_bytes(model.shape, columns, width)
    return (held / gpus + memory.CONTEXT) / GB


@dataclass(frozen=True)
class LargeServer:
    """A model server that its GPUs are too small for.

    Attributes:
        what: which, what it needs, and what there is.
        gb: that it needs on a GPU.
        changes: of the configuration, each of which is enough.
    """

    what: str
    gb: float
    changes: str


def large_servers(config: Config, section: str, name: str) -> Iterator[LargeServer]:
    """The model servers of a run that need more than 80 % of their GPUs."""
    size, most = config.cluster.gpu_memory_gb, FITS * config.cluster.gpu_memory_gb
    given = stage_layout(config, SECTIONS[section].rule, name).server_gpus
    for kind, (gb, _) in server_gb(config, section, name).items():
        if gb <= most:
            continue
        sampler = kind == "sampler"
        larger = (
            gpus for gpus in range(given + 1, NODE_GPUS)
            if (_sampler_gb(config, section, name, gpus) if sampler
                else _served_gb(config, section, name, kind, gpus)) <= most
        )  # fmt: skip
        choices = []
        if config.store.dtype == "float32" and not sampler:
            choices.append("store.dtype: auto")
        choices += [f"cluster.server_gpus: {gpus}" for gpus in list(larger)[:1]]
        own = "sampling.sampler: loop" if sampler else "scoring: local"
        choices.append(f"{section}.{name}.{own}")
        what = f"{section}.{name}: the {kind} server needs {gb:.0f} GB on a GPU that has {size:g}"
        yield LargeServer(what, gb, ", or ".join(choices))
