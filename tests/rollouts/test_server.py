"""A real vLLM server: what it samples, whose weights it has, whom it answers."""

from __future__ import annotations

import os
import signal
import ssl
from pathlib import Path

import pytest
import torch
from support import sampled_policies
from support.sampled_policies import LONGEST, make_policy
from support.tiny_online import EOS, VOCABULARY

from rlhf.errors import IntegrityError, ServingError
from rlhf.runtime.processes import command_line, descendants
from rlhf.runtime.tls import make_certificates
from rlhf.serving import vllm_wire as wire
from rlhf.serving.vllm_client import Sampled, Weights

PROMPTS = [[3 + i % 20, 6, 7, 8 + i % 3] for i in range(24)]
SEEDS = list(range(24))
TEMPERATURE = 0.7
# Both compute in float32, each in its own order.
TOLERANCE = 1e-4


def client_of(server, policy, certificates=None):
    trusted = certificates or server.certificates
    return sampled_policies.client_of(server.endpoint, policy, trusted)


def responses(client, seeds=SEEDS) -> list[Sampled]:
    return client.sample(PROMPTS, seeds, 24, TEMPERATURE, EOS)


@torch.no_grad()
def gap(model, found: list[Sampled]) -> float:
    """Largest difference to the model's own log probabilities."""
    gaps = []
    for prompt, response in zip(PROMPTS, found, strict=True):
        logits = model(torch.tensor([prompt + response.ids])).logits[0] / TEMPERATURE
        own = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        tokens = torch.tensor(response.ids)[:, None]
        gaps.append((own.gather(1, tokens).squeeze(1) - torch.tensor(response.logprobs)).abs())
    return float(torch.cat(gaps).max())


def test_what_is_sampled(server, policies):
    client = client_of(server, policies[0])
    assert client.handshake()
    client.refresh(Weights(policies[0].model, "start"))
    found = responses(client)
    assert gap(policies[0].load(), found) < TOLERANCE
    assert all(0 <= token < VOCABULARY for each in found for token in each.ids)
    ended = [each.ids[-1] == EOS for each in found]
    assert any(ended)
    assert all(len(each.ids) == 24 for each, end in zip(found, ended, strict=True) if not end)
    assert not any(EOS in each.ids[:-1] for each in found)
    assert [each.ids for each in responses(client)] == [each.ids for each in found]
    others = responses(client, [seed + 100 for seed in SEEDS])
    assert [each.ids for each in others] != [each.ids for each in found]


def test_weights_are_really_taken_over(server, policies):
    """Those of another model and back, by a path that a tied head could be left out of."""
    first, other = policies
    client = client_of(server, first)
    client.refresh(Weights(first.model, "first"))
    before = responses(client)
    client.refresh(Weights(other.model, "other"))
    assert gap(other.load(), responses(client)) < TOLERANCE
    client.refresh(Weights(first.model, "first"))
    assert responses(client) == before


def test_why_a_worker_extension_is_needed(server, policies):
    """vLLM's own way leaves a tied head as it was, and says nothing; then ours mends it."""
    first, other = policies
    client = client_of(server, first)
    client.refresh(Weights(first.model, "first"))
    context = wire.trust(server.certificates)
    call = {"method": "reload_weights", "kwargs": {"weights_path": str(other.model)}}
    wire.ask(server.endpoint, context, "/collective_rpc", call, seconds=60)
    wire.ask(server.endpoint, context, "/reset_prefix_cache", {}, seconds=60)
    tied = first.load().config.tie_word_embeddings
    assert (gap(other.load(), responses(client)) < TOLERANCE) != tied
    client.refresh(Weights(other.model, "other"))
    assert gap(other.load(), responses(client)) < TOLERANCE


def test_another_policy_is_refused(server, policies, tmp_path):
    another = make_policy(tmp_path / "another", 7, tied=True)
    with pytest.raises(IntegrityError, match="started with another policy"):
        client_of(server, another).handshake()


def test_only_the_jobs_clients_are_answered(server, policies, tmp_path):
    others = make_certificates(tmp_path / "tls")
    with pytest.raises(ServingError, match="do not trust each other"):
        client_of(server, policies[0], certificates=others).handshake()
    # Who knows the server, but has no certificate of the job's.
    context = ssl.create_default_context(cafile=str(server.certificates.ca))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        wire.ask(server.endpoint, context, "/collective_rpc", {}, seconds=30)


def test_a_prompt_that_is_too_long(server, policies):
    with pytest.raises(ServingError, match="refused: 4"):
        client_of(server, policies[0]).sample([[5] * LONGEST], [0], 24, 1.0, EOS)


def test_a_lost_engine_is_noticed_and_the_next_one_gets_the_latest_weights(server, policies):
    """The process that answers still lives; that which holds the model does not."""
    first, other = policies
    client = client_of(server, first)
    client.refresh(Weights(other.model, "other"))
    before = responses(client)
    segments = {Path(name) for name in server._mapped()}
    assert segments
    (engine,) = (
        pid for pid in descendants(server.pid) if "EngineCore" in " ".join(command_line(pid))
    )
    os.kill(engine, signal.SIGKILL)
    while server.trouble() is None:
        server._health.join(0.2)
    server.restart()
    assert not any(segment.exists() for segment in segments)
    server.wait_ready(1800)
    assert responses(client) == before
