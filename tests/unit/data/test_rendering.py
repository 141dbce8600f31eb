"""What a model's own template writes is what is encoded, or it is refused."""

from __future__ import annotations

import itertools

import pytest

from rlhf.data.encoding import Encoder
from rlhf.data.labels import IGNORED
from rlhf.data.rows import Conversation, Message, Preference, Prompt
from rlhf.data.tokenizing import Limits, Tally, tokenize
from rlhf.errors import ConfigError, DataError

TEXTS = (
    "plain",
    " spaces ",
    "\nnewlines\n\n",
    "\t \n both\n ",
    "Ünï <b>&amp;</b>",
    "x" * 20_000,
    ".",
)
SHAPES = [
    (*system, *itertools.islice(itertools.cycle(("user", "assistant")), count))
    for system in ((), ("system",))
    for count in (1, 2, 3, 4, 5, 6)
]


def template(user="m.content", assistant="m.content", system="m.content", begin="", before=""):
    """A template in the manner of ChatML, with expressions for what the roles say."""
    return (
        f"{begin}{{%- for m in messages -%}}{before}{{{{- '<|im_start|>' + m.role + '\\n' -}}}}"
        f"{{%- if m.role == 'user' -%}}{{{{- {user} -}}}}"
        f"{{%- elif m.role == 'assistant' -%}}{{{{- {assistant} -}}}}"
        f"{{%- else -%}}{{{{- {system} -}}}}{{%- endif -%}}{{{{- '<|im_end|>\\n' -}}}}"
        "{%- endfor -%}{%- if add_generation_prompt -%}"
        "{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
    )


# The system's message goes into the first question, and what stands before that changes with it.
MERGING = (
    "{%- if messages[0].role == 'system' -%}"
    "{%- set first = messages[0].content + '\\n\\n' -%}{%- set turns = messages[1:] -%}"
    "{%- else -%}{%- set first = '' -%}{%- set turns = messages -%}{%- endif -%}"
    "{%- for m in turns -%}{%- if m.role == 'user' -%}"
    "{{- '[INST] ' + (first if loop.first else '') + m.content | trim + ' [/INST]' -}}"
    "{%- else -%}{{- ' ' + m.content | trim + '<|im_end|>' -}}{%- endif -%}{%- endfor -%}"
)
# Without a system's message it writes one of its own.
DEFAULT_SYSTEM = template(
    begin="{%- if messages[0].role != 'system' -%}"
    "{{- '<|im_start|>system\\nYou help.<|im_end|>\\n' -}}{%- endif -%}"
)
WELL = {
    "all stripped": template(*["m.content | trim"] * 3),
    "replies stripped": template(assistant="m.content.strip()"),
    "questions stripped": template(user="m.content | trim"),
    "newlines before replies": template(assistant="m.content.lstrip('\\n')"),
    "newlines around": template("m.content.strip('\\n')", "m.content.rstrip()"),
    "merging": MERGING,
    "default system": DEFAULT_SYSTEM,
}


def with_template(make_tokenizer, text):
    tokenizer = make_tokenizer("chatml")
    tokenizer.chat_template = text
    return tokenizer


def dialogue(roles, shift):
    return [Message(role, TEXTS[(i + shift) % len(TEXTS)]) for i, role in enumerate(roles)]


def written(tokenizer, messages, prompt):
    return tokenizer.apply_chat_template(
        [{"role": one.role, "content": one.content} for one in messages],
        tokenize=False,
        add_generation_prompt=prompt,
    )


def cut(encoder, row, view="conversation", length=10**6, overlong="truncate", **options):
    tally = Tally()
    return list(tokenize([row], encoder, Limits(view, length, overlong, **options), tally)), tally


@pytest.mark.parametrize("name", WELL)
def test_ids_are_what_the_template_writes(make_tokenizer, name):
    tokenizer = with_template(make_tokenizer, WELL[name])
    encoder = Encoder(tokenizer)
    for roles, shift in itertools.product(SHAPES, range(len(TEXTS))):
        messages, prompt = dialogue(roles, shift), roles[-1] == "user"
        encoder.check(messages, "row", prompt)
        ids = encoder.prompt(messages) if prompt else encoder.conversation(messages)[0]
        assert tokenizer.decode(ids) == written(tokenizer, messages, prompt)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("m.content | truncate(300)", "changes the messages' texts"),
        ("m.content[:9000]", "changes the messages' texts"),
        ("m.content | lower", "changes the messages' texts"),
        ("m.content | upper", "changes the messages' texts"),
        ("m.content | title", "changes the messages' texts"),
        ("m.content | e", "changes the messages' texts"),
        ("m.content.split('\\n') | map('trim') | join('\\n')", "changes the messages' texts"),
        ("m.content | replace('\\n\\n', '\\n')", "changes the messages' texts"),
        ("m.content | wordwrap(79)", "changes the messages' texts"),
        ("m.content | tojson", "changes the messages' texts"),
        ("m.content.strip(' \\n')", "changes the messages' texts"),
        ("m.content + m.content", "each message once"),
        ("''", "each message once"),
    ],
)
@pytest.mark.parametrize("role", ["user", "assistant"])
def test_changes_to_texts_are_refused_when_a_model_is_fetched(make_tokenizer, role, change, words):
    with pytest.raises(ConfigError, match=words) as error:
        Encoder(with_template(make_tokenizer, template(**{role: change})), "base")
    assert "models.base.template" in str(error.value)


class TestRolesOfTheRows:
    """A template may do well on a question and its answer, and badly on what rows have."""

    pair = dialogue(("user", "assistant"), 0)

    @pytest.mark.parametrize(
        ("text", "roles", "words"),
        [
            (template(system="''"), ("system", "user", "assistant"), "each message once"),
            (template(system="m.content[:20]"), ("system", "user", "assistant"), "changes the"),
            (
                template(begin="{%- set messages = messages[-2:] -%}"),
                ("user", "assistant", "user", "assistant"),
                "each message once",
            ),
            (
                template(assistant="m.content if loop.last else '…'"),
                ("user", "assistant", "user", "assistant"),
                "each message once",
            ),
            (
                template(assistant="m.content if loop.last else m.content | trim"),
                ("user", "assistant", "user", "assistant"),
                "writes a reply differently",
            ),
            (
                template(
                    before="{%- if m.role == 'system' -%}{{ raise_exception('no') }}{% endif %}"
                ),
                ("system", "user", "assistant"),
                "refuses these roles",
            ),
            (
                template(
                    begin="{%- if messages | length > 3 -%}{{- 'Long talk.\\n' -}}{%- endif -%}"
                ),
                ("user", "assistant", "user", "assistant"),
                "writes a reply differently",
            ),
        ],
    )
    def test_they_are_looked_at_where_rows_have_them(self, make_tokenizer, text, roles, words):
        encoder = Encoder(with_template(make_tokenizer, text))
        assert encoder.conversation(self.pair)
        with pytest.raises(ConfigError, match=words):
            encoder.conversation(dialogue(roles, 0))

    def test_a_reply_that_is_not_marked(self, make_tokenizer):
        marked = "{%- generation -%}{{- m.content + eos_token -}}{%- endgeneration -%}"
        text = template().replace(
            "{{- m.content -}}{%- else",
            f"{{%- if loop.index == 2 -%}}{marked}{{%- else -%}}"
            "{{- m.content -}}{%- endif -%}{%- else",
        )
        encoder = Encoder(with_template(make_tokenizer, text))
        with pytest.raises(ConfigError, match="does not end the assistant's turn"):
            encoder.conversation(dialogue(("system", "user", "assistant", "user", "assistant"), 0))

    def test_a_text_that_is_stripped_where_a_reply_is_waited_for(self, make_tokenizer):
        asked = "(m.content | trim if add_generation_prompt and loop.last else m.content)"
        with pytest.raises(ConfigError, match="differently"):
            Encoder(with_template(make_tokenizer, template(user=asked)))


class TestTextsOfTheRows:
    """What a template does to some texts only shows in the rows that have them."""

    cutting = template(assistant="m.content.split('</think>')[-1]")
    thought = "<think>\n2 and 2\n</think>\n4"
    question, plain, thoughtful = (
        Message("user", "2 + 2?"),
        Message("assistant", "4"),
        Message("assistant", thought),
    )

    def rows(self, reply):
        history = (self.question, reply, Message("user", "Sure?"))
        yield "conversation", Conversation("tree/7", "g", (self.question, reply))
        yield "conversation", Conversation("tree/7", "g", (*history, Message("assistant", "Yes.")))
        yield "prompt", Prompt("tree/7", "g", history)
        yield "preference", Preference("tree/7", "g", history, ("Yes.", "No."))
        yield (
            "preference",
            Preference("tree/7", "g", (self.question,), (reply.content, "5")),
        )

    def test_cut_thoughts_are_refused_with_the_row(self, make_tokenizer):
        encoder = Encoder(with_template(make_tokenizer, self.cutting), "base")
        for view, row in self.rows(self.plain):
            assert cut(encoder, row, view)[1].rows == 1
        for view, row in self.rows(self.thoughtful):
            with pytest.raises(DataError, match="does not write a row's texts") as error:
                cut(encoder, row, view)
            assert "row tree/7, models.base.template" in str(error.value)
            assert "<think>" in error.value.expected
            assert "options.exclude" in error.value.hint

    def test_thoughts_are_whole_where_the_template_keeps_them(self, make_tokenizer):
        tokenizer = with_template(make_tokenizer, template())
        for view, row in self.rows(self.thoughtful):
            (sample,), _ = cut(Encoder(tokenizer), row, view)
            if view == "conversation":
                assert self.thought in tokenizer.decode(sample["input_ids"])

    @pytest.mark.parametrize(
        ("expression", "text"),
        [
            ("m.content if '<tool' not in m.content else m.content | trim", " <tool> "),
            ("m.content if m.content else 'empty'", ""),
            ("m.content[:50000]", "long " * 20_000),
            ("m.content | replace('\\r\\n', '\\n')", "two\r\nlines"),
            ("m.content | replace('<image>', '')", "an <image>"),
            ("m.content if 'secret' not in m.content else raise_exception('no')", "a secret"),
            ("m.content if m.content != '1' else m.content + 1", "1"),
        ],
    )
    @pytest.mark.parametrize("role", ["user", "assistant"])
    def test_a_template_that_looks_at_texts(self, make_tokenizer, role, expression, text):
        encoder = Encoder(with_template(make_tokenizer, template(**{role: expression})))
        messages = [Message("user", "Why?"), Message("assistant", "So.")]
        assert cut(encoder, Conversation("fine", "g", tuple(messages)))[1].rows == 1
        messages[role == "assistant"] = Message(role, text)
        with pytest.raises(DataError, match="row odd"):
            cut(encoder, Conversation("odd", "g", tuple(messages)))

    def test_a_text_that_changes_what_is_around_it(self, make_tokenizer):
        looking = template(
            begin="{%- if 'json' in messages[0].content -%}{{- 'In JSON.\\n' -}}{%- endif -%}"
        )
        encoder = Encoder(with_template(make_tokenizer, looking))
        row = Prompt("odd", "g", (Message("user", "Give me json."),))
        with pytest.raises(DataError, match="row odd"):
            cut(encoder, row, "prompt")

    def test_plain_text_has_no_template(self, make_tokenizer):
        encoder = Encoder(with_template(make_tokenizer, self.cutting))
        row = Conversation("text", "g", (Message("text", self.thought),))
        assert cut(encoder, row)[1].rows == 1


class TestCutDialogues:
    def test_what_is_left_is_what_the_template_writes(self, make_tokenizer):
        """What stood before a later question was a space; now it is the system's message."""
        tokenizer = with_template(make_tokenizer, MERGING)
        encoder = Encoder(tokenizer)
        messages = tuple(dialogue(("system", *("user", "assistant") * 2), 1))
        left = (messages[0], *messages[3:])
        least = encoder.conversation(left)[0]
        (sample,), tally = cut(encoder, Conversation("row", "g", messages), length=len(least))
        assert tally.truncations == {"turns": 1}
        assert tokenizer.decode(sample["input_ids"]) == written(tokenizer, left, False)
        history, end = messages[:4], encoder.reply(messages[:4], "Yes.")
        row = Preference("row", "g", history, ("Yes.", "No."))
        left = (messages[0], messages[3])
        length = len(encoder.prompt(left)) + len(end)
        (sample,), tally = cut(encoder, row, "preference", length=length)
        assert tally.truncations == {"turns": 1}
        assert tokenizer.decode(sample["history_ids"]) == written(tokenizer, left, True)

    def test_a_reply_that_is_written_otherwise_after_less(self, make_tokenizer):
        late = "(m.content if loop.index > 2 else '\\n' + m.content)"
        marked = template(assistant=late).replace(
            f"{{{{- {late} -}}}}",
            f"{{%- generation -%}}{{{{- {late} + eos_token -}}}}{{%- endgeneration -%}}",
        )
        encoder = Encoder(with_template(make_tokenizer, marked))
        history = tuple(dialogue(("user", "assistant", "user"), 0))
        row = Preference("row", "g", history, ("Yes.", "No."))
        whole, _ = cut(encoder, row, "preference")
        length = len(whole[0]["history_ids"]) + max(map(len, whole[0]["reply_ids"])) - 1
        with pytest.raises(DataError, match="differently after a shorter history"):
            cut(encoder, row, "preference", length=length)


def test_labels_of_a_template_that_strips_replies_only(make_tokenizer):
    tokenizer = with_template(make_tokenizer, WELL["replies stripped"])
    messages = [Message("user", " why? "), Message("assistant", " so. ")]
    ids, labels = Encoder(tokenizer).conversation(messages)
    trained = [one for one in labels if one != IGNORED]
    assert tokenizer.decode(trained) == "so.<|im_end|>"
    assert tokenizer.decode(ids).startswith("<|im_start|>user\n why? <|im_end|>")
