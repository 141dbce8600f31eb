"""Templates that read more than the dialogue: a clock, chance, variables of nobody's."""

from __future__ import annotations

import datetime

import pytest

from rlhf.data import outside
from rlhf.data.encoding import Encoder, encode_conversation, encode_prompt
from rlhf.data.rows import Message
from rlhf.errors import ConfigError

TURNS = (
    "{%- for m in messages -%}{{- '[' + m.role + ']' + m.content + eos_token -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '[assistant]' -}}{%- endif -%}"
)
# The ways in which templates of well-known models write a date.
PLAIN = "{{- 'Today: ' + strftime_now('%B %d, %Y') + eos_token -}}"
WITH_DEFAULT = (
    "{%- if not date_string is defined %}\n    {%- if strftime_now is defined %}\n"
    '        {%- set date_string = strftime_now("%d %b %Y") %}\n    {%- else %}\n'
    '        {%- set date_string = "26 Jul 2024" %}\n    {%- endif %}\n{%- endif %}\n'
    "{{- 'Today: ' + date_string -}}"
)
IN_MACRO = (
    "{%- macro head() -%}{{- 'On ' + strftime_now(format='%Y-%m-%d') + '\\n' -}}{%- endmacro -%}"
    "{{- head() -}}"
)
INDENTED = "   {% if true %}\n{{ strftime_now('%A, %-d %B %y, %H:%M') }}{% endif %}\n\n"
CLOCKS = [PLAIN, WITH_DEFAULT, IN_MACRO, INDENTED]
HISTORY = (Message("user", "What day is it?"),)


def with_template(tokenizer, text):
    tokenizer.chat_template = text
    return tokenizer


@pytest.fixture
def clock(monkeypatch):
    """Sets what the clock says that transformers gives to templates."""
    from transformers.utils import chat_template_utils

    def put(*when):
        class Clock(datetime.datetime):
            @classmethod
            def now(cls, tz=None):
                return datetime.datetime(*when)

        monkeypatch.setattr(chat_template_utils, "datetime", Clock)

    return put


def rendered(tokenizer):
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": "What day is it?"}], tokenize=False, add_generation_prompt=True
    )


@pytest.mark.parametrize("begin", CLOCKS)
def test_a_clock_is_refused_whatever_it_says(make_tokenizer, begin):
    tokenizer = with_template(make_tokenizer("oasst"), begin + TURNS)
    with pytest.raises(ConfigError, match="writes the date") as error:
        Encoder(tokenizer, "base")
    assert "models.base.template_date" in error.value.hint


@pytest.mark.parametrize("begin", CLOCKS)
def test_a_stopped_clock_says_the_same_to_everybody(make_tokenizer, clock, begin):
    tokenizer = with_template(make_tokenizer("oasst"), begin + TURNS)
    clock(2031, 2, 3)
    expected = rendered(tokenizer)
    tokenizer.chat_template = outside.with_date(begin + TURNS, datetime.date(2031, 2, 3))
    clock(1999, 12, 31, 23, 59, 58)
    assert rendered(tokenizer) == expected
    ids = encode_prompt(tokenizer, HISTORY)
    assert tokenizer.decode(ids) == expected
    clock(2050, 6, 7)
    assert encode_prompt(tokenizer, HISTORY) == ids


def test_known_dates(make_tokenizer):
    for begin, start in ((PLAIN, "Today: July 26, 2024"), (WITH_DEFAULT, "Today: 26 Jul 2024")):
        template = outside.with_date(begin + TURNS, datetime.date(2024, 7, 26))
        assert rendered(with_template(make_tokenizer("oasst"), template)).startswith(start)


def test_every_directive_is_that_of_the_clock(make_tokenizer, clock):
    names = ["%" + one for one in "aAbBcCdDeFgGhHIjklmMnpPrRStTuUVwWxXyYf%"]
    names += ["%-" + one for one in "deHIjklmMSuUVwWyg"] + ["%%d", "100 %%"]
    template = f"{{{{- strftime_now('{'|'.join(names)}') -}}}}" + TURNS
    tokenizer = with_template(make_tokenizer("oasst"), template)
    for day in ((2024, 3, 5), (1999, 12, 31)):
        clock(*day)
        tokenizer.chat_template = template
        expected = rendered(tokenizer)
        tokenizer.chat_template = outside.with_date(template, datetime.date(*day))
        assert rendered(tokenizer) == expected


@pytest.mark.parametrize("directive", ["%s", "%Z", "%-P", "%Q", "%5Y"])
def test_other_directives_are_refused(make_tokenizer, directive):
    template = f"{{{{- strftime_now('%Y {directive}') -}}}}" + TURNS
    template = outside.with_date(template, datetime.date(2024, 3, 5))
    with pytest.raises(ConfigError, match="unknown in a date: 2024"):
        Encoder(with_template(make_tokenizer("oasst"), template))


@pytest.mark.parametrize(
    ("begin", "name"),
    [
        ("{{- ['Hi', 'Hello'] | random -}}", "random"),
        ("{{- range(9) | random -}}", "random"),
        ("{{- [['Hi', 'Hello']] | map('random') | join -}}", "random"),
        ("{%- if false -%}{{- 'ab' | random -}}{%- endif -%}", "random"),
        ("{{- lipsum(n=1) -}}", "lipsum"),
    ],
)
def test_what_draws_is_refused(make_tokenizer, begin, name):
    tokenizer = with_template(make_tokenizer("oasst"), begin + TURNS)
    with pytest.raises(ConfigError, match=f"draws at random, with '{name}'") as error:
        Encoder(tokenizer, "base")
    assert "models.base.template" in str(error.value)


@pytest.mark.parametrize(
    ("begin", "name"),
    [
        ("{{- 'Today is ' ~ today ~ '.' -}}", "today"),
        ("{{- 'Today is ' -}}{{- date_string -}}", "date_string"),
        ("{{- persona | trim -}}", "persona"),
        ("{%- if messages | length > 1 -%}{{- 'now: ' ~ now -}}{%- endif -%}", "now"),
    ],
)
def test_a_variable_that_nobody_gives_is_not_written(make_tokenizer, begin, name):
    tokenizer = with_template(make_tokenizer("oasst"), begin + TURNS)
    with pytest.raises(ConfigError, match=f"more than the dialogue: it writes '{name}'") as error:
        Encoder(tokenizer, "base")
    assert error.value.hint


def test_a_function_that_nobody_gives_is_refused(make_tokenizer):
    tokenizer = with_template(make_tokenizer("oasst"), "{{- datetime.now().year -}}" + TURNS)
    with pytest.raises(ConfigError, match="'datetime' is undefined"):
        Encoder(tokenizer)


def test_what_is_only_asked_for_is_named(make_tokenizer):
    template = (
        "{{- bos_token -}}{%- if tools -%}{{- tools | tojson -}}{%- endif -%}"
        "{%- if enable_thinking is defined and enable_thinking -%}{{- '/think' -}}{%- endif -%}"
        "{%- if not date_string is defined -%}{%- set date_string = '26 Jul 2024' -%}{%- endif -%}"
        "{%- if messages[0].role == 'system' -%}{%- set first = 1 -%}{%- else -%}"
        "{%- set first = 0 -%}{%- endif -%}{{- 'Today: ' + date_string + ' ' ~ first -}}" + TURNS
    )
    assert outside.variables(template) == ["date_string", "enable_thinking", "tools"]
    tokenizer = with_template(make_tokenizer("oasst"), template)
    ids, _ = encode_conversation(tokenizer, (*HISTORY, Message("assistant", "Friday.")))
    assert tokenizer.decode(ids).startswith("Today: 26 Jul 2024 0[user]What")


def test_a_template_that_jinja_cannot_read(make_tokenizer):
    tokenizer = with_template(make_tokenizer("oasst"), "{% for m in messages %}" + TURNS)
    with pytest.raises(ConfigError, match="not one of Jinja's") as error:
        Encoder(tokenizer, "base")
    assert "models.base.template" in str(error.value)
