"""Model servers that the launcher has started for a stage."""

from __future__ import annotations

import os
from pathlib import Path

from rlhf.errors import ServingError
from rlhf.runtime.deadline import stop_requested
from rlhf.runtime.tls import FOLDER_VARIABLE, Certificates
from rlhf.serving.client import TritonScorer
from rlhf.serving.store import Kind, model_identity
from rlhf.stages.stage import Stage


def announced(stage: Stage, name: str, otherwise: str) -> tuple[str, Certificates]:
    """Endpoint and certificates of a server.

    Args:
        stage: the stage.
        name: what the server is called, such as ``reward`` or ``sampler``.
        otherwise: the setting that needs none, for the message.

    Raises:
        ServingError: none was announced.
    """
    endpoint = os.environ.get(f"RLHF_ENDPOINT_{name.upper()}")
    if not endpoint:
        option = "--sampler" if name == "sampler" else "--serve"
        raise ServingError(
            f"No {name} server was announced (RLHF_ENDPOINT_{name.upper()} is not set).",
            where=f"{stage.stage}.{stage.name}",
            hint=f"start this stage through `rlhf launch {option} …`, or set {otherwise}",
        )
    return endpoint, Certificates(Path(os.environ.get(FOLDER_VARIABLE, "")))


def client(stage: Stage, kind: Kind, folder: Path, number: int = 1) -> TritonScorer:
    """A client that has checked that its server holds the expected model.

    Args:
        stage: the stage.
        kind: of the model.
        folder: of the model.
        number: which of the servers of that kind, from 1.

    Raises:
        ServingError: no server was announced, or it does not answer.
        IntegrityError: it holds another model.
    """
    name = f"{kind}{number}" if number > 1 else kind
    endpoint, certificates = announced(stage, name, "scoring: local")
    identity = model_identity(kind, folder.parent)
    scorer = TritonScorer(endpoint, kind, identity, certificates, ending=stop_requested)
    scorer.handshake()
    return scorer
