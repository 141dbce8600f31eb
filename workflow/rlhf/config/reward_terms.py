"""Where the rewards of an on-policy run come from: reward models, ensembles, functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    PlainSerializer,
    ValidationInfo,
    field_validator,
    model_validator,
)

from rlhf.config.base import NAME_PATTERN, Strict, is_given, key
from rlhf.config.paths import expanded
from rlhf.core.user_functions import split_reference

# Functions that the package brings, in `online/verifiers.py`.
VERIFIERS = ("exact_match", "math_answer")
# What a function may ask for besides columns and options, by the names of its parameters.
GIVEN = ("prompts", "responses", "token_ids", "ended")
# Keys that say something of one source alone → the key that names this source.
_BELONG = {"combine": "ensemble", "coefficient": "ensemble"} | dict.fromkeys(
    ("options", "columns", "dense"), "function"
)


class RewardTermConfig(Strict):
    """A term of the reward: a `model`, an `ensemble` of models, or a `function`."""

    model: str | None = key(None, about="name of a reward model", pattern=NAME_PATTERN)
    ensemble: list[Annotated[str, key(about="name", pattern=NAME_PATTERN)]] | None = key(
        None, about="or: names of reward models whose calibrated scores are combined", min_length=2
    )
    combine: Literal["mean", "minimum", "uncertainty"] = key(
        "mean",
        about="of an ensemble: the `mean` of its scores, their `minimum`, or `uncertainty`: their "
        "mean less `coefficient` times their variance",
        source="Coste et al. 2023",
    )
    coefficient: float = key(0.1, gt=0, about="weight of the variance with `combine: uncertainty`")
    function: str | None = key(
        None,
        about="or: a function in Python, `FILE.py:NAME`, the file's path relative to the "
        "repository's root; or one that is there: `exact_match`, `math_answer`",
    )
    options: dict[str, Any] = key({}, about="of a function: its keyword arguments")
    columns: list[str] = key(
        [],
        about="of a function: columns of the dataset's rows that it is given; the dataset needs "
        "`options.keep`",
    )
    dense: bool = key(
        False, about="whether a function returns a list of numbers, one for each token"
    )
    weight: float = key(1.0, about="what the score is multiplied by")
    name: str | None = key(
        None,
        about="what the term is called in metrics; by default like its model or function",
        pattern=NAME_PATTERN,
    )

    @field_validator("function")
    @classmethod
    def _a_file_and_a_name(cls, function: str | None, info: ValidationInfo) -> str | None:
        if function is None or function in VERIFIERS:
            return function
        path, name = split_reference(function)
        if not path.endswith(".py") or not name.isidentifier():
            raise ValueError(
                "should be FILE.py:NAME, such as rewards/length.py:score, or one of "
                + ", ".join(VERIFIERS)
            )
        return f"{expanded(path, info)}:{name}"

    @model_validator(mode="after")
    def _one_source(self) -> RewardTermConfig:
        sources = ("model", "ensemble", "function")
        given = [name for name in sources if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(sources)}")
        for name in filter(partial(is_given, self), sorted(_BELONG)):
            if _BELONG[name] not in given:
                raise ValueError(f"`{name}` is of a term with `{_BELONG[name]}`")
        if is_given(self, "coefficient") and self.combine != "uncertainty":
            raise ValueError("`coefficient` needs `combine: uncertainty`")
        if len(set(self.models)) < len(self.models):
            raise ValueError("an ensemble names a reward model twice")
        names = Counter([*GIVEN, *self.options, *set(self.columns)])
        if twice := [name for name, count in names.items() if count > 1]:
            raise ValueError(
                f"{twice[0]} would be given twice: columns and options are keyword arguments, "
                f"beside {', '.join(GIVEN)}"
            )
        return self

    @property
    def models(self) -> list[str]:
        """Names of the reward models that it needs."""
        return [self.model] if self.model else list(self.ensemble or [])

    @property
    def file(self) -> str | None:
        """The file that its function is in."""
        return split_reference(self.function)[0] or None if self.function else None

    @property
    def label(self) -> str:
        """What it is called in metrics."""
        own = self.function and split_reference(self.function)[1]
        return self.name or self.model or own or "ensemble"

    @property
    def plain(self) -> bool:
        """Whether it is a reward model and nothing more, which a name alone stands for."""
        return self == RewardTermConfig(model=self.model) if self.model else False


def _as_terms(value: Any) -> Any:
    """A name or a term as a list of terms."""
    if isinstance(value, str):
        return [{"model": value}]
    if isinstance(value, Mapping | RewardTermConfig):
        return [value]
    if isinstance(value, list):
        return [{"model": term} if isinstance(term, str) else term for term in value]
    raise ValueError(
        "should be the name of a reward model, or a term (`model`, `ensemble` or `function`), or "
        "a list of terms"
    )


def _with_own_names(terms: list[RewardTermConfig]) -> list[RewardTermConfig]:
    if not terms:
        raise ValueError("there is no term: name a reward model or a function")
    labels = Counter(term.label for term in terms)
    if twice := [label for label, count in labels.items() if count > 1]:
        raise ValueError(f"two terms are called {twice[0]}: give one another `name`")
    return terms


def _as_written(terms: list[RewardTermConfig]) -> Any:
    """A reward model alone as its name, which is how it is usually written."""
    if len(terms) == 1 and terms[0].plain:
        return terms[0].model
    return [term.model_dump(mode="json") for term in terms]


# A name, a term or a list of them, as it is written; always a list of terms once it is read.
RewardTerms = Annotated[
    list[RewardTermConfig],
    BeforeValidator(
        _as_terms,
        json_schema_input_type=str | RewardTermConfig | list[str | RewardTermConfig],
    ),
    AfterValidator(_with_own_names),
    PlainSerializer(_as_written),
]
