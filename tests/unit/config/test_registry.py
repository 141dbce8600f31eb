"""The registry of datasets: names, parameters, suggestions, and every set on a row of its own."""

from __future__ import annotations

import re

import pytest
from support.dataset_rows import ROWS

from rlhf.config.registry import entries, find, resolve_datasets
from rlhf.data.formats.source import FORMATS, load
from rlhf.data.names import KINDS
from rlhf.data.rows import TEXT
from rlhf.errors import ConfigError

NAMES = [entry.name for entry in entries()]
PARAMETERS = {"<src>": "zh", "<tgt>": "en"}
SERVES = {
    "conversation": "conversations",
    "preference": "preferences",
    "feedback": "feedbacks",
    "prompt": "prompts",
}


def filled(name):
    for parameter, value in PARAMETERS.items():
        name = name.replace(parameter, value)
    return name


@pytest.mark.parametrize("name", NAMES)
def test_dataset(name, write_lines):
    """A row in the set's schema becomes the right rows, and serves the views that are named."""
    entry = find(filled(name))
    record, prompt, reply, worse = ROWS[name]
    options = {**entry.values.get("options", {}), "invalid": "error"}
    if field := options.get("field"):
        record = {"version": "1", field: [record]}
    rows = load(entry.values["format"], write_lines(record), options)
    assert {view for view, kind in SERVES.items() if getattr(rows, kind)} == set(entry.views)
    if entry.values["format"] == "translation":
        said = rows.conversations[0].messages
        pair = set(record.get("translation", record).values())
        assert said[-1].content in pair
        assert any(text in said[0].content and text != said[-1].content for text in pair
                   if isinstance(text, str))  # fmt: skip
        return
    messages = rows.conversations[0].messages
    assert messages[-1].content == reply
    if messages[0].role == TEXT:
        return
    assert prompt in messages[-2].content
    if entry.values["format"] not in ("summary", "comparison"):
        assert messages[-2].content == prompt
    if worse is not None:
        (preference,) = rows.preferences
        assert preference.replies[:2] == (reply, worse)
        assert preference.history == messages[:-1]
    assert rows.prompts[-1].history[-1].role == "user"


def test_every_dataset_has_a_row():
    assert sorted(ROWS) == sorted(NAMES)


@pytest.mark.parametrize("entry", entries(), ids=NAMES)
def test_entry_is_complete(entry):
    assert entry.values["format"] in FORMATS
    assert entry.about
    assert entry.licence
    assert entry.size
    assert entry.lang
    source = entry.values.get("source", {})
    assert ("path" in entry.values) != bool(source)
    if "hub" in source:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", source["hub"])
        assert source["revision"] in ("main", "refs/convert/parquet") or re.fullmatch(
            r"[0-9a-f]{40}", source["revision"]
        )
        assert entry.values["files"]


def test_names_are_unique():
    names = [one.casefold() for entry in entries() for one in (entry.name, *entry.aliases)]
    assert len(set(names)) == len(names)


# What the inventory of Open-Assistant, trlX, DeepSpeed-Chat and simple-rlhf names.
NAMED = """
squad_v2 ua_squad trivia_qa_nocontext trivia_qa_context adversarial_qa gsm8k gsm8k_hard wikihow
essay_instruction math_qa reddit_eli5 reddit_askh reddit_asks xsum cnn_dailymail samsum multi_news
scitldr billsum debate_sum tldr_news hf_summary hf_summary_pairs humaneval_mbpp_codegen_qa
humaneval_mbpp_testgen_qa grade_school_math_instructions recipes ubuntu_dialogue_qa cmu_wiki_qa
youtube_subs_howto100m iapp_wiki_qa_squad zhihu-kol minimath oa_wiki_qa_bart_10000row oa_leet10k
poem_instructions oa_stackexchange tell_a_joke wizardlm_70k megacode evol_instruct_code
evol-codealpaca-v1 cot_submix_original wmt2019_zh-en ted_trans_nl-en dive_mt webgpt alpaca
code_alpaca gpt4all prosocial_dialogue explain_prosocial soda soda_dialogue joke oa_translated
vicuna wizard_evol_instruct_v2 oasst_export augment_oasst oig_file anthropic_rlhf shp hellaswag
dolly15k dolly15k_multilingual alpaca_gpt4 red_pajama fanfics gpteacher_roleplay orca-chat
dolphin-mix private_tuning Dahoas/rm-static Dahoas/full-hh-rlhf
Dahoas/synthetic-instruct-gptj-pairwise yitingxie/rlhf-reward-datasets openai/webgpt_comparisons
stanfordnlp/SHP pvduy/sharegpt_alpaca_oa_vicuna_format wangrui6/Zhihu-KOL
Cohere/miracl-zh-queries-22-12 Cohere/miracl-ja-queries-22-12 Hello-SimpleAI/HC3-Chinese
mkqa-Chinese mkqa-Japanese lmqg/qg_jaquad lmqg/qag_jaquad local/jsonfile
zwh9029/rm-static-m2m100-zh-jianti OpenAssistant/oasst1 Anthropic/hh-rlhf
"""
SERVED = {
    "preference": "oasst_export augment_oasst anthropic_rlhf hf_summary hf_summary_pairs shp"
    " hellaswag webgpt",
    "prompt": "oasst_export webgpt private_tuning alpaca hf_summary hf_summary_pairs vicuna",
}


@pytest.mark.parametrize("name", NAMED.split())
def test_name_of_the_inventory_is_found(name):
    assert find(name).values["format"]


@pytest.mark.parametrize("view", SERVED)
def test_views_that_open_assistant_serves(view):
    assert all(view in find(name).views for name in SERVED[view].split())


def test_parameters_go_everywhere():
    entry = find("WMT2019_de-en")
    assert entry.name == "wmt2019_de-en"
    assert entry.values["files"] == ["de-en/train-*.parquet"]
    assert entry.values["options"]["pair"] == "de-en"
    assert entry.lang == ("de", "en")
    assert find("ted_trans_nl-en").values["files"] == ["nl_en_2016/train/*.parquet"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("webgtp", "'webgpt'"),
        ("oasst_exprt", "'oasst_export'"),
        ("rm_static", "'rm-static'"),
        ("dahoas/rm-statc", "'Dahoas/rm-static'"),
        ("zhihu_kol", "'zhihu-kol'"),
        ("wmt2019_zhen", "'wmt2019_<src>-<tgt>'"),
        ("ted_trans", "'ted_trans_<src>-<tgt>'"),
        ("anthropic-rlhf", "'anthropic_rlhf'"),
        ("hellaswagg", "'hellaswag'"),
        ("zzz", "`rlhf data list`"),
    ],
)
def test_misspelt_names_get_suggestions(name, meant):
    with pytest.raises(ConfigError) as error:
        find(name)
    assert meant in str(error.value)
    assert repr(name) in str(error.value)


class TestResolution:
    def test_by_its_own_name(self):
        resolved, problems = resolve_datasets({"webgpt": {"validation_fraction": 0.2}})
        assert not problems
        assert resolved["webgpt"]["format"] == "comparison"
        assert resolved["webgpt"]["validation_fraction"] == 0.2
        assert resolved["webgpt"]["registry"] == "webgpt"

    def test_under_another_name_with_other_options(self):
        given = {"registry": "wmt2019_zh-en", "options": {"direction": "forward"}}
        entry = resolve_datasets({"mine": given})[0]["mine"]
        assert entry["options"] == {"pair": "zh-en", "direction": "forward", "invalid": "drop"}
        assert entry["files"] == ["zh-en/train-*.parquet"]

    def test_a_copy_on_disk_takes_format_and_options_only(self):
        given = {"registry": "webgpt", "path": "copy.jsonl"}
        entry = resolve_datasets({"mine": given})[0]["mine"]
        assert entry["path"] == "copy.jsonl"
        assert "source" not in entry
        assert "files" not in entry
        assert entry["options"]["scores"] == ["score_0", "score_1"]

    def test_a_local_dataset_that_is_called_like_one_of_the_registry(self):
        given = {"path": "x.jsonl", "format": "messages"}
        assert resolve_datasets({"webgpt": given}) == ({"webgpt": given}, [])

    def test_problems_name_the_key(self):
        _, problems = resolve_datasets({"webgtp": {}, "mine": {"registry": "soad"}})
        assert len(problems) == 2
        assert problems[0].startswith("datasets.webgtp: ")
        assert "did you mean 'webgpt'" in problems[0]
        assert problems[1].startswith("datasets.mine.registry: ")
        assert "'soda'" in problems[1]


def test_kinds_of_files_that_entries_name_are_known():
    for entry in entries():
        for pattern in entry.values.get("files", ()):
            suffixes = [one for one in pattern.split(".") if one not in ("gz", "zst")]
            assert pattern.endswith("*") or f".{suffixes[-1]}" in KINDS, (entry.name, pattern)
