"""What a client gets from a running server."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import socket

import numpy as np
import pytest
import torch
from served_models import LONGEST, VOCABULARY
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rlhf.errors import IntegrityError, ServingError
from rlhf.runtime.processes import command_line, descendants
from rlhf.serving.client import TritonScorer, _groups
from rlhf.serving.server import TritonServer, free_ports


def test_rewards_pool_at_the_last_real_token(reward_scorer, reward, sequences):
    model = AutoModelForSequenceClassification.from_pretrained(reward.model).eval()
    model.config.pad_token_id = None  # else transformers skips a real last token equal to it
    with torch.inference_mode():
        expected = [model(torch.from_numpy(row)[None]).logits.item() for row in sequences]
    found = reward_scorer.rewards(sequences)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


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
        np.testing.assert_allclose(own, expected.numpy(), atol=1e-4)


def test_answers_do_not_depend_on_timing(reward_scorer, sequences):
    """Bytes, not tolerances: alone on the server, or beside other clients' requests."""
    alone = reward_scorer.rewards(sequences)
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        busy = list(pool.map(lambda _: reward_scorer.rewards(sequences), range(6)))
    assert {one.tobytes() for one in busy} == {alone.tobytes()}


def test_nothing_to_score(reward_scorer, reference_scorer):
    assert reward_scorer.rewards([]).shape == (0,)
    assert reference_scorer.logprobs([], []) == []


def test_requests_stay_within_the_limits():
    lengths = [5, 90, 30, 90, 1, 30]
    groups = _groups(lengths, max_rows=3, max_tokens=180)
    assert groups == [[1, 3], [2, 5, 0], [4]]
    assert _groups([500], max_rows=3, max_tokens=180) == [[0]]  # too long for a group, not for one


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


def test_mask_of_another_shape_is_refused(servers):
    from tritonclient.grpc import InferenceServerClient, InferInput
    from tritonclient.utils import InferenceServerException

    inputs = []
    for name, width in (("input_ids", 4), ("attention_mask", 3)):
        inputs.append(InferInput(name, [1, width], "INT64"))
        inputs[-1].set_data_from_numpy(np.ones((1, width), dtype=np.int64))
    client = InferenceServerClient(servers["reward"].endpoint)
    with pytest.raises(InferenceServerException, match=r"attention_mask has shape \[1, 3\]"):
        client.infer("reward", inputs)


@pytest.mark.parametrize("role", ["weights", "tokenizer", "template", "calibration"])
def test_handshake_names_each_differing_digest(servers, reward, role):
    other = reward.identity | {role: "0" * 64}
    with TritonScorer(servers["reward"].endpoint, "reward", other) as scorer:
        with pytest.raises(IntegrityError, match=f"{role}: the server has {reward.identity[role]}"):
            scorer.handshake()
        with pytest.raises(IntegrityError, match=role):  # scoring proves the identity by itself
            scorer.rewards([np.array([1, 2])])


def test_handshake_refuses_another_kind(servers, reference):
    with (
        TritonScorer(servers["reward"].endpoint, "reference", reference.identity) as scorer,
        pytest.raises(ServingError, match="unknown model"),
    ):
        scorer.handshake()


def test_no_server_means_an_error_never_a_value(reward):
    endpoint = f"127.0.0.1:{free_ports('127.0.0.1')[0]}"
    with (
        TritonScorer(endpoint, "reward", reward.identity, retries=2, backoff=0.05) as scorer,
        pytest.raises(ServingError, match="did not answer in 3 tries") as caught,
    ):
        scorer.rewards([np.array([1, 2])])
    assert caught.value.where == endpoint


def test_a_dead_python_process_is_brought_back(servers, reference_scorer, sequences):
    """Triton goes on calling itself ready then."""
    server = servers["reference"]
    starts = [1] * len(sequences)
    before = reference_scorer.logprobs(sequences, starts)
    (stub,) = [
        pid for pid in descendants(server.pid) if "python_backend_stub" in command_line(pid)[0]
    ]
    os.kill(stub, signal.SIGKILL)
    after = reference_scorer.logprobs(sequences, starts)
    assert [a.tobytes() for a in after] == [b.tobytes() for b in before]
    assert server.healthy()


def test_numbers_that_are_none_are_refused(servers, nan_reward):
    with (
        TritonScorer(servers["nan"].endpoint, "reward", nan_reward.identity) as scorer,
        pytest.raises(ServingError, match="unusable answer: 'rewards' holds nan"),
    ):
        scorer.rewards([np.array([1, 2]), np.array([3])])


def test_a_taken_port_is_not_taken_for_ready(servers, reward, tmp_path):
    """The other server answers on it, and says that it is ready."""
    server = TritonServer(reward.store, tmp_path / "log")
    server._ports = list(servers["reward"]._ports)
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
