"""What a client gets from a running server."""

from __future__ import annotations

import concurrent.futures
import socket
import threading

import numpy as np
import pytest
import torch
from support.served_models import LONGEST, VOCABULARY
from support.tolerances import assert_near
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from tritonclient.grpc import InferInput
from tritonclient.utils import InferenceServerException

from rlhf.errors import IntegrityError, ServingError
from rlhf.online.reference import ServedReference
from rlhf.online.rewards import ServedRewardModel
from rlhf.online.rollout import Rollout
from rlhf.online.scoring import Scoring
from rlhf.online.terms import RewardSum
from rlhf.serving import client, wire
from rlhf.serving.client import TritonScorer
from rlhf.serving.process import free_port
from rlhf.serving.server import TritonServer


def test_rewards_pool_at_the_last_real_token(reward_scorer, reward, sequences):
    model = AutoModelForSequenceClassification.from_pretrained(reward.model).eval()
    model.config.pad_token_id = None  # else transformers skips a real last token equal to it
    with torch.inference_mode():
        expected = [model(torch.from_numpy(row)[None]).logits.item() for row in sequences]
    found = reward_scorer.rewards(sequences)
    assert found.dtype == np.float32
    assert_near(found, expected)


def test_logprobs_in_the_callers_order(reference_scorer, reference, sequences):
    model = AutoModelForCausalLM.from_pretrained(reference.model).eval()
    starts = [max(1, len(row) // 2) for row in sequences]
    found = reference_scorer.logprobs(sequences, starts, temperature=0.7)
    for row, start, own in zip(sequences, starts, found, strict=True):
        ids = torch.from_numpy(row)
        with torch.inference_mode():
            logits = model(ids[None]).logits[0, start - 1 : -1] / 0.7
        expected = logits.log_softmax(-1).gather(1, ids[start:, None]).squeeze(1)
        assert own.dtype == np.float32
        assert_near(own, expected)


def test_answers_do_not_depend_on_timing(reward_scorer, sequences):
    """Bytes, not tolerances: alone on the server, or beside other clients' requests."""
    alone = reward_scorer.rewards(sequences)
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        busy = list(pool.map(lambda _: reward_scorer.rewards(sequences), range(6)))
    assert {one.tobytes() for one in busy} == {alone.tobytes()}


def test_nothing_to_score(reward_scorer, reference_scorer):
    assert reward_scorer.rewards([]).shape == (0,)
    assert reference_scorer.logprobs([], []) == []


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ([], "row 0 is empty"),
        ([1] * (LONGEST + 1), f"at most {LONGEST}"),
        ([1, VOCABULARY], f"token id {VOCABULARY}, outside"),
        ([1, -1], "token id -1, outside"),
    ],
)
def test_invalid_rows_are_refused_at_once(reward_scorer, row, says):
    with pytest.raises(ServingError, match=says):
        reward_scorer.ask([np.array(row, dtype=np.int64)], extra=0 if row else 1)


@pytest.mark.parametrize("start", [0, 3, -1])
def test_invalid_starts_are_refused(reference_scorer, start):
    row = np.array([1, 2, 3])
    with pytest.raises(ServingError, match="start may be 1 to 2"):
        reference_scorer.ask([row, row], [1, start] if start != -1 else [start, 1])


def test_mask_of_another_shape_is_refused(servers, certificates):
    inputs = []
    for name, width in (("input_ids", 4), ("attention_mask", 3)):
        inputs.append(InferInput(name, [1, width], "INT64"))
        inputs[-1].set_data_from_numpy(np.ones((1, width), dtype=np.int64))
    client = wire.connect(servers["reward"].endpoint, wire.credentials(certificates))
    with pytest.raises(InferenceServerException, match=r"attention_mask has shape \[1, 3\]"):
        client.infer("reward", inputs)


class Swapping:
    """Stands in for Triton when it mixes up answers: gives that to the request before."""

    def __init__(self, client) -> None:
        self._client, self._before = client, None

    def infer(self, *arguments, **options):
        answer = self._client.infer(*arguments, **options)
        self._before, given = answer, self._before
        return given or answer


@pytest.mark.parametrize("kind", ["reward", "reference"])
def test_an_answer_to_another_request_is_not_taken(servers, certificates, kind):
    rows = [np.arange(1, 9)], [np.arange(2, 10)]
    starts = [4] if kind == "reference" else None
    client = Swapping(wire.connect(servers[kind].endpoint, wire.credentials(certificates)))
    first = wire.ask(client, kind, rows[0], starts)
    with pytest.raises(InferenceServerException, match="belongs to another request"):
        wire.ask(client, kind, rows[1], starts)
    (again,) = wire.ask(client, kind, rows[1], starts)
    assert again.tobytes() != first[0].tobytes()
    if kind == "reference":
        with pytest.raises(InferenceServerException, match="belongs to another request"):
            wire.ask(client, kind, rows[1], starts, temperature=0.7)


@pytest.mark.parametrize("role", ["weights", "tokenizer", "template", "calibration"])
def test_handshake_names_each_differing_digest(servers, reward, certificates, role):
    other = reward.identity | {role: "0" * 64}
    with TritonScorer(servers["reward"].endpoint, "reward", other, certificates) as scorer:
        with pytest.raises(IntegrityError, match=f"{role}: the server has {reward.identity[role]}"):
            scorer.handshake()
        with pytest.raises(IntegrityError, match=role):  # scoring proves the identity by itself
            scorer.rewards([np.array([1, 2])])


def test_handshake_refuses_another_kind(connect, servers, reference):
    with (
        connect(servers["reward"], reference) as scorer,
        pytest.raises(ServingError, match="unknown model"),
    ):
        scorer.handshake()


def test_no_server_means_an_error_never_a_value(reward, certificates):
    endpoint = f"127.0.0.1:{free_port()}"
    with (
        TritonScorer(
            endpoint, "reward", reward.identity, certificates, patience=0.5, backoff=0.02
        ) as scorer,
        pytest.raises(
            ServingError, match=r"did not answer in 5 tries.*Connection refused"
        ) as caught,
    ):
        scorer.rewards([np.array([1, 2])])
    assert caught.value.where == endpoint


def test_a_run_that_ends_does_not_wait_for_a_server(reward, certificates, monkeypatch):
    """Its launcher may be gone, and nobody brings the server back."""
    monkeypatch.setattr(client, "LAST_SECONDS", 0.5)
    asked = threading.Event()
    with (
        TritonScorer(
            f"127.0.0.1:{free_port()}", "reward", reward.identity, certificates,
            patience=60.0, backoff=0.02, ending=asked.is_set,
        ) as scorer,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):  # fmt: skip
        scores = pool.submit(scorer.rewards, [np.array([1, 2])])
        with pytest.raises(concurrent.futures.TimeoutError):
            scores.result(timeout=3)
        asked.set()
        with pytest.raises(ServingError, match="did not answer in"):
            scores.result(timeout=50)  # its patience is longer


def test_both_servers_are_asked_at_the_same_time(reward_scorer, reference_scorer, monkeypatch):
    sequences = [torch.tensor([1, 2, 3]), torch.tensor([4, 5])]
    ended = torch.tensor([True, True])
    lengths, logprobs = [[3, 2]], [torch.zeros(2), torch.zeros(1)]
    rollout = Rollout([{}, {}], sequences, [1, 1], lengths, ended, logprobs, logprobs, [])
    reward, reference = ServedRewardModel(reward_scorer, 5), ServedReference(reference_scorer, 1.0)
    alone = reward(rollout), reference.logprobs(rollout)
    meeting = threading.Barrier(2, timeout=900)
    for scorer, name in ((reward_scorer, "rewards"), (reference_scorer, "logprobs")):
        ask = getattr(scorer, name)
        monkeypatch.setattr(scorer, name, lambda *a, ask=ask: (meeting.wait(), ask(*a))[1])
    scoring = Scoring(RewardSum.of(reward, (0.0, 1.0)), reference)
    scoring.begin(rollout)
    scores, logprobs = scoring.finish(rollout)
    assert torch.equal(scores.raw, alone[0])
    assert all(torch.equal(a, b) for a, b in zip(logprobs, alone[1], strict=True))


def test_numbers_that_are_none_are_refused(connect, servers, odd_reward):
    with (
        connect(servers["odd"], odd_reward) as scorer,
        pytest.raises(ServingError, match="unusable answer: 'rewards' holds nan"),
    ):
        scorer.rewards([np.array([1, 2]), np.array([3])])


def test_a_taken_port_is_not_taken_for_ready(servers, reward, certificates, tmp_path):
    """The other server answers on it, and says that it is ready."""
    server = TritonServer(reward.store, tmp_path / "log", certificates=certificates)
    server._port = servers["reward"]._port
    try:
        server.start()
        assert not server.healthy()
        server._process.kill()  # as it ends by itself, after seconds of loading
        server.wait_ready(120)
        assert server.endpoint != servers["reward"].endpoint
    finally:
        server.stop()
    with socket.socket() as probe:
        host, _, port = servers["reward"].endpoint.rpartition(":")
        assert probe.connect_ex((host, int(port))) == 0
