"""Responses from a vLLM server, which gets the policy's weights before every update."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from rlhf.models.adapter_weights import merged
from rlhf.models.decoding import PLAIN, Decoding
from rlhf.models.generate import Response, response
from rlhf.models.publish import below, save_weights
from rlhf.models.roots import TokenScorer
from rlhf.online.sampler import Noise
from rlhf.serving.vllm_client import VllmClient, Weights
from rlhf.training import distributed


class ServedSampler:
    """Samples on a vLLM server of this node.

    Weights go over files: the first rank of each node writes them where the server reads them.
    They stay until the next ones are there, for a server may have to be restarted. Stop texts are
    looked for here, in whole responses.

    Args:
        client: of the server.
        folder: for weights, the same for the node's ranks and its server.
        policy: a part of what is trained.
        prefix: of the policy's names in what is trained.
        eos_id: the token that ends a response.
        max_new_tokens: longest response.
        temperature: logits are divided by this.
        dtype: type of the server's weights.
        decoding: stop texts alone; all tokens can be drawn.
    """

    def __init__(
        self,
        client: VllmClient,
        folder: Path,
        policy: TokenScorer,
        prefix: str,
        eos_id: int,
        max_new_tokens: int,
        temperature: float,
        dtype: torch.dtype,
        decoding: Decoding = PLAIN,
    ) -> None:
        self._decoding = decoding
        self._client, self._folder, self._policy = client, folder, policy
        self._prefix, self._eos_id, self._dtype = f"{prefix}model.", eos_id, dtype
        self._max_new_tokens, self._temperature = max_new_tokens, temperature
        self._refreshes = 0
        self._writes = int(os.environ.get("LOCAL_RANK", "0")) == 0

    def refresh(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """See ``Sampler``.

        Raises:
            OSError: the disk is full, for one.
            ServingError: the server does not take them, or does not answer.
        """
        self._refreshes += 1
        latest = self._version(self._refreshes)
        named = below(weights, self._prefix)
        if self._writes:
            self._write(named, latest.folder)
        else:
            for _ in named:  # the ranks give each weight together
                pass
        distributed.wait()
        self._client.refresh(latest)
        if self._writes:
            shutil.rmtree(self._version(self._refreshes - 1).folder, ignore_errors=True)

    def sample(self, prompts: Sequence[torch.Tensor], noise: Noise) -> list[Response]:
        """See ``Sampler``; every response has a random stream of its own."""
        seeds = noise.random.integers(2**53, size=noise.total).tolist()  # whole in JSON, too
        found = self._client.sample(
            [prompt.tolist() for prompt in prompts],
            [seeds[row] for row in noise.rows],
            self._max_new_tokens,
            self._temperature,
            self._eos_id,
        )
        eos, responses = self._eos_id, []
        for prompt, each in zip(prompts, found, strict=True):
            stopped = self._decoding.kept(prompt.tolist(), each.ids, eos)
            responses.append(response(each.ids, each.logprobs, eos, stopped))
        return responses

    def _version(self, number: int) -> Weights:
        name = f"update-{number}"
        return Weights(self._folder / name, name)

    def _write(self, named: Iterable[tuple[str, torch.Tensor]], folder: Path) -> None:
        self._folder.mkdir(exist_ok=True)
        plain = merged(self._policy.model, named)
        narrow = (
            (name, tensor.to(self._dtype) if tensor.is_floating_point() else tensor)
            for name, tensor in plain
        )
        save_weights(self._policy, narrow, folder)
