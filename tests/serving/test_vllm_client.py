"""The client of a sampler, against a process that stands in for vLLM."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.programs import FOLDER

from rlhf.errors import IntegrityError, ServingError
from rlhf.runtime.tls import Certificates
from rlhf.serving import vllm_client
from rlhf.serving import vllm_wire as wire
from rlhf.serving.process import free_port
from rlhf.serving.vllm_client import VllmClient, Weights

EOS, POLICY = 2, "policy-0123"


class FakeVllm:
    """One such process; it can be killed and started again on its port."""

    def __init__(self, folder: Path, certificates: Certificates, mood: str) -> None:
        self.certificates, self.port, self.mood = certificates, free_port(), mood
        self.log = folder / "requests.jsonl"
        self.start()

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        arguments = [self.certificates.folder, str(self.port), self.log, self.mood]
        self._process = subprocess.Popen(
            [sys.executable, FOLDER / "fake_vllm.py", *arguments, "rlhf-sampler-x", POLICY]
        )
        context = wire.trust(self.certificates)
        for _ in range(600):
            try:
                wire.get(self.endpoint, context, "/health", 5)
                return
            except OSError:
                assert self._process.poll() is None
                time.sleep(0.05)
        raise AssertionError("it did not start")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def requests(self) -> list[tuple[str, dict]]:
        lines = self.log.read_text().splitlines()
        return [(path, body) for path, body in map(json.loads, lines)]

    def routes(self) -> list[str]:
        """What was asked to change something."""
        looks = ("/health", "/v1/models", "/weight_info", "/version")
        return [path for path, _ in self.requests() if path not in looks]


@pytest.fixture
def fake(tmp_path, certificates, request):
    server = FakeVllm(tmp_path, certificates, getattr(request, "param", "well"))
    yield server
    server.kill()


def client_of(server: FakeVllm, identity: str = POLICY, **options) -> VllmClient:
    options = {"backoff": 0.1, "patience": 20.0, "certificates": server.certificates} | options
    return VllmClient(server.endpoint, identity, **options)


def weights_in(folder: Path, version: str) -> Weights:
    (folder / version).mkdir(exist_ok=True)
    (folder / version / "model.safetensors").touch()
    return Weights(folder / version, version)


HANDED_OVER = [
    "/pause?mode=wait", "/collective_rpc", "/reset_prefix_cache", "/update_weight_version",
    "/resume",
]  # fmt: skip


def test_responses_come_in_order_each_with_its_seed(fake):
    prompts, seeds = [[10 + i, 20 + i] for i in range(40)], list(range(100, 140))
    found = client_of(fake).sample(prompts, seeds, 4, 0.7, EOS)
    assert [each.ids for each in found] == [
        [*p, seed, EOS] for p, seed in zip(prompts, seeds, strict=True)
    ]
    assert {tuple(each.logprobs) for each in found} == {(0.0, -0.125, -0.25, -0.375)}
    asked = [body for path, body in fake.requests() if path == wire.GENERATE]
    assert len(asked) == 40
    for body in asked:
        sampling = body["sampling_params"]
        assert (sampling["temperature"], sampling["max_tokens"]) == (0.7, 4)
        assert (sampling["top_p"], sampling["top_k"]) == (1.0, 0)
        assert sampling["stop_token_ids"] == [EOS]


def test_weights_are_handed_over_once_for_all_ranks(fake, tmp_path):
    weights, ranks = weights_in(tmp_path, "update-1"), [client_of(fake), client_of(fake)]
    for rank in ranks:
        rank.refresh(weights)
    assert fake.routes() == HANDED_OVER
    (call,) = (body for path, body in fake.requests() if path == "/collective_rpc")
    assert call == {"method": "refresh", "args": [str(weights.folder)]}
    (first,) = ranks[1].sample([[5]], [1], 3, 1.0, EOS)
    assert first.logprobs[0] == -1.0  # by the weights, whose name has eight letters
    ranks[0].refresh(weights_in(tmp_path, "update-10"))
    assert fake.routes()[-5:] == HANDED_OVER


def test_a_restarted_server_gets_the_latest_weights_again(fake, tmp_path):
    client = client_of(fake)
    client.refresh(weights_in(tmp_path, "update-1"))
    before = client.sample([[5], [6]], [1, 2], 3, 1.0, EOS)
    fake.kill()
    fake.start()
    assert client.sample([[5], [6]], [1, 2], 3, 1.0, EOS) == before
    assert fake.routes().count("/collective_rpc") == 2


@pytest.mark.parametrize("fake", ["fails"], indirect=True)
def test_a_failure_is_tried_again(fake):
    assert len(client_of(fake).sample([[5]], [1], 3, 1.0, EOS)) == 1
    assert fake.routes() == 3 * [wire.GENERATE]


@pytest.mark.parametrize("fake", ["hangs"], indirect=True)
def test_an_answer_that_does_not_come_is_asked_for_again(fake):
    client = client_of(fake, deadline=2.0, patience=200.0)
    assert len(client.sample([[5]], [1], 3, 1.0, EOS)) == 1
    fake.kill()
    fake.start()  # and hangs once more
    with pytest.raises(ServingError, match="nothing came for 2 s"):
        client_of(fake, deadline=2.0, patience=1.0).sample([[5]], [1], 3, 1.0, EOS)


def test_a_server_that_stays_away(fake):
    client = client_of(fake, patience=0.5)
    fake.kill()
    with pytest.raises(ServingError, match=r"did not answer in \d+ tries"):
        client.handshake()


def test_a_run_that_has_to_end_does_not_wait(fake, monkeypatch):
    monkeypatch.setattr(vllm_client, "LAST_SECONDS", 0.3)
    client = client_of(fake, patience=1e9, ending=lambda: True)
    fake.kill()
    with pytest.raises(ServingError, match="did not answer"):
        client.handshake()


def test_another_policy_is_refused(fake):
    assert client_of(fake).handshake() == "1.2.3"
    with pytest.raises(IntegrityError, match="started with another policy") as caught:
        client_of(fake, "policy-9999").sample([[5]], [1], 3, 1.0, EOS)
    assert POLICY in str(caught.value)
    assert fake.routes() == []


def test_another_jobs_server_is_refused(fake, other_certificates):
    with pytest.raises(ServingError, match="do not trust each other") as caught:
        client_of(fake, certificates=other_certificates).handshake()
    assert str(other_certificates.folder) in str(caught.value)


@pytest.mark.parametrize("fake", ["refuses"], indirect=True)
def test_a_prompt_that_is_refused(fake):
    with pytest.raises(ServingError, match="the prompt is too long"):
        client_of(fake).sample([[5]], [1], 3, 1.0, EOS)
    assert fake.routes() == [wire.GENERATE]


@pytest.mark.parametrize("fake", ["nan", "short", "empty"], indirect=True)
def test_an_answer_that_means_nothing(fake):
    with pytest.raises(ServingError, match="unusable answer"):
        client_of(fake).sample([[5]], [1], 3, 1.0, EOS)


def test_weights_that_are_gone(fake, tmp_path):
    with pytest.raises(ServingError, match="weights to sample from are gone"):
        client_of(fake).refresh(Weights(tmp_path / "nowhere", "update-1"))
    assert fake.routes() == []
