"""Models that nothing trains, where they compute: on the CPU, on a GPU, or over several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rlhf.errors import ClusterError
from rlhf.models import devices, spread
from rlhf.models.load import load_token_scorer
from rlhf.models.reward import load_reply_scorer
from rlhf.models.roots import ReplyScorer, TokenScorer
from rlhf.models.trust import is_trusted


def token_scorer(folder: Path) -> TokenScorer:
    """A language model on this process's device; over all its GPUs, if one is too small.

    Raises:
        ClusterError: it does not fit them.
        ConfigError: see ``load_token_scorer``.
    """
    from transformers import AutoModelForCausalLM

    dtype = devices.own_dtype()
    places = device_map(AutoModelForCausalLM, folder, dtype)
    return load_token_scorer(folder, dtype, places).eval()


def reply_scorer(folder: Path) -> ReplyScorer:
    """A reward model on this process's device; over all its GPUs, if one is too small.

    Raises:
        ClusterError: it does not fit them.
        ConfigError: see ``load_reply_scorer``.
    """
    from transformers import AutoModelForSequenceClassification

    dtype = devices.own_dtype()
    places = device_map(AutoModelForSequenceClassification, folder, dtype)
    return load_reply_scorer(folder, dtype, places).eval()


def device_map(loader: Any, folder: str | Path, dtype: torch.dtype) -> dict[str, int] | None:
    """Module → GPU for ``from_pretrained``, which reads each tensor to its place; None on a CPU.

    Args:
        loader: one of transformers' ``AutoModel…`` classes.
        folder: the model's.
        dtype: type of the weights.

    Raises:
        ClusterError: this process's GPUs have no room for it.
    """
    if devices.own_device().type == "cpu":
        return None
    try:
        return spread.device_map(loader, folder, dtype, spread.free_rooms(), is_trusted(folder))
    except spread.TooLargeError as error:
        raise ClusterError(
            f"This model is too large for the GPUs that this process was given: {error}.",
            where=folder,
            expected="GPUs whose free memory holds its weights, in 90 % of it",
            hint="give the job more of them, such as cluster.stages.evaluate.gpus_per_node: 2, or "
            "outside of the pipeline more in CUDA_VISIBLE_DEVICES; the first has the embeddings",
        ) from error
