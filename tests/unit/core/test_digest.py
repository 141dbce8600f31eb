from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.core.digest import (
    canonical_json,
    describe_tree,
    digest_file,
    digest_source,
    digest_text,
    digest_value,
)


def test_equal_values_have_equal_digests():
    assert canonical_json({"b": 0.1, "a": [1, None, "ä"]}) == '{"a":[1,null,"ä"],"b":0.1}'
    assert digest_value({"a": 1, "b": 2}) == digest_value({"b": 2, "a": 1})
    assert digest_value([1, 2]) != digest_value([2, 1])
    assert digest_value(1) != digest_value("1")
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))


def test_files_and_trees(tmp_path):
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "empty").touch()
    (tmp_path / "a").write_text("abc")
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest_file(tmp_path / "a") == digest_text("abc") == abc
    assert describe_tree(tmp_path) == {
        "a": {"size": 3, "sha256": abc},
        "deep/empty": {"size": 0, "sha256": empty},
    }
    assert digest_source(tmp_path / "a") == abc
    assert digest_source(tmp_path) == digest_value(describe_tree(Path(tmp_path)))
