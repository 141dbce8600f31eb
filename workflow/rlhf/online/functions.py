"""Reward functions: scores of responses by a function in Python."""

from __future__ import annotations

import inspect
import json
import math
import numbers
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from rlhf.config.reward_terms import GIVEN
from rlhf.errors import ConfigError, NumericsError, RlhfError
from rlhf.online.rollout import Rollout
from rlhf.training.finite import row_name

Messages = list[dict[str, str]]  # role and content of each turn
ROWS_NAMED = 5


class RewardFunction:
    """A function that scores all responses of a rank in one call.

    It is given, by the names of its parameters, those of these that it has, lists with one entry
    for each response:

    ================  ==========================================================
    ``prompts``       the messages of the dialogue, ``{"role": …, "content": …}``
    ``responses``     the responses' texts, without special tokens
    ``token_ids``     their token ids, with the EOS
    ``ended``         whether each has its EOS
    a column          what the row of the dataset has there
    an option         its value, the same for all
    ================  ==========================================================

    It returns one number for each response, or with ``dense`` a list of numbers for each, one for
    every token. Calls are in the main thread, in the order of the rollout.

    Args:
        function: the function.
        name: how the configuration names it.
        columns: columns that it is given.
        options: keyword arguments.
        dense: whether it returns numbers for tokens.
        decode: text of token ids.
        messages: messages of rows' prompts.
        where: the key that names it.

    Raises:
        ConfigError: its parameters are others.
    """

    remote = False

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        columns: Sequence[str],
        options: Mapping[str, Any],
        dense: bool,
        decode: Callable[[torch.Tensor], str],
        messages: Callable[[Sequence[Mapping[str, Any]]], list[Messages]],
        where: str,
    ) -> None:
        self._function, self._name, self._columns = function, name, tuple(columns)
        self._options, self._dense = dict(options), dense
        self._decode, self._messages, self._where = decode, messages, where
        self._wanted = self._parameters()

    def __call__(self, rollout: Rollout) -> torch.Tensor | list[torch.Tensor]:
        """Scores [n], or with ``dense`` rewards n × [L_i].

        Raises:
            RlhfError: the function raises, or returns something else than that many numbers.
            NumericsError: a number is infinite, or none.
        """
        given = self._arguments(rollout)
        try:
            answers = list(self._function(**given, **self._options))
        except Exception as error:
            raise self._raised(error, rollout, given) from error
        if len(answers) != len(rollout.examples):
            raise self._refused(
                f"{len(answers)} scores of {len(rollout.examples)} responses",
                rollout.examples,
                "one number for each response, in their order",
            )
        if not self._dense:
            return torch.tensor([
                self._number(answer, example)
                for answer, example in zip(answers, rollout.examples, strict=True)
            ])  # fmt: skip
        return [self._dense_row(rollout, i, answer) for i, answer in enumerate(answers)]

    def _parameters(self) -> set[str]:
        """Names of what the function is given of each response.

        Raises:
            ConfigError: it needs something that nobody gives, or does not take an option.
        """
        parameters = inspect.signature(self._function).parameters.values()
        every = any(one.kind is one.VAR_KEYWORD for one in parameters)
        known = {one.name for one in parameters if one.kind not in (one.VAR_KEYWORD,
                 one.VAR_POSITIONAL, one.POSITIONAL_ONLY)}  # fmt: skip
        needed = {one.name for one in parameters if one.name in known and one.default is one.empty}
        standard = set(GIVEN)
        own = {*self._columns, *self._options}
        for name in sorted(own - known) if not every else ():
            raise ConfigError(
                f"The function {self._name} has no parameter `{name}`.",
                where=self._where,
                expected=f"columns and options that it takes: {', '.join(sorted(known))}",
            )
        for name in sorted(needed - standard - own):
            raise ConfigError(
                f"The function {self._name} needs `{name}`, which it is not given.",
                where=self._where,
                expected=f"parameters among {', '.join(sorted(standard | own))}, or with a default",
                hint=f"name it in `columns` (`columns: [{name}]`) or in `options`",
            )
        rows = standard | set(self._columns)
        return rows if every else known & rows

    def _arguments(self, rollout: Rollout) -> dict[str, list[Any]]:
        pairs = list(zip(rollout.sequences, rollout.starts, strict=True))
        given: dict[str, list[Any]] = {}
        if "prompts" in self._wanted:
            given["prompts"] = self._messages(rollout.examples)
        if "responses" in self._wanted:
            given["responses"] = [self._decode(ids[start:]) for ids, start in pairs]
        if "token_ids" in self._wanted:
            given["token_ids"] = [ids[start:].tolist() for ids, start in pairs]
        if "ended" in self._wanted:
            given["ended"] = rollout.ended.tolist()
        rows = [json.loads(row["columns"]) for row in rollout.examples] if self._columns else []
        return given | {name: [row[name] for row in rows] for name in self._columns}

    def _dense_row(self, rollout: Rollout, i: int, answer: Any) -> torch.Tensor:
        length, example = len(rollout.sequences[i]) - rollout.starts[i], rollout.examples[i]
        try:
            values = list(answer)
        except TypeError:
            values = None
        if values is None or len(values) != length:
            count = "no list" if values is None else f"{len(values)} numbers"
            raise self._refused(
                f"{count} for a response of {length} tokens",
                [example],
                "with `dense: true` a list of numbers for each response, one for every token",
            )
        return torch.tensor([self._number(value, example) for value in values])

    def _number(self, value: Any, example: Mapping[str, Any]) -> float:
        value = value.item() if hasattr(value, "item") else value  # of numpy or torch
        if not isinstance(value, numbers.Real):
            raise self._refused(f"{value!r}, which is no number", [example], "finite numbers")
        if not math.isfinite(value):
            raise NumericsError(
                f"The function {self._name} returned {value}.",
                where=f"{self._where}; {_rows([example])}",
                expected="finite numbers",
            )
        return float(value)

    def _raised(
        self, error: Exception, rollout: Rollout, given: Mapping[str, list[Any]]
    ) -> RlhfError:
        """What to say of an exception; rows are tried one by one to find the one it is about."""
        rows: Sequence[Mapping[str, Any]] = rollout.examples
        for i, example in enumerate(rollout.examples):
            try:
                alone = {name: values[i : i + 1] for name, values in given.items()}
                list(self._function(**alone, **self._options))
            except Exception as own:
                error, rows = own, [example]
                break
        last = traceback.extract_tb(error.__traceback__)[-1]
        return RlhfError(
            f"The function {self._name} raised {type(error).__name__}: {error}",
            where=f"{self._where}; {_rows(rows)}; {last.filename}:{last.lineno}: {last.line}",
            expected="a score for every response",
            hint="mend the function; the run begins anew then, as its file is a part of it",
        )

    def _refused(self, what: str, rows: Sequence[Mapping[str, Any]], expected: str) -> RlhfError:
        return RlhfError(
            f"The function {self._name} returned {what}.",
            where=f"{self._where}; {_rows(rows)}",
            expected=expected,
        )


def _rows(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(map(row_name, rows)))
    rest = len(names) - ROWS_NAMED
    more = f" and {rest} more" if rest > 0 else ""
    return f"row{'s' * (len(names) > 1)} {', '.join(names[:ROWS_NAMED])}{more}"
