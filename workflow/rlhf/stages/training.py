"""What the training stages share: threads, tokenizer checks, publishing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from rlhf.config import mixture as shares_config
from rlhf.config.adapter import AdapterConfig
from rlhf.config.offline import OfflineConfig
from rlhf.core.files import atomic_directory
from rlhf.data.enough import require_training
from rlhf.data.left_out import DUPLICATES, read_left_out
from rlhf.data.mixture import Mixture, Share
from rlhf.data.rows_file import find_prompts
from rlhf.errors import IntegrityError, RlhfError
from rlhf.models import devices
from rlhf.models.adapters import Lora, add_adapter
from rlhf.models.backbone import Backbone
from rlhf.models.folders import has_prefix
from rlhf.models.precision import exact_float32
from rlhf.models.prefix_tuning import add_prefix
from rlhf.models.publish import below, save_model
from rlhf.models.quantized import check_quantizing, quantize
from rlhf.models.regularization import add_embedding_noise, drop_residuals
from rlhf.models.trust import TRUSTED
from rlhf.provenance.bases import base_of, describe_base
from rlhf.provenance.manifest import read_manifest
from rlhf.runtime import fence
from rlhf.runtime.onednn import limit_onednn_cache
from rlhf.stages.stage import Stage
from rlhf.training import distributed, finite
from rlhf.training.determinism import only_deterministic
from rlhf.training.engine.protocol import Engine
from rlhf.training.loop import Objective, mean_over
from rlhf.training.run import TrainingRun, check_owner

TOKENIZER_FACTS = ("tokenizer_digest", "template_digest")


def begin(deterministic: bool = False) -> int:
    """Join the ranks, fix the number of threads and what float32 means; returns the threads.

    Args:
        deterministic: use deterministic kernels alone.

    Raises:
        ClusterError: a GPU that this process was given can't be used.
    """
    os.environ.update(limit_onednn_cache())  # torch looks when it computes its first product
    distributed.start()
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    torch.set_num_threads(threads)
    exact_float32()
    if deterministic:
        only_deterministic()
    return threads


def machine_facts(threads: int) -> dict[str, Any]:
    """What a result's bytes may depend on besides its inputs, for the manifest.

    Args:
        threads: CPU threads of each process.
    """
    return {"threads": threads, "processes": distributed.world_size()} | devices.facts()


def tokenizer_facts(stage: Stage, *roles: str) -> dict[str, Any]:
    """The digests of tokenizer and template that all inputs of these roles share.

    And whether a model among them is trusted to run its own code: what comes from it will.

    Raises:
        IntegrityError: two inputs were made with different tokenizers or templates.
    """
    manifests = [path for role in roles for path in stage.inputs.get(role, [])]
    facts = {path: read_manifest(path)["facts"] for path in manifests}
    first = manifests[0]
    for path in manifests[1:]:
        for name in TOKENIZER_FACTS:
            if facts[path][name] != facts[first][name]:
                raise IntegrityError(
                    f"{path} was made with another {name} than {first}.",
                    where=path,
                    expected=f"{name} {facts[first][name][:12]}, found {facts[path][name][:12]}",
                    hint="run snakemake again; if it stays, compare models.* in the config",
                )
    trusted = any(facts[path].get(TRUSTED) for path in manifests)
    shared = {name: facts[first][name] for name in TOKENIZER_FACTS}
    return shared | ({TRUSTED: True} if trusted else {})


def adapt(
    stage: Stage,
    root: Backbone,
    config: AdapterConfig | None,
    seed: int,
    precision: str,
    number: int = 0,
) -> None:
    """Put an adapter into a model that will be trained, if the run has one.

    Args:
        stage: the stage.
        root: the model's root, its weights in place.
        config: the adapter's settings.
        seed: the run's.
        precision: type of its matrix products.
        number: of the model, where a run trains more than one.

    Raises:
        ConfigError: a name in the settings is not that of a layer that can be adapted, or weights
            can't be quantized here.
    """
    if config is None:
        return
    where = f"{stage.section}.{stage.name}.adapter"
    if config.quantize:
        check_quantizing(devices.own_device(), stage.engine.kind, f"{where}.quantize")
        quantize(root.model, getattr(torch, precision))
    if config.kind == "prefix":
        add_prefix(root.model, config.virtual_tokens, seed, where, number)
    else:
        lora = Lora(**config.model_dump(include={each.name for each in fields(Lora)}))
        add_adapter(root.model, lora, seed, where, number)


def regularize(
    stage: Stage, root: Backbone, config: OfflineConfig, neftune_alpha: float | None = None
) -> None:
    """Put dropout and noise into the passes that a model is trained by, if the run has them.

    Args:
        stage: the stage.
        root: the model's root, its adapter in place.
        config: the run's configuration.
        neftune_alpha: α of noise on the embeddings; None: there is none.

    Raises:
        ConfigError: it is not known where the architecture's layers could drop something.
    """
    dropout = config.residual_dropout
    where = f"{stage.section}.{stage.name}.residual_dropout"
    if dropout.rate:
        drop_residuals(root, dropout.rate, dropout.ramp, where, config.freeze_layers)
    if neftune_alpha is not None:
        add_embedding_noise(root, neftune_alpha)


def own_base(config: AdapterConfig | None, start: Path) -> Path | None:
    """The model that an adapter needs which is published alone; else None.

    Args:
        config: the adapter's settings.
        start: folder of the model that the run started from; a prefix takes the place of its own.
    """
    if config is None or not config.alone:
        return None
    return base_of(start) if has_prefix(start) else start


def mixture(
    stage: Stage, taken: Mapping[str, shares_config.Share], split: str, role: str = "data"
) -> Mixture:
    """One split of the tokenized sets that are the inputs of a role: what the run takes of it.

    Args:
        stage: the stage.
        taken: dataset → its share, as the run's configuration says.
        split: ``train`` or ``validation``.
        role: ``data``, from which duplicates are left out; or of other inputs.

    Raises:
        DataError: there is nothing to train on.
    """
    folders = {path.parent.name: path.parent / "data" for path in stage.inputs[role]}
    shares = {name: Share(**taken[name].model_dump()) for name in folders}
    left_out = None
    if split == "train" and role == "data" and "duplicates" in stage.inputs:
        left_out = read_left_out(stage.folder("duplicates") / DUPLICATES)
    data = Mixture(folders, shares, split, left_out)
    if split == "train":
        own = f"{stage.section}.{stage.name}" + ("" if role == "data" else f".{role}")
        require_training(own, stage.inputs[role], data)
    return data


def validation(
    stage: Stage,
    engine: Engine,
    objective: Objective,
    data: Mixture,
    held_out: Mixture,
    config: OfflineConfig,
    enrich: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] = lambda rows: rows,
) -> dict[str, float]:
    """Means of the loss and the other measures over held-out rows, ``validation_`` before each.

    The held-out rows are one batch to ``enrich``: see ``train``. Where they are of several
    datasets, ``/DATASET`` stands after the name of each one's own.

    Raises:
        NumericsError: there are no such rows, and the loss of a training row is not finite.
    """
    measures = mean_over(engine, objective, enrich(list(held_out)), stage.micro_batch_tokens)
    if not measures:  # the last weights answer to nobody else
        known = mean_over(engine, objective, enrich([data[0]]), stage.micro_batch_tokens)
        rates = {"optimizer.learning_rate": config.optimizer.learning_rate}
        where = f"{stage.section}.{stage.name}, a training row"
        finite.check(known, where, finite.advice(rates, config.precision))
    return {f"validation_{name}": value for name, value in measures.items()}


def messages_of(stage: Stage, rows: Iterable[Mapping[str, Any]]) -> list[list[dict[str, str]]]:
    """The messages of prompts, from the datasets whose manifests are the inputs ``rows``.

    A prompt that tokenization cut has all its messages here.

    Args:
        stage: the stage.
        rows: have ``dataset`` and ``id``, as the rows of a ``Mixture`` do.

    Returns:
        For each row ``role`` and ``content`` of every turn, the user's the last.

    Raises:
        IntegrityError: a dataset does not hold a row.
    """
    places = [(row["dataset"], row["id"]) for row in rows]
    found = {}
    for manifest in stage.inputs["rows"]:
        dataset = manifest.parent.name
        ids = {row_id for name, row_id in places if name == dataset}
        for row_id, prompt in find_prompts(manifest.parent / "rows", ids).items():
            found[dataset, row_id] = [
                {"role": message.role, "content": message.content} for message in prompt.history
            ]
    return [found[place] for place in places]


def publish_model(
    engine: Engine,
    root: Backbone,
    tokenizer: Any,
    folder: Path,
    base: Path | None,
    extra: Callable[[Path], None] = lambda _folder: None,
    prefix: str = "",
) -> None:
    """Write the final model, whole or not at all; all ranks call this.

    Args:
        engine: holds the weights.
        root: the model's root.
        tokenizer: its tokenizer.
        folder: where it goes.
        base: folder of the model that its adapter was added to, if that is published alone.
        extra: called with the folder before it is sealed.
        prefix: of the root's names in the engine, where it is a part of what is trained.

    Raises:
        NumericsError: a weight is not finite; nothing is written.
        Fenced: another attempt has taken this run over; nothing is written.
        RlhfError: the disk is full, for one.
    """

    described = describe_base(base, folder) if base else None

    def write(temporary: Path, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
        save_model(root, weights, tokenizer, temporary, base=described)
        extra(temporary)

    publish_weights(engine, f"{prefix}model.", folder, write)


def finish(
    stage: Stage,
    finished: TrainingRun,
    data: Mixture,
    held_out: Mixture,
    metrics: Mapping[str, float],
    facts: Mapping[str, Any],
    counts: Mapping[str, Any] | None = None,
) -> None:
    """Publish the metrics and write the manifest of a run on datasets alone; leave the ranks.

    Args:
        stage: the stage, its model published.
        finished: the run.
        data: its training rows.
        held_out: its held-out rows.
        metrics: the few figures that sum it up.
        facts: what later stages check.
        counts: beside those of the rows.
    """
    finished.publish(metrics=stage.outputs["metrics"])
    if distributed.rank() == 0:
        rows = {
            "train_rows": len(data),
            "epoch_rows": data.epoch_rows,
            "validation_rows": len(held_out),
            **({"kept_step": finished.kept_step} if finished.kept_step is not None else {}),
        }
        stage.finish(counts=rows | dict(counts or {}), metrics=dict(metrics), facts=dict(facts))
        finished.mark_published()
    distributed.finish()


def publish_weights(
    engine: Engine,
    prefix: str,
    folder: Path,
    write: Callable[[Path, Iterator[tuple[str, torch.Tensor]]], None],
) -> None:
    """Let rank 0 write whole weights into a folder that appears when all is written.

    Args:
        engine: holds the weights; all ranks give theirs.
        prefix: of the names that are published; it is cut off.
        folder: where they go.
        write: called on rank 0 with a temporary folder and the weights.

    Raises:
        NumericsError: a weight is not finite; nothing is written.
        Fenced: another attempt has taken this run over; nothing is written.
        RlhfError: the disk is full, for one.
    """
    finite.check_weights(engine.weights(), folder, finite.START_ADVICE)
    check_owner()
    weights = below(engine.weights(torch.float32), prefix)
    if distributed.rank() == 0:
        try:
            with atomic_directory(folder, guard=fence.check) as temporary:
                write(temporary, weights)
        except OSError as error:
            raise RlhfError(
                f"The model could not be written: {error}.",
                where=folder,
                hint="make room and run the same command: the finished training is saved",
            ) from error
    for _ in weights:  # every rank gives its part of each
        pass
    distributed.wait()
