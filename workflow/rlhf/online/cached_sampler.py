"""Responses by transformers' continuous batching: a row that ends makes room for the next one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from rlhf.errors import ServingError
from rlhf.models.decoding import PLAIN, Decoding
from rlhf.models.devices import own_device
from rlhf.models.generate import FREE_SHARE, Response, response
from rlhf.models.roots import TokenScorer
from rlhf.online.sampler import Noise, ReplicaSampler

POLL_SECONDS = 1.0


class CachedSampler(ReplicaSampler):
    """Samples in this process, from a whole copy of the policy, with keys and values in pages.

    ``loop`` keeps room for the longest row that may come of each prompt, and a few long rows hold
    up all that wait. Here pages of a pool are given to rows as they grow. Which rows share a step
    decides their random numbers, so responses depend on how many ranks there are. The copy is
    there while responses are sampled, and no longer. Stop texts are looked for in whole responses.

    Args:
        policy: a part of what is trained.
        prefix: of the policy's names in what is trained.
        eos_id: the token that ends a response.
        max_new_tokens: longest response.
        temperature: logits are divided by this.
        dtype: type of the copy's weights.
        blocks: of the cache; None: as many as have room on the GPU.
        decoding: stop texts alone; all tokens can be drawn.
    """

    def __init__(
        self,
        policy: TokenScorer,
        prefix: str,
        eos_id: int,
        max_new_tokens: int,
        temperature: float,
        dtype: torch.dtype,
        blocks: int | None = None,
        decoding: Decoding = PLAIN,
    ) -> None:
        super().__init__(policy, prefix, eos_id, max_new_tokens, temperature, dtype, decoding)
        self._sampling = GenerationConfig(
            do_sample=True, temperature=temperature, top_k=0, top_p=1.0,
            max_new_tokens=max_new_tokens, eos_token_id=eos_id,
        )  # fmt: skip
        self._blocks = blocks

    def sample(self, prompts: Sequence[torch.Tensor], noise: Noise) -> list[Response]:
        """See ``Sampler``; the copy is dropped then.

        Raises:
            ServingError: the model can't be sampled from in this way.
        """
        copy = self._take()
        seeds = noise.random.integers(2**31, size=noise.total)  # a rank takes that of its first row
        if not len(prompts):
            return []
        settings = ContinuousBatchingConfig(
            num_blocks=self._blocks,
            max_memory_percent=FREE_SHARE,
            return_logprobs=True,
            seed=int(seeds[noise.rows[0]]),
            auto_switch_to_flash=False,  # it would look for kernels on the network
        )
        device = own_device()
        others = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(others):  # transformers seeds the generators of all
            return self._run(copy.model, settings, [prompt.tolist() for prompt in prompts])

    @torch.no_grad()
    def _run(
        self, model: Any, settings: ContinuousBatchingConfig, prompts: list[list[int]]
    ) -> list[Response]:
        if not hasattr(model, "init_continuous_batching"):
            raise self._unable(model, "its class is not made to generate")
        try:
            manager = model.init_continuous_batching(self._sampling, settings)
        except ValueError as error:
            raise self._unable(model, str(error)) from error
        # All are there before the first step, so that their steps are the same in another run.
        order = manager.add_requests(prompts, max_new_tokens=self._max_new_tokens)
        manager.start()
        found: dict[str, Any] = {}
        try:
            while len(found) < len(order):
                output = manager.get_result(timeout=POLL_SECONDS)
                if output is not None:
                    if output.error is not None:
                        raise self._unable(model, output.error)
                    found[output.request_id] = output
                elif not manager.is_running():
                    raise self._unable(model, "its thread has ended")
        finally:
            manager.stop(block=True, hard_stop=len(found) < len(order))
            manager.destroy()
        eos, responses = self._eos_id, []
        for prompt, output in zip(prompts, (found[name] for name in order), strict=True):
            ids = output.generated_tokens
            stopped = self._decoding.kept(prompt, ids, eos)
            responses.append(response(ids, output.logprobs, eos, stopped))
        return responses

    def _unable(self, model: Any, why: str) -> ServingError:
        return ServingError(
            f"Continuous batching failed: {why}",
            where=type(model).__name__,
            expected="a model whose attention can be paged",
            hint="`sampling.sampler: loop` samples from every model",
        )
