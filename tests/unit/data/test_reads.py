"""Which columns formats say that they read: all others are named as unread."""

from __future__ import annotations

import pytest

from rlhf.data.formats.faults import Faults
from rlhf.data.formats.source import class_of

READS = {
    "alpaca": "instruction input output history system system_prompt",
    "dialogue": "dialogue system system_prompt label",
    "messages": "messages id system system_prompt",
    "oasst": "message_id parent_id text role rank replies prompt tree_state lang labels",
    "qa": "question answer system system_prompt",
    "sharegpt": "conversations id system system_prompt",
    "summary": "text summary",
    "text": "text",
    "translation": "translation",
}


@pytest.mark.parametrize("name", READS)
def test_columns_that_a_format_reads(name):
    options = {"pair": "de-en"} if name == "translation" else {}
    reads = class_of(name)(Faults("file"), **options).reads
    assert set(READS[name].split()) <= set(reads)
    assert not set(reads) & {"source", "score", "metadata"}


def test_options_decide_what_is_read():
    made = class_of("qa")(Faults("file"), question="{meta.title?}: {q}", answer="a.0", system="",
                          label="")  # fmt: skip
    assert {one for one in made.reads if "." not in one} == {"meta", "q", "a"}
    made = class_of("dialogue")(Faults("file"), turns="t", speakers="who", prefix="{p}", system="s",
                                label="")  # fmt: skip
    assert made.reads == {"t", "who", "p", "s"}
    made = class_of("translation")(Faults("file"), "de-en", source="x", target="y")
    assert made.reads == {"x", "y"}
    made = class_of("messages")(Faults("file"), column="c", system="s", label="good")
    assert made.reads == {"c", "s", "good", "id"}
