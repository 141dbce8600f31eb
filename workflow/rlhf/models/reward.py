"""The reward model: a transformer with one linear score, read at the last real token.

On disk it is transformers' sequence classification model with one label. In memory its backbone
and head are used directly: transformers' own pooling looks for the pad id, which goes wrong when
a sequence holds that id or none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rlhf.core.files import read_json, write_json
from rlhf.core.seeds import derived_seed
from rlhf.errors import ConfigError, IntegrityError
from rlhf.models.abilities import scores_problem
from rlhf.models.forward import batches_by_prompt, states_between
from rlhf.models.head import probe, quiet, same
from rlhf.models.load import disable_dropout, hush
from rlhf.models.trust import is_trusted, reading

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CALIBRATION = "calibration.json"


def load_reward_model(folder: str | Path, dtype: torch.dtype = torch.float32) -> Any:
    """A trained reward model, dropout disabled.

    Raises:
        ConfigError: its scores are not those of a linear layer on the last hidden state.
    """
    from transformers import AutoModelForSequenceClassification

    hush()
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, **reading(folder)
    )
    disable_dropout(model)
    _check_score(model, folder)
    return model


def new_reward_model(folder: str | Path, seed: int, dtype: torch.dtype = torch.float32) -> Any:
    """The backbone of a language model under a new score head of width H, N(0, 1/√(H+1)).

    Args:
        folder: the language model, usually the SFT checkpoint.
        seed: seed of the head's weights.
        dtype: type of the weights.

    Raises:
        ConfigError: no reward model can be made of it.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    hush()
    config = AutoConfig.from_pretrained(folder, **reading(folder))
    config.num_labels = 1
    if problem := scores_problem(config, is_trusted(folder)):
        raise _no_reward_model(problem, folder)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, config=config, dtype=dtype, use_safetensors=True, **reading(folder)
    )
    generator = torch.Generator().manual_seed(derived_seed(seed, "score head"))
    with torch.no_grad():
        weight = model.score.weight
        std = 1 / math.sqrt(weight.shape[1] + 1)
        weight.copy_(torch.randn(weight.shape, generator=generator) * std)
    disable_dropout(model)
    _check_score(model, folder)
    return model


def _check_score(model: PreTrainedModel, folder: str | Path) -> None:
    """Compare our way to a score with the model's own, once, on a tiny input."""
    ids, name = probe(model)[:1], f"{type(model).__name__} ({model.config.model_type})"
    try:
        with quiet(model), torch.no_grad():
            own = model(input_ids=ids, use_cache=False).logits
            hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            found = score_head(model)(hidden[:, -1])
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        said = " ".join([f"{type(error).__name__}:", *str(error).splitlines()[:1]])
        raise _no_reward_model(f"a small input to {name} ends in {said}", folder) from error
    if not same(found, own):
        raise _no_reward_model(
            f"a score of {name} is more than a linear layer on its last hidden state", folder
        )


def _no_reward_model(problem: str, folder: str | Path) -> ConfigError:
    return ConfigError(
        f"This can't be a reward model: {problem}.",
        where=folder,
        expected="a sequence classification model with a linear layer `score`",
        hint="choose a model of another architecture for the reward model",
    )


def score_head(model: PreTrainedModel) -> nn.Module:
    """The linear layer that makes a raw score [.., 1] of a hidden state [.., H]."""
    return model.get_submodule("score")


def score(
    model: PreTrainedModel,
    sequences: Sequence[torch.Tensor],
    max_tokens: int = 4096,
    prompts: Sequence[int] | None = None,
) -> torch.Tensor:
    """Raw scores [n] at the last token of each sequence.

    Sequences with one prompt share it, others of like lengths share a forward pass.

    Args:
        model: a reward model.
        sequences: token ids, query and response together, unpadded.
        max_tokens: padded tokens in one forward pass.
        prompts: tokens of each query, where some may be the same.
    """
    scores: list[torch.Tensor] = [torch.empty(0)] * len(sequences)
    prompts = prompts or [0] * len(sequences)
    for rows in batches_by_prompt(model, sequences, prompts, max_tokens):
        chosen, ends = [sequences[i] for i in rows], [len(sequences[i]) for i in rows]
        last = states_between(
            model, chosen, [prompts[i] for i in rows], [end - 1 for end in ends], ends
        )
        for i, value in zip(rows, score_head(model)(last).squeeze(-1).float(), strict=True):
            scores[i] = value
    return torch.stack(scores)


def close_sequences(
    sequences: Sequence[torch.Tensor], ended: Sequence[bool], eos_id: int
) -> list[torch.Tensor]:
    """Sequences as a reward model knows them: each ends with an EOS.

    Reward models are trained on whole replies. The score at any other token than EOS means
    nothing, and may well be high: cut-off responses would win. In a response that was cut off EOS
    stands in place of the last token, so that no sequence grows beyond a model's limit.

    Args:
        sequences: token ids [P + L], query and response, or [L], the response alone.
        ended: for each, whether the response has its EOS.
        eos_id: the token that ends a response.
    """
    eos = torch.tensor([eos_id])
    return [
        sequence if whole else torch.cat([sequence[:-1], eos])
        for sequence, whole in zip(sequences, ended, strict=True)
    ]


def save_calibration(folder: str | Path, mean: float, std: float) -> None:
    """Keep the scores' mean and standard deviation on demonstrations with the model."""
    write_json(Path(folder) / CALIBRATION, {"mean": mean, "std": std})


def load_calibration(folder: str | Path) -> tuple[float, float]:
    """Mean and standard deviation of the raw scores on demonstrations.

    Raises:
        IntegrityError: rewards can't be computed with them.
    """
    path = Path(folder) / CALIBRATION
    values = read_json(path)
    mean, std = values["mean"], values["std"]
    if not (math.isfinite(mean) and 0 < std < math.inf):
        raise IntegrityError(
            f"The reward model's calibration is unusable: mean {mean}, std {std}.",
            where=path,
            expected="a finite mean and a standard deviation above 0",
            hint="delete the reward model's manifest and run snakemake: it is calibrated anew",
        )
    return mean, std
