import pytest
import yaml

from rlhf.core.documents import read_document, read_json
from rlhf.errors import ConfigError


def values(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_document(path).values


def error(tmp_path, text):
    with pytest.raises(ConfigError) as caught:
        values(tmp_path, text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-4", 1e-4),
        ("5E+3", 5000.0),
        (".5", 0.5),
        ("1_000", 1000),
        ("0x1F", 31),
        ("-0", 0),
        ("yes", True),
        ("Off", False),
        ("~", None),
        ("", None),
        ("2024-07-26", "2024-07-26"),
        ("2024-07-26 10:00:00", "2024-07-26 10:00:00"),
        ("12:30:00", "12:30:00"),
        ("1-12:00:00", "1-12:00:00"),
        ("0.1.2", "0.1.2"),
        ("'no'", "no"),
        ('"010"', "010"),
        ("=", "="),
        ("!!str 1.10", "1.10"),
        ("!!float 3", 3.0),
        ("~/data", "~/data"),
    ],
)
def test_plain_values(tmp_path, text, expected):
    found = values(tmp_path, f"a: {text}\n")["a"]
    assert found == expected
    assert type(found) is type(expected)


def test_keys_are_the_text_that_stands_there(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text('no: 1\n1.10: 2\n2024-07-26: 3\n"yes": 4\n')
    document = read_document(path)
    assert document.values == {"no": 1, "1.10": 2, "2024-07-26": 3, "yes": 4}
    unquoted = [keys[0] for keys, place in document.places.items() if place.unquoted]
    assert unquoted == ["no", "1.10"]
    assert document.places["yes",].line == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: {c: 2}\na: 3\n", ["'a'", "lines 1 and 3", "mine.yaml"]),
        ("b:\n  c: 1\n  d: 2\n  c: 1\n", ["'b.c'", "lines 2 and 4"]),
        ("b: [{x: 1, x: 2}]\n", ["'b.0.x'", "lines 1 and 1"]),
        ("1: a\n'1': b\n", ["'1'", "lines 1 and 2"]),
        ('{"b": {\n\t"c": 1,\n\t"c": 2}}', ["'b.c'", "lines 2 and 3"]),
    ],
)
def test_a_key_that_stands_twice(tmp_path, text, words):
    message = error(tmp_path, text)
    assert "stands twice" in message
    assert [word for word in words if word not in message] == []


def test_what_is_merged_may_be_replaced(tmp_path):
    text = """\
one: &one {a: 1, b: 1}
two: &two {b: 2, c: 2}
first: {<<: *one, b: 9}
both: {<<: [*one, *two], d: 4}
chain: &chain {<<: *two, e: 5}
last: {<<: *chain, c: 0}
same: [*one, *one]
"""
    assert values(tmp_path, text) == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 010\n", ":1:4"),
        ("a: 018\n", "write 18, if that is meant"),
        ("a: .nan\n", "no finite number"),
        ("a: -.INF\n", "no finite number"),
        ("a: 1e999\n", "no finite number"),
        ("a:\n\tb: 1\n", "YAML takes no tabs"),
        ("a: &x [*x]\n", "An alias stands for itself"),
        ("a: &x {<<: *x}\n", "An alias stands for itself"),
        ("a: !!python/object:os.system x\n", "!!python/object:os.system"),
        ("a: !mine {b: 1}\n", "!mine"),
        ("a: !!int x\n", "!!int"),
        ("a: {<<: 1}\n", "`<<` merges sections"),
        ("? [a, b]\n: 1\n", "A key has to be text"),
        ("a: 1\n---\nb: 2\n", "another document"),
        ("a: *none\n", "undefined alias"),
        ('a: "\\ud83d"\n', "surrogate"),
        ("[" * 3000, "nested too deeply"),
        ('{"a":' * 3000, "nested too deeply"),
        (b"a: b\0c\n", "U+0000"),
        (b"a: 1\nb: \xe9\n", "mine.yaml:2"),
        ("a: 1\n".encode("utf-16"), "UTF-16"),
        (b"\x89PNG\r\n\x1a\n\0\0", "Not UTF-8"),
    ],
)
def test_what_is_refused(tmp_path, text, expected):
    assert expected in error(tmp_path, text)


def test_aliases_of_aliases_end(tmp_path):
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "what aliases stand for included" in error(tmp_path, "\n".join(lines))


def test_byte_order_marks_and_line_ends_of_windows(tmp_path):
    assert values(tmp_path, b"\xef\xbb\xbfa: 1\r\nb:\r\n  - c\r\n") == {"a": 1, "b": ["c"]}


def test_json_is_json(tmp_path):
    assert values(tmp_path, '{"a":\t"\\ud83d\\ude00 no"}') == {"a": "😀 no"}


def test_read_json_takes_no_yaml(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("a: 1\n")
    with pytest.raises(ValueError, match="Expecting value"):
        read_json(path)
    path.write_text('{"a": NaN}')
    with pytest.raises(ValueError, match="NaN"):
        read_json(path)


def test_no_files(tmp_path):
    (tmp_path / "file").write_text("a: 1")
    cases = {"absent": "no such list", ".": "a folder", "file/x": "Not a directory"}
    for name, expected in {**cases, "/proc/self/mem": "can't be read"}.items():
        with pytest.raises(ConfigError, match=expected):
            read_document(tmp_path / name, "list")
