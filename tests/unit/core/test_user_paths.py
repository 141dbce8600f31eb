import argparse
from pathlib import Path

import pytest

from rlhf.core.user_paths import expand, path_argument


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/$me")
    monkeypatch.setenv("DATA", "/data/~x")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("ABSENT", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/b.jsonl", "a/b.jsonl"),
        ("~", "/home/$me"),
        ("~/a$$b", "/home/$me/a$b"),
        ("~root/a", f"{Path('~root').expanduser()}/a"),
        ("$DATA/*.jsonl", "/data/~x/*.jsonl"),
        ("a/${DATA}b", "a//data/~xb"),
        ("./~", "./~"),
        ("a/~", "a/~"),
        ("5$/a$.b", "5$/a$.b"),
        ("$$DATA", "$DATA"),
    ],
)
def test_expand(text, expected):
    assert expand(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$ABSENT/x", "the variable ABSENT is not set"),
        ("${EMPTY}/x", "the variable EMPTY is empty"),
        ("~no-such-user/x", "nobody's home"),
        ("${a", "names no variable"),
        ("${a-b}", "names no variable"),
        ("", "empty"),
        ("a\0b", "NUL"),
    ],
)
def test_what_stands_for_nothing(text, expected):
    with pytest.raises(ValueError, match=expected):
        expand(text)


def test_an_argument_is_what_is_there_or_what_it_stands_for(tmp_path):
    (tmp_path / "$ABSENT").touch()
    assert path_argument("$ABSENT") == Path("$ABSENT")
    assert path_argument("$DATA/x") == Path("/data/~x/x")
    with pytest.raises(argparse.ArgumentTypeError, match="EMPTY"):
        path_argument("$EMPTY/x")
