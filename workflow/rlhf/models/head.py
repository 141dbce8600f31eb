"""From last hidden states to logits, and the check that this is what the model itself does.

Of most models the logits are ``head(body(ids))``, one matrix product. Others scale them, cap them,
or transform the hidden states first. Theirs come from the model's own forward pass, in which the
given hidden states stand for the body's. Which kind a model is shows in its numbers: no name of a
setting is looked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from rlhf.core.seeds import derived_seed
from rlhf.errors import ConfigError
from rlhf.models.context import context

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
        model: a causal language model.
        body: the module whose output its forward pass makes logits of.
        width: H, of the hidden states.
    """

    model: PreTrainedModel
    body: nn.Module
    width: int

    @property
    def vocabulary(self) -> int:
        """V, of the logits."""
        return cast(nn.Linear, self.model.get_output_embeddings()).weight.shape[0]

    def logits(self, hidden: torch.Tensor, narrow: bool = False) -> torch.Tensor:
        """Logits [N, V] of hidden states [N, H], differentiable in both.

        Args:
            hidden: last hidden states.
            narrow: matrix products alone are narrow, under autocast: scales and caps are float32.
        """
        given = _Given(hidden[None])
        head = self.model.get_output_embeddings()
        with contextlib.ExitStack() as stack:
            stack.enter_context(computing(self.body, lambda *args, **kwargs: given))
            if narrow:
                hook = head.register_forward_hook(lambda _module, _given, made: made.float())
                stack.callback(hook.remove)
            ids = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
            return self.model(input_ids=ids, use_cache=False).logits[0]


@contextlib.contextmanager
def computing(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Let calls of one module compute something else, with its weights and its hooks.

    The forward pass of one object is exchanged, not of its class: nobody else's changes.
    """
    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before


def find_head(model: PreTrainedModel, where: object) -> OwnHead | None:
    """Find out how a model makes logits; None where its head, a matrix, gives them.

    It takes a tiny input and a few forward passes.

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
            return _find(model)
    except _NoHeadError as error:
        problem = str(error)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        said = str(error).splitlines()[:1]
        problem = (
            f"a small input ends in {type(error).__name__}{': ' if said else ''}{''.join(said)}"
        )
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


class _NoHeadError(Exception):
    """The logits can't be had from hidden states; says why."""


def _find(model: PreTrainedModel) -> OwnHead | None:
    ids, body = probe(model), model.base_model
    if body is model:
        raise _NoHeadError("transformers' class does not keep its body apart")
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise _NoHeadError("it has no output matrix")
    hidden = body(input_ids=ids, use_cache=False).last_hidden_state
    earlier = body(input_ids=ids[:1, :EARLIER], use_cache=False).last_hidden_state
    if not same(hidden[:1, :EARLIER], earlier, RIGHT_ROUNDING):
        raise _NoHeadError(
            "a token's hidden state depends on the tokens to its right, or on other rows"
        )
    states = hidden.flatten(0, 1)
    expected = model(input_ids=ids, use_cache=False).logits.flatten(0, 1)
    own = next((way for way in _ways(model, states) if same(way.logits(states), expected)), None)
    if own is None:
        raise _NoHeadError("its logits are not made from its last hidden states alone")
    return None if _is_plain(own, head, states) else own


def _is_plain(own: OwnHead, head: nn.Linear, states: torch.Tensor) -> bool:
    """Whether the head alone makes the logits, small ones and large ones."""
    if head.in_features != own.width:
        return False
    return all(same(own.logits(x), head(x)) for x in (states, _enlarged(head, states)))


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


def _ways(model: PreTrainedModel, states: torch.Tensor) -> Iterator[OwnHead]:
    """The body, and what it may hand over to: OPT's asks its body's decoder."""
    from transformers import PreTrainedModel

    body = model.base_model
    inner = [module for module in body.children() if isinstance(module, PreTrainedModel)]
    yield from (OwnHead(model, module, states.shape[-1]) for module in (body, *inner))


def _enlarged(head: nn.Linear, states: torch.Tensor) -> torch.Tensor:
    """Hidden states whose logits are as large as they get anywhere."""
    largest = head(states).float().abs().max()
    return states * float(LARGE / largest) if 0 < largest < LARGE else states


def same(
    found: torch.Tensor, expected: torch.Tensor, rounding: float = 0.0, size: float | None = None
) -> bool:
    """Whether two tensors agree up to rounding; what is not a number agrees with its like.

    Args:
        found: a tensor.
        expected: another.
        rounding: share of their size that may be rounding, if it is more than the type's.
        size: of what was summed up to them; None: of the largest of ``expected``.
    """
    narrow = expected.dtype not in ROUNDING
    share = max(rounding, NARROW_ROUNDING if narrow else ROUNDING[expected.dtype])
    if size is None:
        size = float(expected.float().abs().nan_to_num().max())
    return torch.allclose(
        found.float(), expected.float(), rtol=0, atol=share * size, equal_nan=True
    )
