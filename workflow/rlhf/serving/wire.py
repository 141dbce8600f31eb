"""One request to a served model: rows of token ids there, float32 rows back.

Triton gives the answer of one request to another one, without an error, after its Python process
stood still for a second (stopped, or short of memory). So every answer carries a checksum over
what it was computed from and over itself, and no other answer is taken.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Literal

import grpc
import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from rlhf.runtime.tls import Certificates
from rlhf.serving.store import CHECKSUM, OUTPUTS, Kind

REQUEST_SECONDS = 120.0
Padding = Literal["none", "left", "right"]

_OPTIONS = [
    ("grpc.max_send_message_length", 2**31 - 1),
    ("grpc.max_receive_message_length", 2**31 - 1),
    ("grpc.enable_http_proxy", 0),  # a proxy must never see requests to this machine
    # Channels share connections, and their waiting times after a failure, unless told not to.
    ("grpc.use_local_subchannel_pool", 1),
]


def credentials(certificates: Certificates) -> grpc.ChannelCredentials:
    """What a client shows and whom it trusts.

    Raises:
        ServingError: the certificates can't be used; gRPC would abort the process for some.
    """
    certificates.check_client()
    return grpc.ssl_channel_credentials(
        certificates.ca.read_bytes(),
        certificates.client_key.read_bytes(),
        certificates.client_cert.read_bytes(),
    )


def connect(endpoint: str, known_by: grpc.ChannelCredentials) -> InferenceServerClient:
    """A channel to ``host:port``; the connection itself is made with the first request."""
    return InferenceServerClient(endpoint, creds=known_by, channel_args=_OPTIONS)


def ask(
    client: InferenceServerClient,
    kind: Kind,
    rows: Sequence[np.ndarray],
    starts: Sequence[int] | None = None,
    temperature: float = 1.0,
    padding: Padding = "right",
    extra: int = 0,
    seconds: float = REQUEST_SECONDS,
) -> list[np.ndarray]:
    """Score rows in one request.

    Args:
        client: a channel to the server.
        kind: which model it serves.
        rows: arrays of token ids, int64 [length].
        starts: for the reference, the first token of each row that counts.
        temperature: for the reference, divides the logits.
        padding: side of the padding; ``none`` sends no mask, for rows of one length.
        extra: columns of padding beyond the longest row.
        seconds: time for the answer.

    Returns:
        float32 arrays: [1] for a reward, [length − start] for a reference.

    Raises:
        InferenceServerException: there is no answer, or (``DATA_LOSS``) it is not the answer to
            this request.
    """
    inputs = _encode(rows, starts, temperature, padding, extra)
    result = client.infer(kind, inputs, client_timeout=seconds)
    lengths = [1 if starts is None else len(row) - starts[i] for i, row in enumerate(rows)]
    values, sums = result.as_numpy(OUTPUTS[kind][0]), result.as_numpy(CHECKSUM)
    if values is None or values.shape != (len(rows), max(lengths)) or values.dtype != np.float32:
        raise _not_ours()
    if sums is None or sums.shape != (len(rows), 1):
        raise _not_ours()
    answers = [value[:length].copy() for value, length in zip(values, lengths, strict=True)]
    for i, answer in enumerate(answers):
        given = () if starts is None else (np.int64(starts[i]), np.float32(temperature))
        if checksum(rows[i].astype(np.int64), *given, answer) != sums[i, 0]:
            raise _not_ours()
    return answers


def checksum(*parts: np.ndarray | np.generic) -> int:
    """CRC-32 over the bytes of arrays, as the served model makes it."""
    value = 0
    for part in parts:
        value = zlib.crc32(part.tobytes(), value)
    return value


def is_refusal(error: InferenceServerException) -> bool:
    """Whether a new connection failed because one side does not trust the other.

    A port where nobody listens, such as that of a server that still loads, is no refusal.
    """
    message = error.message()
    return message.startswith("failed to connect to all addresses") and (
        "Socket closed" in message or "CERTIFICATE_VERIFY_FAILED" in message
    )


def is_late(error: InferenceServerException) -> bool:
    """Whether there was no answer in time."""
    return error.status() == "StatusCode.DEADLINE_EXCEEDED"


def _not_ours() -> InferenceServerException:
    return InferenceServerException(
        "the answer belongs to another request, or was damaged on its way",
        status="StatusCode.DATA_LOSS",
    )


def _encode(
    rows: Sequence[np.ndarray],
    starts: Sequence[int] | None,
    temperature: float,
    padding: Padding,
    extra: int,
) -> list[InferInput]:
    width = max(len(row) for row in rows) + extra
    ids = np.zeros((len(rows), width), dtype=np.int64)
    mask = np.zeros_like(ids)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if padding == "left" else slice(0, len(row))
        ids[i, place] = row
        mask[i, place] = 1
    tensors = {"input_ids": (ids, "INT64")}
    if padding != "none":
        tensors["attention_mask"] = (mask, "INT64")
    if starts is not None:
        tensors["start"] = (np.array(starts, dtype=np.int64).reshape(-1, 1), "INT64")
        tensors["temperature"] = (np.full((len(rows), 1), temperature, np.float32), "FP32")
    inputs = []
    for name, (array, kind) in tensors.items():
        inputs.append(InferInput(name, list(array.shape), kind))
        inputs[-1].set_data_from_numpy(array)
    return inputs
