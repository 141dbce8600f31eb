"""From a trained model's artifact to a store that was proven to answer like it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rlhf.config.store import StoreSlice
from rlhf.core.files import write_json
from rlhf.errors import IntegrityError
from rlhf.models import devices
from rlhf.models.folders import has_prefix
from rlhf.models.trust import is_trusted
from rlhf.serving.parity import check_parity
from rlhf.serving.store import Kind, export_store, model_identity

# What rounding alone may make of a log probability or a raw score.
TOLERANCES = {"float32": 1e-3, "bfloat16": 0.2}


def export(
    kind: Kind, artifact: Path, repository: Path, parity: Path, config: StoreSlice
) -> dict[str, Any]:
    """Write the store of a model, serve it, and compare it with the model.

    Args:
        kind: ``reward`` or ``reference``.
        artifact: folder of the trained model: ``manifest.json`` and ``model/``.
        repository: the store to make.
        parity: report of the comparison to write (JSON).
        config: how the store is made, and how long the rows are that are compared.

    Returns:
        Facts for the manifest: the store's ``identity``.

    Raises:
        IntegrityError: the artifact is not a model of this kind, or one that runs its own code, or
            the store fails the check.
        ServingError: the store can't be served; the server's log stays beside ``parity``.
    """
    if is_trusted(artifact / "model"):
        raise IntegrityError(
            "This model runs its own code, which model servers do not.",
            where=artifact / "model",
            hint="set ppo.<name>.scoring: local, which asks the models in-process",
        )
    if has_prefix(artifact / "model"):
        raise IntegrityError(
            "This model has a prefix, which model servers don't know.",
            where=artifact / "model",
            hint="set scoring: local in the runs that it scores for",
        )
    identity = model_identity(kind, artifact)
    dtype = (
        str(devices.own_dtype()).removeprefix("torch.") if config.dtype == "auto" else config.dtype
    )
    export_store(
        kind,
        artifact / "model",
        repository,
        identity,
        max_batch_size=config.max_batch_size,
        max_batch_tokens=config.max_batch_tokens,
        dtype=dtype,
    )
    log = parity.with_suffix(".server.log")
    report = check_parity(
        kind,
        artifact / "model",
        repository,
        log,
        threads=int(os.environ.get("OMP_NUM_THREADS", "1")),
        tolerance=config.tolerance or TOLERANCES[dtype],
        dtype=dtype,
        longest=config.longest,
    )
    write_json(parity, report)
    log.unlink()
    return {"identity": identity}
