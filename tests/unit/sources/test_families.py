"""Model families: their special tokens, and golden ids of every template with every tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.golden_ids import DIALOGUE, written
from support.tiny_tokenizers import FAMILIES

from rlhf.data.encoding import Encoder, adds_bos
from rlhf.data.labels import IGNORED
from rlhf.data.pieces import Pieces
from rlhf.data.templates.chat import TEMPLATES
from rlhf.errors import ConfigError
from rlhf.sources.families import FAMILIES as KNOWN
from rlhf.sources.families import family_of
from rlhf.sources.tokenizers import prepare_tokenizer, split_digits

GOLDEN = Path(__file__).with_name("golden") / "ids.txt"
END, IM_END = "<|endoftext|>", "<|im_end|>"
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4}
SIZES |= {"intermediate_size": 16, "ffn_dim": 16, "word_embed_proj_dim": 16, "rotary_dim": 4}
GPT_SIZES = {"n_embd": 16, "n_layer": 1, "n_head": 4, "rotary_dim": 4, "n_positions": 512}


def model_for(architecture, tokenizer):
    """A tiny random model of an architecture."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = GPT_SIZES if architecture in ("gpt2", "gptj", "codegen") else SIZES
    config = AutoConfig.for_model(architecture, vocab_size=len(tokenizer), **sizes)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config)


def prepared(family, template, **options):
    """A family's model and tokenizer, after the stage that fetches it has settled its tokens."""
    architecture, build = FAMILIES[family]
    tokenizer = build()
    model = model_for(architecture, tokenizer)
    options = {"pad_token": None, "eos_token": None} | options
    prepare_tokenizer(tokenizer, model, template, where="models.base", **options)
    return tokenizer, model


def line(family, template):
    """One line of the golden file."""
    return f"{family} {template}: {written(prepared(family, template)[0])}"


@pytest.mark.parametrize(
    ("family", "eos", "pad"),
    [
        ("bloom", "</s>", "<pad>"),
        ("cerebras", END, END),
        ("codegen", END, END),
        ("falcon", END, END),
        ("galactica", "</s>", "<pad>"),
        ("gpt-j", END, END),
        ("llama", "</s>", "<unk>"),
        ("llama-first", "</s>", "<unk>"),
        ("llama3", "<|end_of_text|>", "<|finetune_right_pad_id|>"),
        ("opt", "</s>", "<pad>"),
        ("pythia", END, "<|padding|>"),
        ("qwen", IM_END, END),
        ("smollm", END, IM_END),
    ],
)
def test_tokens_of_each_family(family, eos, pad):
    tokenizer, model = prepared(family, "oasst")
    assert (tokenizer.eos_token, tokenizer.pad_token) == (eos, pad)
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)
    known = family_of(FAMILIES[family][0], tokenizer.get_vocab())
    assert known.name == family.removesuffix("-first")
    assert known.pads_with_eos == (pad == eos)


def test_every_family_is_tested():
    assert {family.name for family in KNOWN} == {name.removesuffix("-first") for name in FAMILIES}
    assert family_of("gpt_neox", {"a": 0}) is None
    assert family_of("bert", {END: 0}) is None


@pytest.mark.parametrize("family", ["cerebras", "codegen", "falcon", "gpt-j"])
def test_with_another_eos_the_old_one_pads(family):
    tokenizer, _ = prepared(family, "chatml")
    assert (tokenizer.eos_token, tokenizer.pad_token) == (IM_END, END)


def test_deepspeed_chat_on_opt_as_deepspeed_chat_does_it():
    tokenizer, model = prepared("opt", "deepspeed_chat", eos_token=END, new_tokens=[END])
    ids, labels = Encoder(tokenizer).conversation(DIALOGUE[1:3])
    question, answer = (one.content for one in DIALOGUE[1:3])
    assert tokenizer.decode(ids) == f"</s> Human: {question} Assistant: {answer}{END}"
    assert labels[-1] == tokenizer.eos_token_id == len(tokenizer) - 1
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)
    assert (tokenizer.bos_token, tokenizer.pad_token) == ("</s>", "<pad>")


def test_padding_with_eos_is_for_families_that_have_nothing_else():
    tokenizer, _ = prepared("gpt-j", "hh", pad_token=END)
    assert tokenizer.pad_token == END
    tokenizer, _ = prepared("gpt-j", "hh", pad_token="<pad>")
    assert tokenizer.pad_token == "<pad>"
    with pytest.raises(ConfigError, match="same as EOS"):
        prepared("llama", "hh", pad_token="</s>")


@pytest.mark.parametrize("family", ["cerebras", "codegen", "falcon", "gpt-j"])
def test_where_eos_pads_ends_are_learned_all_the_same(family):
    import torch
    from support.tolerances import assert_near

    from rlhf.models.backbone import Backbone

    tokenizer, model = prepared(family, "hh")
    encoder = Encoder(tokenizer)
    rows = [encoder.conversation(DIALOGUE), encoder.conversation(DIALOGUE[:3])]
    for ids, labels in rows:
        ends = [i for i, token in enumerate(ids) if token == tokenizer.eos_token_id]
        assert ends
        assert all(labels[i] == tokenizer.pad_token_id for i in ends)
    model = model.eval()
    sequences = [torch.tensor(ids) for ids, _ in rows]
    backbone = Backbone(model)
    together = backbone.hidden_states(sequences)
    for sequence, states in zip(sequences, together, strict=True):
        alone = backbone.hidden_states([sequence])[0]
        assert_near(states[: len(sequence)], alone)
    # The row of EOS gets gradients from where it is read: `padding_idx` would take them away.
    model.zero_grad()
    backbone.hidden_states(sequences[:1]).sum().backward()
    assert model.get_input_embeddings().padding_idx is None
    assert model.get_input_embeddings().weight.grad[tokenizer.eos_token_id].abs().sum() > 0


def test_ids_are_the_golden_ones():
    """``PYTHONPATH=tests python <this file>`` writes the golden file; look at what changes."""
    lines = [line(family, template) for family in FAMILIES for template in TEMPLATES]
    assert lines == GOLDEN.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_are_as_the_tokenizers_own_call_has_them(family):
    """Whatever a call before has set: neither cut nor padded, and special tokens are plain text."""
    tokenizer = FAMILIES[family][1]()
    special = "".join(map(str, tokenizer.all_special_tokens))
    texts = ["", "a tree", f" {special} x{special}", "🌳 a\n\n tree  ", "Trees, 1234567 trees."]
    alone = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    backend = tokenizer.backend_tokenizer
    backend.enable_truncation(3)
    backend.enable_padding(length=20)
    backend.encode_special_tokens = False
    assert [ids.tolist() for ids in Pieces(tokenizer).texts(texts, joined=False)] == alone


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("family", FAMILIES)
def test_pieces_join_to_the_whole(family, template):
    tokenizer, _ = prepared(family, template)
    ids, labels = Encoder(tokenizer).conversation(DIALOGUE)
    whole = tokenizer.apply_chat_template(
        [{"role": one.role, "content": one.content} for one in DIALOGUE],
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    assert ids.tolist() == whole["input_ids"]
    if adds_bos(tokenizer):
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.bos_token_id not in (ids[1], labels[0])
        if tokenizer.bos_token_id != tokenizer.eos_token_id:
            assert ids.count(tokenizer.bos_token_id) == 1
    assert labels.count(tokenizer.eos_token_id) == 2
    assert [one for one in labels if one != IGNORED][-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("family", FAMILIES)
def test_a_token_for_each_digit(family, tmp_path):
    from transformers import AutoTokenizer

    architecture, build = FAMILIES[family]
    plain = build()
    tokenizer = split_digits(plain)
    model = model_for(architecture, tokenizer)
    prepare_tokenizer(tokenizer, model, "oasst", None, None, "models.base")
    tokenizer.save_pretrained(tmp_path)
    model.config.save_pretrained(tmp_path)
    for one in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        ids = one("In 2024, 1999 and 100.", add_special_tokens=False)["input_ids"]
        digits = [sum(map(str.isdigit, one.decode([token]))) for token in ids]
        assert sum(digits) == 11
        assert max(digits) == 1
        assert one("no numbers")["input_ids"] == plain("no numbers")["input_ids"]
    assert tokenizer.decode(tokenizer.encode("In 2024")).endswith("In 2024")


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    rows = [line(family, template) for family in FAMILIES for template in TEMPLATES]
    GOLDEN.write_text("".join(row + "\n" for row in rows), encoding="utf-8")
