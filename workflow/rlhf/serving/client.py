"""The client of a served model: rewards, or log-probabilities of given tokens.

Answers depend on the sequences of a call and on the store, not on timing: rows are sorted by
length and cut into requests the same way each time, and the server never mixes requests.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from rlhf.data.batching import batches_by_length
from rlhf.errors import IntegrityError, ServingError
from rlhf.runtime.tls import Certificates
from rlhf.serving import wire
from rlhf.serving.store import IDENTITY_PREFIX, OUTPUTS, Kind

logger = logging.getLogger(__name__)

MAX_PAUSE = 10.0
LAST_SECONDS = 30.0  # of patience, for a run that has to end
# A server that was killed while it answered may look as if it refused, once.
REFUSALS = 2
_T = TypeVar("_T")


@dataclass(frozen=True)
class _Link:
    """A channel whose server has proven its identity, and the server's limits."""

    client: InferenceServerClient
    number: int
    max_rows: int
    max_tokens: int


class TritonScorer:
    """Scores token sequences on a served model.

    Args:
        endpoint: ``host:port`` of the server's gRPC; a restarted server keeps it.
        kind: ``reward`` or ``reference``.
        identity: role → digest that the server must have, see ``store.model_identity``.
        certificates: those of this job.
        deadline: seconds for one request.
        patience: seconds that one request waits for a server to come back and load its model;
            added up, not measured, so that a job may be suspended meanwhile.
        backoff: seconds before the first new try; the pause doubles each time, up to 10 s.
        in_flight: requests sent at the same time.
        ending: whether this run has to end, and nobody may be left to bring a server back: then
            a request that fails is given 30 s.

    Raises:
        ServingError: the certificates can't be used.
    """

    def __init__(
        self,
        endpoint: str,
        kind: Kind,
        identity: dict[str, str],
        certificates: Certificates,
        *,
        deadline: float = wire.REQUEST_SECONDS,
        patience: float = 900.0,
        backoff: float = 1.0,
        in_flight: int = 4,
        ending: Callable[[], bool] = lambda: False,
    ) -> None:
        self._endpoint, self._kind, self._identity = endpoint, kind, dict(identity)
        self._certificates, self._credentials = certificates, wire.credentials(certificates)
        self._deadline, self._patience, self._backoff = deadline, patience, backoff
        self._in_flight, self._ending = in_flight, ending
        self._lock = threading.Lock()
        self._link: _Link | None = None
        self._links = 0

    def __enter__(self) -> TritonScorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; a later call opens a new one."""
        with self._lock:
            self._drop()

    def handshake(self) -> None:
        """Make sure that the server serves the expected model.

        Scoring does this by itself, for every new connection.

        Raises:
            IntegrityError: a digest differs; each is named.
            ServingError: the server does not answer.
        """
        self.close()
        self._persist(lambda _link: None)

    def rewards(self, sequences: Sequence[np.ndarray]) -> np.ndarray:
        """Raw (not calibrated) rewards of whole sequences.

        Args:
            sequences: n arrays of token ids, int64 [length], without padding.

        Returns:
            float32 [n], in the order of ``sequences``.

        Raises:
            ServingError: the server refused a sequence, did not answer, or answered with a
                value that is not a finite number.
        """
        answers = self._score(sequences, None, 1.0)
        return np.array([answer[0] for answer in answers], dtype=np.float32)

    def logprobs(
        self, sequences: Sequence[np.ndarray], starts: Sequence[int], temperature: float = 1.0
    ) -> list[np.ndarray]:
        """Log-probabilities of the tokens from ``start`` to the end of each sequence.

        Args:
            sequences: n arrays of token ids, int64 [length], without padding.
            starts: for each sequence the first token that counts, 1 to length − 1.
            temperature: divides the logits.

        Returns:
            n arrays, float32 [length − start], in the order of ``sequences``.

        Raises:
            ServingError: as in ``rewards``.
        """
        return self._score(sequences, starts, temperature)

    def ask(
        self,
        rows: Sequence[np.ndarray],
        starts: Sequence[int] | None = None,
        temperature: float = 1.0,
        padding: wire.Padding = "right",
        extra: int = 0,
    ) -> list[np.ndarray]:
        """Score rows in one request.

        Args:
            rows: arrays of token ids, int64 [length].
            starts: for the reference, the first token of each row that counts.
            temperature: for the reference, divides the logits.
            padding: side of the padding; ``none`` sends no mask, for rows of one length.
            extra: columns of padding beyond the longest row.

        Returns:
            float32 arrays: [1] for a reward, [length − start] for a reference.
        """

        def act(link: _Link) -> list[np.ndarray]:
            answers = wire.ask(
                link.client, self._kind, rows, starts, temperature, padding, extra, self._deadline
            )
            for answer in answers:
                if not np.isfinite(answer).all():
                    raise self._unusable(answer[~np.isfinite(answer)][0])
            return answers

        return self._persist(act)

    def _score(
        self, sequences: Sequence[np.ndarray], starts: Sequence[int] | None, temperature: float
    ) -> list[np.ndarray]:
        if not len(sequences):
            return []
        link = self._persist(lambda link: link)
        groups = batches_by_length(
            [len(row) for row in sequences], link.max_tokens, max_rows=link.max_rows
        )

        def ask(group: list[int]) -> list[np.ndarray]:
            part = None if starts is None else [int(starts[i]) for i in group]
            return self.ask([sequences[i] for i in group], part, temperature)

        pool = ThreadPoolExecutor(self._in_flight, thread_name_prefix="triton")
        try:
            answers = list(pool.map(ask, groups))
        finally:
            pool.shutdown(cancel_futures=True)
        places = [i for group in groups for i in group]
        flat = [row for answer in answers for row in answer]
        ordered = dict(zip(places, flat, strict=True))
        return [ordered[i] for i in range(len(sequences))]

    def _persist(self, act: Callable[[_Link], _T]) -> _T:
        """Do ``act`` on a proven connection; try again after failures that may pass."""
        waited, tries, refusals = 0.0, 0, 0
        while True:
            link = None
            try:
                link = self._connect()
                return act(link)
            except InferenceServerException as error:
                failure = error
            refusals = refusals + 1 if wire.is_refusal(failure) else 0
            if refusals == REFUSALS:
                raise self._certificates.mistrust(
                    f"{self._kind} server", self._endpoint, failure.message()
                )
            if not _may_pass(failure):
                raise self._refused(failure)
            pause = min(self._backoff * 2**tries, MAX_PAUSE)
            tries += 1
            waited += pause + (self._deadline if wire.is_late(failure) else 0.0)
            if waited > (LAST_SECONDS if self._ending() else self._patience):
                break
            logger.warning(
                "the %s server at %s failed (%s); trying again in %.1f s",
                self._kind, self._endpoint, failure.message(), pause,
            )  # fmt: skip
            self._forget(link)
            time.sleep(pause)
        raise ServingError(
            f"The {self._kind} server did not answer in {tries} tries; "
            f"the last failure: {failure.message()}",
            where=self._endpoint,
            expected="an answer; nothing is made up in its place",
            hint="read the server's log, beside the log of this stage; the stage resumes from "
            "its last saved state",
        )

    def _connect(self) -> _Link:
        with self._lock:
            if self._link is None:
                client = wire.connect(self._endpoint, self._credentials)
                try:
                    self._links += 1
                    self._link = self._prove(client, self._links)
                except BaseException:
                    client.close()
                    raise
            return self._link

    def _prove(self, client: InferenceServerClient, number: int) -> _Link:
        config = client.get_model_config(self._kind, client_timeout=self._deadline).config
        found = {key: value.string_value for key, value in config.parameters.items()}
        theirs = {
            key.removeprefix(IDENTITY_PREFIX): value
            for key, value in found.items()
            if key.startswith(IDENTITY_PREFIX)
        }
        wrong = [
            f"{role}: the server has {theirs.get(role, 'none')}, "
            f"this run needs {self._identity.get(role, 'none')}"
            for role in sorted(theirs.keys() | self._identity.keys())
            if theirs.get(role) != self._identity.get(role)
        ]
        if wrong:
            raise IntegrityError(
                f"The {self._kind} server serves another model than this run was given:\n    "
                + "\n    ".join(wrong),
                where=self._endpoint,
                expected="the same digests on both sides",
                hint="build the store again (snakemake does), and serve that one",
            )
        return _Link(client, number, config.max_batch_size, int(found["max_batch_tokens"]))

    def _forget(self, link: _Link | None) -> None:
        """Drop the connection that failed, unless another request already did."""
        with self._lock:
            if link is not None and self._link is not None and self._link.number == link.number:
                self._drop()

    def _drop(self) -> None:
        # Not closed at once: other threads may still wait for answers on it. The channel closes
        # with its last user.
        self._link = None

    def _refused(self, error: InferenceServerException) -> ServingError:
        return ServingError(
            f"The {self._kind} server refused: {error.message()}",
            where=f"{self._endpoint} ({error.status()})",
            expected="a request within the model's limits",
            hint="the server's log, beside the log of this stage, may say more",
        )

    def _unusable(self, value: np.float32) -> ServingError:
        return ServingError(
            f"The {self._kind} server gave an unusable answer: "
            f"'{OUTPUTS[self._kind][0]}' holds {value}.",
            where=self._endpoint,
            expected="numbers",
            hint="look for NaN in the served weights; the log of the model's training has its loss",
        )


def _may_pass(error: InferenceServerException) -> bool:
    """Whether a failure is of the kind that a restart or a little time mends."""
    status, message = error.status().removeprefix("StatusCode."), error.message()
    return (
        status in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "DATA_LOSS")
        or (status == "NOT_FOUND" and "no available versions" in message)
        # the model's Python process is dead, or stood still; the launcher starts it anew
        or (status == "INTERNAL" and "not healthy" in message)
    )
