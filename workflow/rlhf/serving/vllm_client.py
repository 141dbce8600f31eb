"""The client of a served policy: responses to prompts, from weights that it hands over.

A server that was restarted has the weights that it started with, and the launcher knows no others.
So each client looks, before it asks anything of a server that it may have lost, and hands the
latest weights over again.
"""

from __future__ import annotations

import fcntl
import logging
import math
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

from rlhf.errors import IntegrityError, ServingError
from rlhf.runtime.tls import Certificates
from rlhf.serving import vllm_wire as wire
from rlhf.serving.vllm_worker import Refresh

logger = logging.getLogger(__name__)

MAX_PAUSE = 10.0
LAST_SECONDS = 30.0  # of patience, for a run that has to end
SHORT_SECONDS = 30.0  # for what a server answers at once
REFUSALS = 2  # a server that is killed while it answers may look as if it refused, once
IN_FLIGHT = 256  # responses that are sampled at the same time, for one rank
_T = TypeVar("_T")


@dataclass(frozen=True)
class Weights:
    """Weights that a server is to sample from.

    Attributes:
        folder: with a config and safetensors files; the server has to see it.
        version: names them; a server says which it has.
    """

    folder: Path
    version: str


@dataclass(frozen=True)
class Sampled:
    """A response.

    Attributes:
        ids: token ids, with the EOS if it was sampled.
        logprobs: of each of them, in nats.
    """

    ids: list[int]
    logprobs: list[float]


class _Stale(ValueError):
    """The server has other weights than it should: it was restarted."""


class VllmClient:
    """Samples from a vLLM server of this job.

    Args:
        endpoint: ``host:port``; a restarted server keeps it.
        identity: of the policy that the server was started with, see ``policy_identity``.
        certificates: those of this job.
        deadline: seconds for one response, or for taking weights over.
        patience: seconds that one request waits for a server to come back; added up, not measured,
            so that a job may be suspended meanwhile.
        backoff: seconds before the first new try; the pause doubles each time, up to 10 s.
        ending: whether this run has to end, and nobody may be left to bring a server back: then
            a request that fails is given 30 s.

    Raises:
        ServingError: the certificates can't be used.
    """

    def __init__(
        self,
        endpoint: str,
        identity: str,
        certificates: Certificates,
        *,
        deadline: float = 3600.0,
        patience: float = 900.0,
        backoff: float = 1.0,
        ending: Callable[[], bool] = lambda: False,
    ) -> None:
        self._endpoint, self._identity = endpoint, identity
        self._certificates, self._context = certificates, wire.trust(certificates)
        self._deadline, self._patience, self._backoff = deadline, patience, backoff
        self._ending = ending
        self._lock = threading.Lock()
        self._sure = False  # that the server is the right one and has the latest weights
        self._weights: Weights | None = None

    def handshake(self) -> str:
        """Make sure that the server was started with the expected policy; vLLM's version.

        Raises:
            IntegrityError: it was started with another.
            ServingError: it does not answer.
        """
        self._sure = False
        answer = self._persist(lambda: self._get("/version"))
        return str(answer["version"])

    def refresh(self, weights: Weights) -> None:
        """Sample from these weights from now on.

        Returns once the server has them, whoever of this node's ranks handed them over. Their
        folder has to stay until the next call, for a server may have to be restarted.

        Raises:
            ServingError: the server does not take them, or does not answer.
        """
        self._weights, self._sure = weights, False
        self._persist(lambda: None)

    def sample(
        self,
        prompts: Sequence[list[int]],
        seeds: Sequence[int],
        most: int,
        temperature: float,
        eos_id: int,
    ) -> list[Sampled]:
        """One response to each prompt, from the full distribution.

        Args:
            prompts: token ids of each.
            seeds: of each response; equal seeds give equal responses, but for rounding.
            most: longest response.
            temperature: logits are divided by this.
            eos_id: the token that ends a response.

        Raises:
            ServingError: the server refused a prompt, did not answer, or answered with what is no
                response.
        """

        def sample(i: int) -> Sampled:
            row = wire.row(prompts[i], most, temperature, seeds[i], eos_id)
            return self._persist(lambda: self._sample(row, most))

        pool = ThreadPoolExecutor(min(IN_FLIGHT, max(1, len(prompts))), thread_name_prefix="vllm")
        try:
            return list(pool.map(sample, range(len(prompts))))
        finally:
            pool.shutdown(cancel_futures=True)

    def _sample(self, row: dict[str, Any], most: int) -> Sampled:
        answer = self._ask(wire.GENERATE, row)
        try:
            (choice,) = answer["choices"]
            ids = [int(token) for token in choice["token_ids"]]
            content = choice["logprobs"]["content"]
            logprobs = [float(token["logprob"]) for token in content]
            versions = {str(part["version"]) for part in choice.get("weight_versions") or []}
        except (KeyError, TypeError, ValueError) as error:
            raise wire.unusable(self._endpoint, f"{type(error).__name__}: {error}") from None
        if self._weights is not None and versions != {self._weights.version}:
            raise _Stale(f"it samples from the weights {', '.join(versions) or 'of its start'}")
        if not 0 < len(ids) == len(logprobs) <= most:
            what = f"{len(ids)} tokens with {len(logprobs)} log probabilities, of at most {most}"
            raise wire.unusable(self._endpoint, what)
        if not all(map(math.isfinite, logprobs)):
            raise wire.unusable(self._endpoint, "a log probability that is not finite")
        return Sampled(ids, logprobs)

    def _persist(self, act: Callable[[], _T]) -> _T:
        """Do ``act`` on the right server; try again after failures that may pass."""
        waited, tries, refusals = 0.0, 0, 0
        while True:
            try:
                self._make_sure()
                return act()
            except wire.FAILURES as error:
                failure = error
            self._sure = False
            refusals = refusals + 1 if _is_refusal(failure) else 0
            if refusals == REFUSALS:
                raise self._certificates.mistrust("sampler", self._endpoint, str(failure))
            if isinstance(failure, wire.HttpError) and failure.status < 500:
                raise self._refused(failure)
            pause = min(self._backoff * 2**tries, MAX_PAUSE)
            tries += 1
            waited += pause + (failure.seconds if isinstance(failure, wire.Late) else 0.0)
            if waited > (LAST_SECONDS if self._ending() else self._patience):
                break
            logger.warning(
                "the sampler at %s failed (%s); trying again in %.1f s",
                self._endpoint, failure, pause,
            )  # fmt: skip
            time.sleep(pause)
        raise ServingError(
            f"The sampler did not answer in {tries} tries; the last failure: {failure}",
            where=self._endpoint,
            expected="an answer; nothing is made up in its place",
            hint="read the sampler's log, beside the log of this stage; the stage resumes from "
            "its last saved state",
        )

    def _make_sure(self) -> None:
        """See to it that the server is the right one, with the latest weights."""
        with self._lock:
            if self._sure:
                return
            found = wire.names(self._endpoint, self._context, SHORT_SECONDS)
            if self._identity not in found:
                raise IntegrityError(
                    "The sampler was started with another policy than this run starts from: it "
                    f"is called {', '.join(found)}, this run needs {self._identity}.",
                    where=self._endpoint,
                    expected="the same weights, tokenizer and template on both sides",
                    hint="start both by one `rlhf launch`, as the rule does",
                )
            if self._weights is not None:
                self._hand_over(self._weights)
            self._sure = True

    def _hand_over(self, weights: Weights) -> None:
        """Give the server weights that it does not have, once for all ranks of this node."""
        with open(weights.folder.parent / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._version() == weights.version:
                return
            # Checked here: a folder that a server can't read ends it.
            if not list(weights.folder.glob("*.safetensors")):
                raise ServingError("The weights to sample from are gone.", where=weights.folder)
            self._ask("/pause?" + urlencode({"mode": "wait"}))
            call = {"method": Refresh.refresh.__name__, "args": [str(weights.folder)]}
            self._ask("/collective_rpc", call)
            # Keys and values of the old weights.
            if not self._ask("/reset_prefix_cache", {}).get("success", True):
                raise wire.HttpError(503, "the cache of prefixes could not be emptied")
            self._ask("/update_weight_version", {"new_version": weights.version})
            self._ask("/resume")
            if (version := self._version()) != weights.version:
                raise _Stale(f"it has the weights {version} after taking over others")

    def _version(self) -> str:
        return str(self._get("/weight_info").get("weight_version"))

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = wire.ask(self._endpoint, self._context, path, body, seconds=self._deadline)
        return {} if answer is None else answer

    def _get(self, path: str) -> Any:
        return wire.get(self._endpoint, self._context, path, SHORT_SECONDS)

    def _refused(self, error: wire.HttpError) -> ServingError:
        return ServingError(
            f"The sampler refused: {error}",
            where=self._endpoint,
            expected="a prompt and a response within the longest that it was started for",
            hint="the sampler's log, beside the log of this stage, may say more",
        )


def _is_refusal(error: Exception) -> bool:
    """Whether one side does not know the other's certificate, or speaks no TLS at all."""
    return isinstance(error, ssl.SSLError) and not isinstance(
        error, ssl.SSLEOFError | ssl.SSLZeroReturnError
    )
