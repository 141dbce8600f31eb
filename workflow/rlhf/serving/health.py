"""Whether a model server lives: asked again and again, in a thread. No torch in here.

A server that computes a long request answers no other one meanwhile, and is well. One whose
Python process hangs looks the same, so three signs count:

- A small request of our own is answered, and with the right checksum: it is well.
- It is not answered in time, but others are: the server's statistics count them, and its own
  threads tell them even while the model computes. Then it is busy. So it is for as long as
  nothing at all is answered, up to half more than the time that clients give to a request.
- There is an error, or even the statistics do not come: after a few times it is lost. Its Python
  process is dead, or the server itself is stopped or stuck.

Tries are counted, not seconds: a job that was suspended does not find its servers late.
"""

from __future__ import annotations

import threading
import time

import numpy as np
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from rlhf.runtime.tls import Certificates
from rlhf.serving import wire
from rlhf.serving.store import Kind

LOAD_PAUSE_SECONDS = 0.1
PAUSE_SECONDS = 5.0
ANSWER_SECONDS = 10.0
FAILURES = 3  # in a row
BUSY_SECONDS = 1.5 * wire.REQUEST_SECONDS


class Health(threading.Thread):
    """Watches one server from its start to its end.

    Args:
        endpoint: ``host:port`` of the server.
        kind: which model it serves.
        server_id: its ``--id``: on a taken port another server answers.
        certificates: those of this job.

    Attributes:
        ready: set once the server has answered for the first time.
        trouble: what is wrong with it since, in words; None while it is well.

    Raises:
        ServingError: the certificates can't be used.
    """

    def __init__(
        self, endpoint: str, kind: Kind, server_id: str, certificates: Certificates
    ) -> None:
        super().__init__(name=f"health of {server_id}", daemon=True)
        self._endpoint, self._kind, self._id = endpoint, kind, server_id
        self._credentials = wire.credentials(certificates)
        self._over = threading.Event()
        self._answered = 0
        self.ready = threading.Event()
        self.trouble: str | None = None

    def run(self) -> None:
        """Wait until the server is ready, then look after it until it is lost or ``end``."""
        while not self.answers(ANSWER_SECONDS):
            if self._over.wait(LOAD_PAUSE_SECONDS):
                return
        self.ready.set()
        failures = silences = 0
        while self.trouble is None and not self._over.wait(PAUSE_SECONDS):
            try:
                silences = 0 if self._works() else silences + 1
                failures = 0
            except InferenceServerException as error:
                failures += 1
                if failures == FAILURES:
                    self.trouble = f"fails: {error.message()}"
            if silences * (ANSWER_SECONDS + PAUSE_SECONDS) >= BUSY_SECONDS:
                self.trouble = f"has answered nothing for {BUSY_SECONDS:.0f} s"

    def answers(self, seconds: float) -> bool:
        """Whether this very server answers a request, within ``seconds``."""
        until = time.monotonic() + seconds
        try:
            with self._connect() as client:
                found = client.get_server_metadata(client_timeout=seconds).name
                if found != self._id:
                    return False
                self._ask(client, max(until - time.monotonic(), 0.001))
        except InferenceServerException:
            return False
        return True

    def end(self) -> None:
        """Look no more; a look under way may last a few seconds longer."""
        self._over.set()

    def _works(self) -> bool:
        """Whether the model answers: us now, or anybody since the last look.

        Raises:
            InferenceServerException: it fails.
        """
        with self._connect() as client:
            before, self._answered = self._answered, self._count(client)
            try:
                self._ask(client, ANSWER_SECONDS)
            except InferenceServerException as error:
                if not wire.is_late(error):
                    raise
                return self._answered != before
        return True

    def _connect(self) -> InferenceServerClient:
        return wire.connect(self._endpoint, self._credentials)

    def _count(self, client: InferenceServerClient) -> int:
        """How many requests the model has answered since it was loaded."""
        found = client.get_inference_statistics(self._kind, client_timeout=ANSWER_SECONDS)
        return sum(one.inference_stats.success.count for one in found.model_stats)

    def _ask(self, client: InferenceServerClient, seconds: float) -> None:
        starts = [1] if self._kind == "reference" else None
        wire.ask(client, self._kind, [np.zeros(2, dtype=np.int64)], starts, seconds=seconds)
