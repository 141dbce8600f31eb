"""Tiny policies that vLLM can serve: it has no kernels for the smallest heads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf.provenance.manifest import Manifest
from rlhf.runtime.tls import Certificates
from rlhf.serving.vllm_client import VllmClient
from rlhf.serving.vllm_server import VllmServer
from rlhf.serving.vllm_wire import policy_identity
from support.tiny_online import EOS, VOCABULARY

LONGEST = 96


@dataclass(frozen=True)
class Policy:
    """An artifact with a model."""

    artifact: Path

    @property
    def model(self) -> Path:
        return self.artifact / "model"

    def load(self) -> Any:
        return LlamaForCausalLM.from_pretrained(self.model).eval()


def make_policy(folder: Path, seed: int, tied: bool) -> Policy:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=LONGEST,
        initializer_range=0.1, bos_token_id=1, eos_token_id=EOS, pad_token_id=0,
        tie_word_embeddings=tied,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    facts = {"tokenizer_digest": "a" * 64, "template_digest": "b" * 64}
    manifest = Manifest("sft", folder.name, {}, "", "", {}, facts=facts)
    manifest.write(folder, [folder / "model"], 0.0)
    return Policy(folder)


def serve(policy: Policy, log: Path, certificates: Certificates) -> VllmServer:
    return VllmServer(
        policy.model, log, dtype="float32", longest=LONGEST, certificates=certificates
    )


def client_of(endpoint: str, policy: Policy, certificates: Certificates) -> VllmClient:
    return VllmClient(endpoint, policy_identity(policy.model), certificates, backoff=0.5)
