"""What a chat template reads besides the dialogue: a clock, chance, variables that nobody gives.

Ids have to be a function of the dialogue. So a clock is stopped at a date, which is written into
the template; whatever draws is refused; and a variable of nobody's may be asked for, never written.
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

from rlhf.errors import ConfigError

if TYPE_CHECKING:
    from jinja2 import Environment

OURS = "set `template` to chatml, oasst, hh or deepspeed_chat"  # a hint
CLOCK = "strftime_now"  # the one clock that transformers gives to templates
GIVEN = {"messages", "add_generation_prompt"}
_DRAWN = {"lipsum"}  # a function of Jinja that writes random words
_DRAWING = {"random"}  # filters
# All directives that Python documents, and those of glibc that leave out the padding.
_DIRECTIVES = ["%" + one for one in "aAbBcCdDeFgGhHIjklmMnpPrRStTuUVwWxXyYf"]
_DIRECTIVES += ["%-" + one for one in "deHIjklmMSuUVwWyg"]
_PERCENT = "\ue000"  # stands for %% while the directives are replaced


def check(template: str, where: str) -> None:
    """Refuse a template that writes something else tomorrow, or in the next run.

    Args:
        template: source of the template.
        where: its key in the configuration, for the message.

    Raises:
        ConfigError: it is no template of Jinja's, or it reads a clock, or draws at random.
    """
    from jinja2 import TemplateError

    try:
        drawing, clock = _draws(template), reads_clock(template)
    except TemplateError as error:
        raise ConfigError(
            f"The tokenizer's chat template is not one of Jinja's: {error}.",
            where=where,
            expected="a template that transformers can read",
            hint=OURS,
        ) from None
    if drawing:
        raise ConfigError(
            f"The tokenizer's chat template draws at random, with {drawing!r}.",
            where=where,
            expected="a template that writes the same dialogue the same way, always",
            hint=OURS,
        )
    if clock:
        raise ConfigError(
            f"The tokenizer's chat template writes the date, with {CLOCK!r}: tomorrow it would "
            "write another.",
            where=where,
            expected=f"{where}_date: the date that it always writes",
            hint=f"set {where}_date, such as 2024-07-26; it is written into the model's template, "
            "and all who read that write the same",
        )


def reads_clock(template: str) -> bool:
    """Whether a template asks what day or what time it is, in whatever case."""
    return CLOCK in _undeclared(template)


def variables(template: str) -> list[str]:
    """Variables that a template asks for and that are neither the dialogue's nor its own.

    Nobody gives them, so they are undefined, or none, wherever the template is used here.
    """
    from jinja2 import nodes

    tree = _environment(template).parse(template)
    tested = {name.name for test in tree.find_all(nodes.Test) for name in test.find_all(nodes.Name)}
    own = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "store"} - tested
    found = _undeclared(template) - GIVEN - _DRAWN - {CLOCK} - own
    return sorted(one for one in found if not one.endswith("_token"))


def with_date(template: str, date: datetime.date) -> str:
    """A template whose clock always says the beginning of a day, for whoever reads it."""
    day = datetime.datetime.combine(date, datetime.time())
    text = f"format.replace('%%', '{_PERCENT}')"
    for one in _DIRECTIVES:
        value = day.strftime(one).replace("\n", "\\n").replace("\t", "\\t")
        text += f".replace('{one}', '{value}')"
    # A newline after a block belongs to the block, so the template begins where it began.
    return (
        f"{{%- macro {CLOCK}(format) -%}}\n"
        f"    {{%- set text = {text} -%}}\n"
        f"    {{%- if '%' in text -%}}{{{{- raise_exception('unknown in a date: ' + text) -}}}}"
        f"{{%- endif -%}}\n"
        f"    {{{{- text.replace('{_PERCENT}', '%') -}}}}\n"
        f"{{%- endmacro %}}\n{template}"
    )


def strict(template: str) -> Any:
    """The template, compiled so that it fails where it writes a variable that nobody gives.

    Asking whether there is one, or whether it is true, is no fault.
    """
    from jinja2 import Undefined, UndefinedError, nodes
    from jinja2.utils import missing

    environment = _environment(template)
    names = environment.parse(template).find_all(nodes.Name)
    foreign = set(variables(template)) - {one.name for one in names if one.ctx == "store"}

    class Unwritten(Undefined):
        def __str__(self) -> str:
            if self._undefined_obj is missing and self._undefined_name in foreign:
                raise UndefinedError(f"it writes {self._undefined_name!r}, which nobody gives it")
            return super().__str__()

    return environment.overlay(undefined=Unwritten).from_string(template)


def _draws(template: str) -> str | None:
    """What a template draws at random with; None if it does not."""
    from jinja2 import nodes

    found = _undeclared(template) & _DRAWN
    for one in _environment(template).parse(template).find_all(nodes.Filter):
        named = {one.name} | {arg.value for arg in one.args if isinstance(arg, nodes.Const)}
        found |= named & _DRAWING if one.name in ("map", *_DRAWING) else set()
    return min(found, default=None)


def _undeclared(template: str) -> set[str]:
    """Names that a template takes from outside, those of functions that draw or tell time too."""
    from jinja2 import meta

    bare = _environment(template).overlay()
    hidden = {CLOCK, *_DRAWN}
    bare.globals = {name: one for name, one in bare.globals.items() if name not in hidden}
    return meta.find_undeclared_variables(bare.parse(template))


def _environment(template: str) -> Environment:
    """The one that transformers renders the template in: with its filters, functions and tags."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    return _compile_jinja_template(template).environment
