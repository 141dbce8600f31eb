"""Another upper part on a model's lower layers: a value function, or the policy as it was.

The upper decoder layers, and what follows them, are copied; a pass with the copies in the place of
their originals is a pass through the branch. So it is computed as the model is, whatever the
architecture and however rows share their prompts.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rlhf.models.layers import decoder_layers, embeddings

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Branch(nn.Module):
    """Copies of a model's upper layers and of all that follows them.

    Args:
        model: the model, its weights in place.
        first: number of the lowest decoder layer that is copied.
        head: whether the output head is copied too, where it is not the embeddings.

    Attributes:
        layers: copies of the decoder layers.
        rest: copies of what follows them.
    """

    def __init__(self, model: PreTrainedModel, first: int, head: bool = False) -> None:
        super().__init__()
        stack = decoder_layers(model)
        upper: list[tuple[nn.Module, str]] = [(stack, str(i)) for i in range(first, len(stack))]
        rest = list(_after_layers(model))
        if head:
            rest += _own_head(model)
        # Attention asks the model's configuration how it is computed: the copies ask the same.
        configs: list[Any] = [model.config, model.config.get_text_config(), model.base_model.config]
        self.layers, self.rest = (
            nn.ModuleList(
                copy.deepcopy(owner.get_submodule(name), {id(each): each for each in configs})
                for owner, name in places
            )
            for places in (upper, rest)
        )
        # In lists, so that the originals do not become a part of the branch.
        self._owner, self._places, self._first = [model], upper + rest, first
        self._heard: list[torch.Tensor] = []
        self._in_tuples = False

    @property
    def model(self) -> PreTrainedModel:
        """The model that it is a branch of."""
        return self._owner[0]

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The model with the copies in it."""
        with _replaced(self._places, [*self.layers, *self.rest]):
            yield

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Keep the states that go into the layers that were copied, pass by pass."""

        def keep(_layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            self._heard.append(given[0] if given else named["hidden_states"])

        def look(_layer: nn.Module, _given: tuple[Any, ...], output: Any) -> None:
            self._in_tuples = isinstance(output, tuple)

        self._heard.clear()
        layer = decoder_layers(self.model)[self._first]
        hooks = [
            layer.register_forward_pre_hook(keep, with_kwargs=True),
            layer.register_forward_hook(look),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextlib.contextmanager
    def going_on(self, known: int) -> Iterator[None]:
        """The same passes once more, from the states that were kept on through the copies.

        Args:
            known: lowest decoder layers that do not run, for their output is remembered.
        """
        stack = decoder_layers(self.model)
        places: list[tuple[nn.Module, str]] = [(stack, str(i)) for i in range(known, self._first)]
        passing: list[nn.Module] = [
            _Passing(stack[i], self._in_tuples, self._heard if i + 1 == self._first else None)
            for i in range(known, self._first)
        ]
        with self.in_place(), _replaced(places, passing):
            yield
        self._heard.clear()


class _Passing(nn.Module):
    """In place of a layer that has run already: gives on what it gets, or what is known."""

    def __init__(self, layer: nn.Module, in_tuples: bool, known: list[torch.Tensor] | None) -> None:
        super().__init__()
        self._layer, self._in_tuples, self._known = [layer], in_tuples, known

    def __getattr__(self, name: str) -> Any:
        """What the model asks a layer for, such as its kind of attention."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_layer"][0], name)

    def forward(self, *given: Any, **named: Any) -> Any:
        states = given[0] if given else named["hidden_states"]
        if self._known is not None:
            states = self._known.pop(0)
        return (states,) if self._in_tuples else states


@contextlib.contextmanager
def _replaced(
    places: Sequence[tuple[nn.Module, str]], modules: Sequence[nn.Module]
) -> Iterator[None]:
    """Other modules in these places, by owner and name."""
    before = [owner._modules[name] for owner, name in places]
    for (owner, name), module in zip(places, modules, strict=True):
        owner._modules[name] = module
    try:
        yield
    finally:
        for (owner, name), kept in zip(places, before, strict=True):
            owner._modules[name] = kept


def branches(root: nn.Module) -> list[Branch]:
    """All branches in a root."""
    return [module for module in root.modules() if isinstance(module, Branch)]


def _after_layers(model: PreTrainedModel) -> Iterator[tuple[nn.Module, str]]:
    """Owner and name of what has weights in the body, outside of its layers and embeddings."""
    body: Any = model.base_model
    known = set(decoder_layers(model).modules())
    known.update(part for module in embeddings(model) for part in module.modules())
    for name, module in body.named_modules():
        if name and module not in known and any(True for _ in module.parameters(recurse=False)):
            yield _place(body, name)


def _own_head(model: PreTrainedModel) -> list[tuple[nn.Module, str]]:
    """Owner and name of an output head that is not the embeddings."""
    head: Any = model.get_output_embeddings()
    if head is None or head.weight is model.get_input_embeddings().weight:
        return []
    (name,) = [name for name, module in model.named_modules() if module is head]
    return [_place(model, name)]


def _place(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    owner, _, leaf = name.rpartition(".")
    return root.get_submodule(owner), leaf
