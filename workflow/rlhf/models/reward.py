"""The reward model: a transformer with one linear score, of the last real token or of the mean.

On disk it is transformers' sequence classification model with one label. In memory its backbone
and head are used directly: transformers' own pooling looks for the pad id, which goes wrong when
a sequence holds that id or none. That a score is of the mean over all tokens, ``config.json`` says
under ``reward_pooling``, which transformers keeps and does not look at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from rlhf.core.files import read_json, write_json
from rlhf.core.seeds import derived_seed
from rlhf.errors import ConfigError, IntegrityError
from rlhf.models.abilities import scores_problem
from rlhf.models.adapters import switched_off
from rlhf.models.folders import DeviceMap, Dtype, from_folder
from rlhf.models.head import probe, quiet, same
from rlhf.models.load import disable_dropout, hush
from rlhf.models.roots import POOLING, Critic, ReplyScorer
from rlhf.models.trust import is_trusted, reading

CALIBRATION = "calibration.json"


def load_reply_scorer(
    folder: str | Path, dtype: Dtype = torch.float32, device_map: DeviceMap | None = None
) -> ReplyScorer:
    """A trained reward model, dropout disabled.

    Args:
        folder: the model's.
        dtype: see ``load_token_scorer``.
        device_map: see ``load_token_scorer``.

    Raises:
        ConfigError: its scores are not those of a linear layer on the last hidden state.
    """
    from transformers import AutoModelForSequenceClassification

    hush()
    model = from_folder(AutoModelForSequenceClassification, folder, dtype, device_map=device_map)
    disable_dropout(model)
    return _checked(ReplyScorer(model), folder)


def load_critic(folder: str | Path, dtype: Dtype = torch.float32) -> Critic:
    """A value function that starts as a trained reward model with its calibration.

    Raises:
        ConfigError: its scores are not those of a linear layer on the last hidden state.
        IntegrityError: the calibration is unusable.
    """
    scorer = load_reply_scorer(folder, dtype)
    if scorer.pooling != "last":
        raise ConfigError(
            "A critic can't start from this reward model, whose score is of the mean over tokens.",
            where=folder,
            expected="reward.<name>.pooling: last: a value is read at the state of one token, which"
            " the head of such a model has never seen alone",
            hint="write value.kind: head, or value.start: sft",
        )
    return Critic(scorer.model, *load_calibration(folder))


def new_critic(folder: str | Path, dtype: Dtype = torch.float32) -> Critic:
    """A value function of its own on the layers of a language model; its values start at 0.

    Raises:
        ConfigError: no reward model can be made of it.
    """
    model = new_reply_scorer(folder, seed=0, dtype=dtype).model
    with torch.no_grad():
        model.get_parameter("score.weight").zero_()
    return Critic(model, mean=0.0, std=1.0)


def new_reply_scorer(
    folder: str | Path, seed: int, dtype: Dtype = torch.float32, pooling: str = "last"
) -> ReplyScorer:
    """The backbone of a language model under a new score head of width H, N(0, 1/√(H+1)).

    Args:
        folder: the language model, usually the SFT checkpoint.
        seed: seed of the head's weights.
        dtype: type of the weights; ``auto``: as they lie in the files, which are mapped then.
        pooling: see ``ReplyScorer``.

    Raises:
        ConfigError: no reward model can be made of it.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    hush()
    config = AutoConfig.from_pretrained(folder, **reading(folder))
    config.num_labels = 1
    if pooling != "last":
        setattr(config, POOLING, pooling)
    if problem := scores_problem(config, is_trusted(folder)):
        raise _no_reward_model(problem, folder)
    model = from_folder(AutoModelForSequenceClassification, folder, dtype, config)
    generator = torch.Generator().manual_seed(derived_seed(seed, "score head"))
    with torch.no_grad():
        weight = model.score.weight
        std = 1 / math.sqrt(weight.shape[1] + 1)
        weight.copy_(torch.randn(weight.shape, generator=generator) * std)
    disable_dropout(model)
    return _checked(ReplyScorer(model), folder)


def _checked(scorer: ReplyScorer, folder: str | Path) -> ReplyScorer:
    """Compare our way to a score with the model's own, once, on a tiny input."""
    model = scorer.model
    ids, name = probe(model)[:1], f"{type(model).__name__} ({model.config.model_type})"
    try:
        with quiet(model), torch.no_grad(), switched_off(model):  # a prefix, its own does without
            own = model(input_ids=ids, use_cache=False).logits[0]
            row = ids[0].cpu()
            found = scorer([row[:0]], [[row]], per_token=True)[0][-1:]
            state = scorer.states_at([row], [torch.tensor([len(row) - 1])])  # [1, H]
            weight = model.get_parameter("score.weight").float()  # [1, H]
            # of what is summed, since the score itself may be near 0
            size = float((state * weight).abs().nan_to_num().sum())
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        said = " ".join([f"{type(error).__name__}:", *str(error).splitlines()[:1]])
        raise _no_reward_model(f"a small input to {name} ends in {said}", folder) from error
    if not same(found, own, size=size):
        raise _no_reward_model(
            f"a score of {name} is more than a linear layer on its last hidden state", folder
        )
    return scorer


def _no_reward_model(problem: str, folder: str | Path) -> ConfigError:
    return ConfigError(
        f"This can't be a reward model: {problem}.",
        where=folder,
        expected="a sequence classification model with a linear layer `score`",
        hint="choose a model of another architecture for the reward model",
    )


def with_final_eos(
    sequences: Sequence[torch.Tensor], ended: Sequence[bool], eos_id: int
) -> list[torch.Tensor]:
    """Sequences as a reward model knows them: each ends with an EOS.

    Reward models are trained on whole replies. The score at any other token than EOS means
    nothing, and may well be high: cut-off responses would win. In a response that was cut off EOS
    stands in place of the last token, so that no sequence grows beyond a model's limit; after one
    that a stop text ended, it stands in place of that text.

    Args:
        sequences: token ids [P + L], query and response, or [L], the response alone.
        ended: for each, whether the response has its EOS, or had a stop text.
        eos_id: the token that ends a response.
    """
    eos = torch.tensor([eos_id])
    return [
        sequence
        if whole and sequence[-1] == eos_id
        else torch.cat([sequence if whole else sequence[:-1], eos])
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
