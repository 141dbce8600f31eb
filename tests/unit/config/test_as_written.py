"""Nothing in a configuration is taken otherwise than it is written."""

import pytest
from support.valid_config import put

from rlhf.config.load import load_config, load_config_file
from rlhf.errors import ConfigError, DataError
from rlhf.pipeline.slices import config_slice

FILE = """\
models:
  tiny: {source: {path: models/tiny}}
datasets:
  demo: {path: demo.jsonl, format: oasst}
sft:
  chat:
    model: tiny
    data: {demo: {}}
"""


@pytest.fixture
def load(tmp_path):
    def from_text(text, *more):
        paths = []
        for number, one in enumerate((text, *more)):
            paths.append(tmp_path / f"{number}.yaml")
            paths[-1].write_text(one)
        return load_config_file(*paths)

    return from_text


def message(load, *texts):
    with pytest.raises(ConfigError) as caught:
        load(*texts)
    return str(caught.value)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("epochs: yes", "line 9: sft.chat.epochs: should be a whole number (got yes)"),
        ("epochs: 4.5", "sft.chat.epochs: should be a valid integer"),
        ("epochs: 12:30:00", "write a time as one number in the key's unit"),
        ("optimizer: {learning_rate: on}", "learning_rate: should be a number (got on)"),
        ("optimizer: {learning_rate: 'nan'}", "learning_rate: should be a finite number"),
        ("optimizer:", "sft.chat.optimizer: nothing is given; write {}"),
        ("duplicates: {remove: no}", "should be 'none', 'exact' or 'near' (got no)"),
        ("precision: 0", "should be 'bfloat16', 'float16' or 'float32' (got 0)"),
        ("duplicates: []", "duplicates: should be a section with keys (got [])"),
    ],
)
def test_wrong_kinds(load, line, expected):
    assert expected in message(load, f"{FILE}    {line}\n")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("chat:", "no:", 'line 6: sft.no: a name has to be text (write "no" in quotes)'),
        ("chat:", "1.10:", 'sft.1.10: a name has to be text (write "1.10" in quotes)'),
        ("chat:", "~:", 'sft.~: a name has to be text (write "~" in quotes)'),
        (
            "model: tiny",
            "model: on",
            'sft.chat.model: should be a valid string (got on; write "on"',
        ),
        ("model: tiny", "model: 1.10", '(got 1.10; write "1.10" in quotes)'),
        ("{demo: {}}", "{off: {}}", 'sft.chat.data.off: a name has to be text (write "off"'),
        (
            "format: oasst",
            "registry: no",
            "datasets.demo.registry: should be a valid string (got no",
        ),
        (
            "models/tiny",
            "$RLHF_ABSENT/tiny",
            "models.tiny.source.path: the variable RLHF_ABSENT is",
        ),
        ("demo.jsonl", "''", "datasets.demo.path: the path is empty"),
        ("demo.jsonl", '"a\\0"', "datasets.demo.path: a path can't hold the character NUL"),
    ],
)
def test_wrong_texts(load, old, new, expected):
    assert expected in message(load, FILE.replace(old, new, 1))


def test_numbers_for_booleans(load):
    for given in ("1", "0", "2.0", "maybe"):
        text = message(load, FILE + f"runtime: {{track_code: {given}}}\n")
        assert "line 9: runtime.track_code: should be true or false" in text
    assert load(FILE + "runtime: {track_code: no}\n").runtime.track_code is False


def test_what_is_meant_is_taken(load):
    config = load(FILE + "    epochs: 4.0\n    optimizer: {learning_rate: 1e-4}\n    seed: 1_000\n")
    run = config.sft["chat"]
    assert (run.epochs, run.seed, run.optimizer.learning_rate) == (4, 1000, 1e-4)
    assert load(FILE.replace("chat:", "2024-07-26:")).sft.keys() == {"2024-07-26"}
    assert load(FILE.replace("chat:", '"no":')).sft.keys() == {"no"}


def test_a_key_twice_in_one_file_and_in_two(load):
    twice = FILE.replace("sft:", "  demo: {path: other.jsonl, format: hh}\nsft:")
    text = message(load, twice)
    assert "The key 'datasets.demo' stands twice" in text
    assert "0.yaml, lines 4 and 5" in text
    assert load(FILE, "sft: {chat: {epochs: 3}}\n").sft["chat"].epochs == 3
    assert "1.yaml, lines 1 and 1" in message(load, FILE, "sft: {chat: {epochs: 3, epochs: 4}}\n")


def test_of_several_files_the_right_one_is_named(load):
    assert "1.yaml, line 2: sft.chat.epochs" in message(load, FILE, "sft:\n  chat: {epochs: yes}\n")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a" * 101, "at most 100 characters, this has 101"),
        ("a" * 20, "repeats 'a' 20 times or more"),
        ("run-" + "ab" * 20, "repeats 'ab' 20 times or more"),
        ("Chat", "differs from sft.chat in the case of letters alone"),
        ("chat.", "names are letters"),
        ("chat ", "names are letters"),
        ("größe", "names are letters"),
    ],
)
def test_names_that_would_fail_later(valid, name, expected):
    valid["sft"][name] = valid["sft"]["chat"]
    with pytest.raises(ConfigError) as caught:
        load_config(valid)
    assert f"sft.{name}: " in str(caught.value)
    assert expected in str(caught.value)


def test_names_that_just_fit(valid):
    for name in ("a" * 19, "x" + "abcdefghij" * 9, "a" * 20 + "b"):
        valid["sft"][name] = valid["sft"]["chat"]
    load_config(valid)


def test_paths_are_expanded_alike(valid, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DATA", "/data")
    put(valid, "models.one.source", {"path": "~/model"})
    put(valid, "models.two.source", {"random": {"tokenizer_text": "${DATA}/text.txt"}})
    put(valid, "datasets.demo.path", "$DATA/*.jsonl")
    config = load_config(valid)
    assert config.models["one"].source.path == "/home/me/model"
    assert config.models["two"].source.random.tokenizer_text == "/data/text.txt"
    assert config_slice(config, "fetch_data", "demo")["path"] == "/data/*.jsonl"


def test_a_source_that_can_not_be_read(valid):
    put(valid, "datasets.demo.path", "/proc/self/mem")
    with pytest.raises(DataError, match="can't be read"):
        config_slice(load_config(valid), "fetch_data", "demo")
