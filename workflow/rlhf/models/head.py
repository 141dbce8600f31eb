"""From last hidden states to logits, and the check that this is what the model itself does.

Of most models the logits are ``head(body(ids))``, one matrix product. Others scale them, cap them,
or transform the hidden states first. Theirs come from the model's own forward pass, in which the
given hidden states stand for the body's. Which kind a model is shows in its numbers: no name of a
setting is looked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from rlhf.core.seeds import derived_seed
from rlhf.errors import ConfigError
from rlhf.models.context import context
from rlhf.models.precision import product_type, products

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROBE = (2, 12)  # rows and tokens of the input that a model is checked with
SAMPLED = 3  # tokens that are sampled after it, to see whether that can be done
EARLIER = 7  # of these tokens
LARGE = 300.0  # logits that are tried too: a soft cap hardly shows in small ones
# Differences that are rounding, as a share of the largest value.
ROUNDING = {torch.float32: 1e-5}
NARROW_ROUNDING = 2e-2
# What stands to the right may change how a product is rounded, no more.
RIGHT_ROUNDING = 1e-3


class _Given:
    """What the body would have returned: these hidden states, and nothing besides."""

    def __init__(self, hidden: torch.Tensor) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, place: Any) -> Any:
        return self.last_hidden_state if place == 0 else None

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


@dataclass(frozen=True)
class OwnHead:
    """The model's own way from hidden states to logits.

    Attributes:
        body: the module whose output its forward pass makes logits of.
        width: H, of the hidden states.
    """

    body: nn.Module
    width: int

    def __call__(self, model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [N, V] of hidden states [N, H], differentiable in both."""
        given = _Given(hidden[None])
        # The forward pass of one object, not of its class: nobody else's changes.
        self.body.forward = lambda *args, **kwargs: given
        head = model.get_output_embeddings()
        narrow = product_type(model) not in (None, torch.float32)
        with contextlib.ExitStack() as stack:
            stack.callback(self.body.__dict__.pop, "forward")
            if narrow:  # products alone are narrow: scales and caps are float32
                hook = head.register_forward_hook(lambda _module, _given, made: made.float())
                stack.callback(hook.remove)
            ids = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
            return model(input_ids=ids, use_cache=False).logits[0]


def own_head(model: PreTrainedModel) -> OwnHead | None:
    """How to get the model's logits; None where its head, a matrix, gives them."""
    return getattr(model, "own_head", None)


def logits_of(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """Logits [N, V], float32, of last hidden states [N, H], in the type of the weights."""
    own = own_head(model)
    return (model.get_output_embeddings()(hidden) if own is None else own(model, hidden)).float()


def own_logits(model: PreTrainedModel, own: OwnHead, hidden: torch.Tensor) -> torch.Tensor:
    """Logits [N, V], float32, as in training: with products of the type that was chosen."""
    with products(model):
        return own(model, hidden).float()


def settle_head(model: PreTrainedModel, where: object) -> None:
    """Find out how the model makes logits, once; a tiny input and a few forward passes.

    Args:
        model: a causal language model.
        where: the model's place, for messages.

    Raises:
        ConfigError: its logits can't be had from hidden states, or what stands to the right of a
            token changes what the model says of it.
    """
    kind = f"{type(model).__name__} ({model.config.model_type})"
    try:
        with quiet(model), torch.no_grad():
            problem = _settle(model)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        said = str(error).splitlines()[:1]
        problem = (
            f"a small input ends in {type(error).__name__}{': ' if said else ''}{''.join(said)}"
        )
    if problem:
        raise ConfigError(
            f"Log probabilities of {kind} can't be computed here: {problem}.",
            where=where,
            expected="a causal language model whose logits follow from its last hidden states",
            hint="choose a model of another architecture",
        )


@contextlib.contextmanager
def quiet(model: nn.Module) -> Iterator[None]:
    """Nothing random, and afterwards all as it was."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _settle(model: PreTrainedModel) -> str:
    """What is wrong, or nothing; the model then has its ``own_head`` if it needs one."""
    ids, body = probe(model), model.base_model
    if body is model:
        return "transformers' class does not keep its body apart"
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        return "it has no output matrix"
    hidden = body(input_ids=ids, use_cache=False).last_hidden_state
    earlier = body(input_ids=ids[:1, :EARLIER], use_cache=False).last_hidden_state
    if not same(hidden[:1, :EARLIER], earlier, RIGHT_ROUNDING):
        return "a token's hidden state depends on the tokens to its right, or on other rows"
    states = hidden.flatten(0, 1)
    expected = model(input_ids=ids, use_cache=False).logits.flatten(0, 1)
    ways = (one for one in _own_heads(model, states) if same(one(model, states), expected))
    own = next(ways, None)
    if own is None:
        return "its logits are not made from its last hidden states alone"
    if not _is_plain(model, own, head, states):
        cast(Any, model).own_head = own  # no module: it has no weights of its own
    return ""


def _is_plain(model: PreTrainedModel, own: OwnHead, head: nn.Linear, states: torch.Tensor) -> bool:
    """Whether the head alone makes the logits, small ones and large ones."""
    if head.in_features != own.width:
        return False
    return all(same(own(model, one), head(one)) for one in (states, _enlarged(head, states)))


def probe(model: PreTrainedModel) -> torch.Tensor:
    """Random token ids [rows, tokens], always the same; none is padding."""
    vocabulary = cast(nn.Embedding, model.get_input_embeddings()).num_embeddings
    rows, tokens = PROBE
    most = context(model.config).tokens
    tokens = tokens if most is None else max(1, min(tokens, most - SAMPLED))
    generator = torch.Generator().manual_seed(derived_seed(0, "probe"))
    ids = torch.randint(vocabulary, (rows, tokens), generator=generator)
    pad = getattr(model.config.get_text_config(), "pad_token_id", None)
    ids[ids == pad] = (pad + 1) % vocabulary if isinstance(pad, int) else 0
    return ids.to(model.device)


def _own_heads(model: PreTrainedModel, states: torch.Tensor) -> Iterator[OwnHead]:
    """The body, and what it may hand over to: OPT's asks its body's decoder."""
    from transformers import PreTrainedModel

    body = model.base_model
    inner = [one for one in body.children() if isinstance(one, PreTrainedModel)]
    yield from (OwnHead(one, states.shape[-1]) for one in (body, *inner))


def _enlarged(head: nn.Linear, states: torch.Tensor) -> torch.Tensor:
    """Hidden states whose logits are as large as they get anywhere."""
    largest = head(states).float().abs().max()
    return states * float(LARGE / largest) if 0 < largest < LARGE else states


def same(found: torch.Tensor, expected: torch.Tensor, rounding: float = 0.0) -> bool:
    """Whether two tensors agree up to rounding; what is not a number agrees with its like."""
    narrow = expected.dtype not in ROUNDING
    share = max(rounding, NARROW_ROUNDING if narrow else ROUNDING[expected.dtype])
    largest = float(expected.float().abs().nan_to_num().max())
    return torch.allclose(
        found.float(), expected.float(), rtol=0, atol=share * largest, equal_nan=True
    )
