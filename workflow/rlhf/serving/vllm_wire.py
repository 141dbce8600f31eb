"""What is said to a vLLM server: JSON over HTTPS, with a client's certificate. No torch in here."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf.core.digest import digest_value
from rlhf.errors import ServingError
from rlhf.runtime.tls import Certificates
from rlhf.serving.store import model_identity

GENERATE = "/inference/v1/generate"


class HttpError(Exception):
    """An answer that is no success.

    Attributes:
        status: the HTTP status.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


class Late(OSError):
    """Nothing came for too long.

    Attributes:
        seconds: how long that was.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"nothing came for {seconds:g} s")
        self.seconds = seconds


# What a server that starts, ends or hangs makes of a request.
FAILURES = (OSError, http.client.HTTPException, HttpError, ValueError)


def policy_identity(model: str | Path) -> str:
    """What a served policy is called, by the weights, tokenizer and template that it starts with.

    Args:
        model: folder ``model/`` of a trained artifact.

    Raises:
        IntegrityError: the artifact is not whole.
    """
    return f"policy-{digest_value(model_identity('reference', Path(model).resolve().parent))}"


def trust(certificates: Certificates) -> ssl.SSLContext:
    """How a client knows its job's servers, and they it.

    Raises:
        ServingError: the certificates can't be used.
    """
    certificates.check_client()
    context = ssl.create_default_context(cafile=str(certificates.ca))
    context.load_cert_chain(certificates.client_cert, certificates.client_key)
    return context


def ask(
    endpoint: str,
    context: ssl.SSLContext,
    path: str,
    body: Mapping[str, Any] | None = None,
    *,
    seconds: float,
    method: str = "POST",
) -> Any:
    """One request on a connection of its own; the JSON of its answer, None if it is empty.

    Args:
        endpoint: ``host:port``.
        context: from ``trust``.
        path: with its query.
        body: of a POST.
        seconds: without a byte, after which it fails.
        method: of the request.

    Raises:
        OSError: no connection, or it was lost; TLS refused it; ``Late``.
        HTTPException: no whole answer came.
        HttpError: the answer is no success.
    """
    host, _, port = endpoint.rpartition(":")
    connection = http.client.HTTPSConnection(host, int(port), timeout=seconds, context=context)
    try:
        payload = None if body is None else json.dumps(body)
        headers = {"Content-Type": "application/json"} if payload else {}
        connection.request(method, path, payload, headers)
        answer = connection.getresponse()
        text = answer.read()
    except TimeoutError:
        raise Late(seconds) from None
    finally:
        connection.close()
    if not 200 <= answer.status < 300:
        raise HttpError(answer.status, text[:2000].decode(errors="replace"))
    return json.loads(text) if text.strip() else None


def get(endpoint: str, context: ssl.SSLContext, path: str, seconds: float) -> Any:
    """``ask`` by GET."""
    return ask(endpoint, context, path, seconds=seconds, method="GET")


def names(endpoint: str, context: ssl.SSLContext, seconds: float) -> list[str]:
    """What a server is called: its own name, and the identity of the model it was started with."""
    return [str(each["id"]) for each in get(endpoint, context, "/v1/models", seconds)["data"]]


def row(prompt: list[int], most: int, temperature: float, seed: int, eos_id: int) -> dict[str, Any]:
    """The request for one response, sampled from the full distribution."""
    return {
        "token_ids": prompt,
        "sampling_params": {
            "max_tokens": most,
            "temperature": temperature,
            "top_p": 1.0,
            "top_k": 0,
            "seed": seed,
            "logprobs": 0,  # of the sampled token alone
            "detokenize": False,
            "ignore_eos": True,  # a model's configuration may name others besides the tokenizer's
            "stop_token_ids": [eos_id],
        },
    }


def unusable(endpoint: str, what: str) -> ServingError:
    """The error to raise about an answer that means nothing."""
    return ServingError(
        f"The sampler gave an unusable answer: {what}.",
        where=endpoint,
        expected="token ids, and a finite log probability of each",
        hint="the sampler's log, beside the log of this stage, may say more",
    )
