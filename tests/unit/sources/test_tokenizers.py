from __future__ import annotations

import copy

import pytest

from rlhf.errors import ConfigError
from rlhf.sources.tokenizers import prepare_tokenizer

OWN = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
SILENT = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"


@pytest.fixture(scope="session")
def base():
    """An untied model and a byte-level tokenizer without any special tokens, and with bare ones."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["</s>", "<|endoftext|>", *alphabet]
    backend = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    config = LlamaConfig(
        vocab_size=len(names),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    return PreTrainedTokenizerFast(tokenizer_object=backend), LlamaForCausalLM(config)


@pytest.fixture
def pair(base):
    return copy.deepcopy(base)


def prepare(pair, template=None, pad=None, eos=None, **options):
    tokenizer, model = pair
    return prepare_tokenizer(tokenizer, model, template, pad, eos, "models.base", **options)


def test_new_rows_are_the_mean_of_the_old_and_all_ids_agree(pair):
    import torch

    tokenizer, model = pair
    old = [w.weight.detach().clone() for w in (model.get_input_embeddings(), model.lm_head)]
    model.generation_config.temperature = 0.3
    added = prepare(pair, "chatml", pad="<|endoftext|>")
    assert added == ["<|im_start|>", "<|im_end|>"]
    for before, module in zip(old, (model.get_input_embeddings(), model.lm_head), strict=True):
        assert module.weight.shape[0] == len(tokenizer) == len(before) + 2
        assert torch.equal(module.weight[: len(before)], before)
        assert torch.allclose(module.weight[len(before) :], before.mean(0).expand(2, -1))
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    for config in (model.config, model.generation_config):
        assert config.eos_token_id == tokenizer.eos_token_id
        assert config.pad_token_id == tokenizer.pad_token_id == 1
        assert config.bos_token_id is None
    assert model.generation_config.temperature in (None, 1.0)
    assert model.config.vocab_size == len(tokenizer)
    ids = tokenizer("<|im_start|>user")["input_ids"]
    assert ids[0] == len(old[0])
    assert tokenizer.decode(ids, skip_special_tokens=True) == "user"


def test_tied_embeddings_stay_tied(pair):
    tokenizer, model = pair
    model.config.tie_word_embeddings = True
    model.lm_head.weight = model.model.embed_tokens.weight
    prepare(pair, "chatml", pad="<|endoftext|>")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.lm_head.weight.shape[0] == len(tokenizer)


def test_spare_rows_are_used_before_the_matrix_grows(pair):
    import torch

    tokenizer, model = pair
    model.resize_token_embeddings(320, mean_resizing=False)
    known = len(tokenizer)
    mean = model.lm_head.weight[:known].mean(0)
    prepare(pair, "chatml", pad="<|endoftext|>")
    assert model.lm_head.weight.shape[0] == 320
    assert torch.allclose(model.lm_head.weight[known], mean)


@pytest.mark.parametrize(("multiple", "rows"), [(1, 260), (16, 272), (64, 320), (260, 260)])
def test_rows_up_to_a_multiple(pair, multiple, rows):
    import torch

    tokenizer, model = pair
    known = len(tokenizer)
    mean = model.lm_head.weight[:known].mean(0)
    prepare(pair, "chatml", pad="<|endoftext|>", multiple=multiple)
    assert len(tokenizer) == 260
    assert model.config.vocab_size == rows
    for module in (model.get_input_embeddings(), model.lm_head):
        assert module.weight.shape[0] == rows
    assert torch.allclose(model.lm_head.weight[known:], mean.expand(rows - known, -1))
    prepare(pair, "own", multiple=multiple)
    assert model.lm_head.weight.shape[0] == rows


def test_new_tokens_are_special_and_may_end_turns(pair):
    tokenizer, _ = pair
    added = prepare(
        pair, "deepspeed_chat", eos="<|end|>", pad="<|endoftext|>", new_tokens=["<|end|>", "<|x|>"]
    )
    assert added == ["<|end|>", "<|x|>"]
    assert tokenizer.eos_token == "<|end|>"
    assert len(tokenizer("<|x|>")["input_ids"]) == 1
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    assert text == " Human: q Assistant: a<|end|>"


def test_preparing_twice_changes_nothing(pair):
    prepare(pair, "chatml", pad="<|endoftext|>")
    tokenizer, model = pair
    before = model.lm_head.weight
    assert prepare(pair, "own") == []
    assert model.lm_head.weight is before
    assert tokenizer.eos_token == "<|im_end|>"


def test_the_template_for_plain_dialogues_is_taken_of_several(pair):
    tokenizer, _ = pair
    tokenizer.chat_template = {"default": OWN, "tool_use": SILENT}
    prepare(pair, "own", pad="<|endoftext|>", eos="</s>")
    assert tokenizer.chat_template == OWN
    tokenizer.chat_template = {"tool_use": OWN}
    with pytest.raises(ConfigError, match=r"for plain dialogues, only: tool_use\.") as error:
        prepare(pair, "own", pad="<|endoftext|>", eos="</s>")
    assert "models.base.template" in str(error.value)


def test_a_date_is_for_a_template_that_reads_a_clock(pair):
    pair[0].chat_template = OWN
    with pytest.raises(ConfigError, match="reads no clock") as error:
        prepare(pair, "own", pad="<|endoftext|>", eos="</s>", date="2024-07-26")
    assert "models.base.template_date" in str(error.value)


@pytest.mark.parametrize("template", ["oasst", "hh"])
def test_other_templates(pair, template):
    tokenizer, model = pair
    prepare(pair, template, pad="<|endoftext|>", eos="</s>")
    assert tokenizer.eos_token == "</s>"
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)


def test_a_new_pad_token_is_added(pair):
    tokenizer, _ = pair
    assert prepare(pair, "chatml", pad="<pad>")[-1] == "<pad>"
    assert tokenizer.pad_token_id == len(tokenizer) - 1


def test_no_pad_token(pair):
    with pytest.raises(ConfigError, match="padding token is missing") as caught:
        prepare(pair, "chatml")
    assert caught.value.where == "models.base.pad_token"
    assert "<|endoftext|>" in caught.value.expected


def test_pad_that_is_eos_gives_way_to_an_unused_token(pair):
    """Checklist 2"""
    tokenizer, _ = pair
    prepare(pair, "chatml", pad="<|endoftext|>")
    tokenizer.pad_token = "<|im_end|>"
    prepare(pair, "chatml")
    assert tokenizer.pad_token == "<|endoftext|>"


@pytest.mark.parametrize(
    ("pad", "message"), [("<|im_end|>", "same as EOS"), ("<|im_start|>", "token of the template")]
)
def test_pad_must_not_occur_in_a_conversation(pair, pad, message):
    with pytest.raises(ConfigError, match=message):
        prepare(pair, "chatml", pad=pad)


def test_no_eos_token(pair):
    pair[0].chat_template = SILENT
    with pytest.raises(ConfigError, match="no end-of-sequence") as caught:
        prepare(pair, pad="<|endoftext|>")
    assert caught.value.where == "models.base.eos_token"
    assert "</s>" in caught.value.expected


def test_own_template_writes_the_configured_eos(pair):
    tokenizer, model = pair
    tokenizer.chat_template = OWN
    prepare(pair, eos="</s>", pad="<|endoftext|>")
    assert (tokenizer.eos_token, model.config.eos_token_id) == ("</s>", 0)
    assert tokenizer.chat_template == OWN


def test_eos_that_is_not_in_the_vocabulary(pair):
    with pytest.raises(ConfigError, match="no token '<eos>'") as caught:
        prepare(pair, "chatml", eos="<eos>", pad="<|endoftext|>")
    assert "`new_tokens`" in caught.value.hint


def test_eos_that_the_template_never_writes(pair):
    with pytest.raises(ConfigError, match="ends a reply with '<|im_end|>'".replace("|", r"\|")):
        prepare(pair, "chatml", eos="</s>", pad="<|endoftext|>")


def test_no_template(pair):
    with pytest.raises(ConfigError, match="no chat template") as caught:
        prepare(pair)
    assert caught.value.where == "models.base.template"
    assert "chatml" in caught.value.hint
