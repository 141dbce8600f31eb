"""Templates, digests, and the tokenizers that are refused."""

from __future__ import annotations

import pytest

from rlhf.data.templates.chat import (
    TEMPLATES,
    check_tokenizer,
    required_tokens,
    set_template,
    template_digest,
    template_text,
    tokenizer_digest,
)
from rlhf.errors import ConfigError


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("bos", [False, True])
def test_templates_pass_their_own_check(make_tokenizer, name, bos):
    tokenizer = make_tokenizer(name, bos)
    check_tokenizer(tokenizer)
    check_tokenizer(tokenizer, name)
    assert "{%- generation -%}" in template_text(name)
    for token in required_tokens(name):
        assert token in template_text(name)


def test_check_leaves_the_stored_template_alone(make_tokenizer):
    tokenizer = make_tokenizer("oasst")
    before = template_digest(tokenizer)
    check_tokenizer(tokenizer, "hh")
    assert template_digest(tokenizer) == before


def test_unknown_template_is_named():
    with pytest.raises(ConfigError, match="'chatm'") as error:
        template_text("chatm")
    assert "own, chatml, oasst, hh, deepspeed_chat" in str(error.value)


def drop_pad(tokenizer):
    tokenizer.pad_token = None


def drop_eos(tokenizer):
    tokenizer.eos_token = None


def other_eos(tokenizer):
    tokenizer.eos_token = "</s>"


def other_template(text):
    def change(tokenizer):
        tokenizer.chat_template = text

    return change


ROLES = "{%- for m in messages -%}{{- m.role -}}"
END = "{%- if m.role == 'assistant' -%}{{- eos_token -}}{%- endif -%}{%- endfor -%}"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop_pad, ["no padding token", "models.base.pad_token", "set `pad_token`"]),
        (drop_eos, ["no EOS", "models.base.eos_token"]),
        (other_eos, ["does not end", "models.base.template", "`eos_token`"]),
        (other_template(None), ["no chat template", "models.base.template", "chatml"]),
        (other_template(ROLES + "{{- m.content | upper -}}" + END), ["changes the messages"]),
        (other_template(ROLES + "{{- m.content * 2 -}}" + END), ["each message once"]),
        (other_template(ROLES + "{{- m.content -}}{%- endfor -%}"), ["does not end"]),
        (other_template("{{- raise_exception('no way') -}}"), ["refuses", "no way"]),
        (
            other_template(ROLES + "{{- m.content -}}" + END + "{{- 'x' -}}"),
            ["differently when it waits"],
        ),
    ],
)
def test_unfit_tokenizers_are_refused(make_tokenizer, change, words):
    tokenizer = make_tokenizer("chatml")
    change(tokenizer)
    with pytest.raises(ConfigError) as error:
        check_tokenizer(tokenizer, model="base")
    for word in words:
        assert word in str(error.value)
    assert error.value.hint


def test_template_tokens_must_be_one_special_token_each(trained):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, "<|im_end|>": 1, "<pad>": 2}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>")),
        eos_token="<|im_end|>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
    with pytest.raises(ConfigError, match=r"needs <\|im_start\|> as one special token") as error:
        check_tokenizer(tokenizer, "chatml", "base")
    assert "models.base.template" in str(error.value)


def test_chatml_needs_its_own_eos(make_tokenizer):
    with pytest.raises(ConfigError, match="EOS is '</s>'") as error:
        check_tokenizer(make_tokenizer("oasst"), "chatml", "base")
    assert "models.base.eos_token" in str(error.value)
    assert "set `eos_token` to <|im_end|>" in str(error.value)


def test_digest_is_that_of_the_content(make_tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = make_tokenizer("chatml")
    digest = tokenizer_digest(tokenizer)
    for folder in ("a", "b/c"):
        tokenizer.save_pretrained(tmp_path / folder)
        again = AutoTokenizer.from_pretrained(tmp_path / folder)
        assert tokenizer_digest(again) == digest
        assert template_digest(again) == template_digest(tokenizer)
    again(["a", "b c"], padding=True, truncation=True, max_length=8)
    assert tokenizer_digest(again) == digest
    again.pad_token = "<s>"
    assert tokenizer_digest(again) != digest
    assert tokenizer_digest(make_tokenizer("chatml", bos=True)) != digest


def test_template_digest_changes_with_the_template(make_tokenizer):
    digests = {template_digest(make_tokenizer(name)) for name in TEMPLATES}
    assert len(digests) == len(TEMPLATES)


def test_stored_template_survives_saving(make_tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = make_tokenizer("oasst", bos=True)
    tokenizer.save_pretrained(tmp_path)
    text = AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<s><|prompter|>hi</s><|assistant|>"
    set_template(tokenizer, "oasst")  # twice changes nothing
    assert tokenizer.chat_template.count("bos_token") == 1
