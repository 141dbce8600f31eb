"""One vLLM server that samples from a policy. No torch in here.

It serves HTTPS on the loopback interface, and only to clients with this job's certificates: its
routes for new weights let a client call any method of its workers. The process starts as
``rlhf.serving.vllmserver``, here or inside an image, which finds vLLM where it runs.
"""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from typing import Any, Literal

from rlhf.runtime.options import SAMPLER_SHARE
from rlhf.runtime.processes import members
from rlhf.runtime.tls import LOOPBACK, Certificates
from rlhf.serving import vllm_wire as wire
from rlhf.serving.process import ServerProcess

KIND = "sampler"
OWN_SHARE = 0.9  # of the memory of GPUs that it has to itself
LOAD_PAUSE_SECONDS = 0.5
PAUSE_SECONDS = 5.0
ANSWER_SECONDS = 10.0
FAILURES = 3  # in a row
SILENT_SECONDS = 300.0  # while weights are taken over, nothing is sampled

_SEGMENT = re.compile(r"/dev/shm/psm_[0-9a-f]+")  # Python's shared memory


class VllmServer(ServerProcess):
    """A vLLM server that starts from a policy's folder.

    Args:
        model: folder ``model/`` of a trained artifact.
        log_path: file that the server's output is added to.
        dtype: type of the served weights.
        longest: tokens of the longest prompt with its response.
        gpus: GPUs that it computes on together; 0: the CPU.
        shared: whether ranks use these GPUs too.
        options: see ``ServerProcess``.
    """

    program = "vLLM server"

    def __init__(
        self,
        model: str | Path,
        log_path: str | Path,
        *,
        dtype: Literal["float32", "bfloat16"],
        longest: int,
        gpus: int = 0,
        shared: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(KIND, model, "rlhf.serving.vllmserver", log_path, **options)
        self._identity = wire.policy_identity(model)
        self._dtype, self._longest, self._gpus, self._shared = dtype, longest, gpus, shared
        self._segments: set[str] = set()

    def wait_ready(self, timeout: float = 600.0) -> None:
        """See ``ServerProcess``."""
        super().wait_ready(timeout)
        self._segments |= self._mapped()

    def _watch(self) -> VllmHealth:
        return VllmHealth(self.endpoint, self._name, self.certificates)

    def _mapped(self) -> set[str]:
        """Shared memory of the server's processes: the name of none says whose it is."""
        found: set[str] = set()
        for pid in members(self._process.pid) if self._process else ():
            try:
                found.update(_SEGMENT.findall(Path(f"/proc/{pid}/maps").read_text()))
            except OSError:  # it ended meanwhile
                continue
        return found

    def terminate(self) -> None:
        """See ``ServerProcess``; a restarted one may have ended before anybody waited for it."""
        self._segments |= self._mapped()
        super().terminate()

    def _kill(self) -> None:
        self._segments |= self._mapped()  # of those that still live
        super()._kill()

    def _clean(self) -> None:
        for segment in self._segments:
            Path(segment).unlink(missing_ok=True)
        self._segments.clear()

    def _arguments(self, scratch: str) -> list[str]:
        """Those of ``rlhf.serving.vllmserver``, then those that are vLLM's."""
        tls = self.certificates
        own = [scratch, str(self._threads), str(self._gpus)]
        memory = SAMPLER_SHARE if self._shared else OWN_SHARE
        gpu = [f"--tensor-parallel-size={self._gpus}", f"--gpu-memory-utilization={memory}"]
        return [
            *own,
            f"--model={self.model}",
            "--served-model-name", self._name, self._identity,
            f"--host={LOOPBACK}",  # by default it listens on all interfaces
            f"--port={self._port}",
            f"--dtype={self._dtype}",
            f"--max-model-len={self._longest}",
            "--enable-scale-out",  # tokens in, tokens out
            "--skip-tokenizer-init",
            "--generation-config=vllm",  # not the folder's, which may set top-k
            "--logprobs-mode=processed_logprobs",  # of the distribution that is sampled from
            "--seed=0",
            f"--ssl-keyfile={tls.server_key}",
            f"--ssl-certfile={tls.server_cert}",
            f"--ssl-ca-certs={tls.ca}",
            "--ssl-cert-reqs=2",  # without it everybody is let in
            "--worker-extension-cls=rlhf.serving.vllm_worker.Refresh",
            "--disable-fastapi-docs",
            "--disable-uvicorn-access-log",
            *(gpu if self._gpus else ["--enforce-eager"]),
        ]  # fmt: skip


class VllmHealth(threading.Thread):
    """Watches one vLLM server from its start to its end; see ``Watch`` for the attributes.

    A token of our own is asked for. While others are sampled it comes soon all the same; while
    new weights are taken over it does not come, and the server is well.

    Args:
        endpoint: ``host:port`` of the server.
        name: its own: on a taken port another server answers.
        certificates: those of this job.

    Raises:
        ServingError: the certificates can't be used.
    """

    def __init__(self, endpoint: str, name: str, certificates: Certificates) -> None:
        super().__init__(name=f"health of {name}", daemon=True)
        self._endpoint, self._server = endpoint, name
        self._context = wire.trust(certificates)
        self._over = threading.Event()
        self.ready = threading.Event()
        self.trouble: str | None = None

    def run(self) -> None:
        """Wait until the server is ready, then look after it until it is lost or ``end``."""
        while not self.answers(ANSWER_SECONDS):
            if self._over.wait(LOAD_PAUSE_SECONDS):
                return
        self.ready.set()
        failures, silent = 0, 0.0
        while self.trouble is None and not self._over.wait(PAUSE_SECONDS):
            try:
                wire.get(self._endpoint, self._context, "/health", ANSWER_SECONDS)
                failures = 0
            except wire.FAILURES as error:
                failures += 1
                if failures == FAILURES:
                    self.trouble = f"fails: {error}"
                continue
            try:
                self._sample(ANSWER_SECONDS)
                silent = 0.0
            except wire.FAILURES:
                silent += ANSWER_SECONDS + PAUSE_SECONDS  # added up: a job may be suspended
            if silent >= SILENT_SECONDS:
                self.trouble = f"has sampled nothing for {SILENT_SECONDS:.0f} s"

    def answers(self, seconds: float) -> bool:
        """Whether this very server samples a token, within ``seconds``."""
        until = time.monotonic() + seconds
        try:
            if self._server not in wire.names(self._endpoint, self._context, seconds):
                return False
            self._sample(max(until - time.monotonic(), 0.001))
        except wire.FAILURES:
            return False
        return True

    def end(self) -> None:
        """Look no more; a look under way may last a few seconds longer."""
        self._over.set()

    def _sample(self, seconds: float) -> None:
        row = wire.row([0], 1, 1.0, 0, 0)
        wire.ask(self._endpoint, self._context, wire.GENERATE, row, seconds=seconds)
