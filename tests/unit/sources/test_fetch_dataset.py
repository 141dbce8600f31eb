"""Datasets from the hub and from plain addresses, through the stage, whatever the server does."""

from __future__ import annotations

import gzip
import hashlib

import pytest
from support.hub_stand_in import digest

from rlhf.core.files import read_json
from rlhf.data.rows_file import read_all
from rlhf.errors import DataError, IntegrityError
from rlhf.sources import hub

FIRST = "data/train-0.jsonl.gz"


def downloads(server):
    return {path for command, path in server.requests if command == "GET" and "/resolve/" in path}


def test_chosen_files_are_downloaded_and_read(fetch_set, set_hub):
    out = fetch_set()
    rows = read_all(out / "rows")
    ids = {f"data/train-{file}.jsonl.gz:{line}" for file in (0, 1) for line in range(1, 51)}
    assert {one.id for one in rows.conversations} == ids
    source = read_json(out / "manifest.json")["facts"]["source"]
    assert source["hub"] == "acme/set"
    assert source["commit"] == set_hub.revision
    assert sorted(source["files"]) == ["data/train-0.jsonl.gz", "data/train-1.jsonl.gz"]
    assert len(downloads(set_hub)) == 2


def test_cut_and_busy_server(fetch_set, set_hub):
    set_hub.busy, set_hub.cut = 3, {FIRST: 2}
    assert len(read_all(fetch_set() / "rows").conversations) == 100


@pytest.mark.parametrize("large", [False, True])
def test_wrong_bytes_publish_nothing_and_are_not_kept(fetch_set, set_hub, tmp_path, large):
    set_hub.wrong, set_hub.large = {FIRST: 1}, {FIRST} if large else set()
    expected = digest((set_hub.folder / FIRST).read_bytes(), large)
    with pytest.raises(IntegrityError, match=FIRST) as caught:
        fetch_set()
    assert f"{expected}, found " in caught.value.expected
    assert not (tmp_path / "out").exists()
    set_hub.requests.clear()
    assert len(read_all(fetch_set() / "rows").conversations) == 100
    assert downloads(set_hub) == {f"/datasets/acme/set/resolve/{set_hub.revision}/{FIRST}"}


def test_a_mirror_may_name_files_by_their_plain_sha1(fetch_set, set_hub):
    set_hub.plain = True
    assert len(read_all(fetch_set() / "rows").conversations) == 100


@pytest.mark.parametrize("revision", ["a" * 40, "main"])
def test_server_that_limits_the_rate_is_asked_again_when_it_says(
    fetch_set, set_hub, slept, revision
):
    set_hub.limited, set_hub.branches = 2, {"main"}
    fetch_set(source={"hub": set_hub.repo, "revision": revision})
    assert len(slept) == 2
    assert min(slept) >= 7


def test_token_opens_a_dataset(fetch_set, set_hub, monkeypatch):
    set_hub.token = "right"
    monkeypatch.setenv("HF_TOKEN", "right")
    assert (fetch_set() / "manifest.json").is_file()


@pytest.mark.parametrize(
    ("fault", "changes", "words"),
    [
        ({}, {"files": ["train/*.parquet"]}, ["matches 'train/*.parquet'", "datasets.mine"]),
        ({}, {"files": ["data/*", "x/*"]}, ["matches 'x/*'", "data/test-0.jsonl.gz"]),
        (
            {"token": "right"},
            {},
            ["refused access", "datasets.mine.source.hub: acme/set", "HF_TOKEN", "terms"],
        ),
        ({"gated": True}, {}, ["gated", "accept", "HF_TOKEN is not set", "acme/set"]),
        ({"busy": 10**6}, {}, ["HTTP 503", "5 attempts", "--repo-type dataset"]),
        ({"limited": 10**6}, {}, ["HTTP 429", "5 attempts"]),
        ({"repo": "acme/gone"}, {}, ["no such repository: dataset acme/set", "HF_ENDPOINT"]),
        ({"revision": "b" * 40}, {}, ["no such commit, branch or tag: " + "a" * 40]),
        ({"lost": {FIRST}}, {}, [f"missing: {FIRST}", "HTTP 404"]),
        (
            {},
            {"source": {"url": "URL/files/no.jsonl"}, "files": None},
            ["no such file: no.jsonl", "HTTP 404"],
        ),
    ],
)
def test_refusals(fetch_set, set_hub, tmp_path, fault, changes, words):
    source = {"hub": set_hub.repo, "revision": set_hub.revision}
    if url := changes.get("source", {}).get("url"):
        source = {"url": url.replace("URL", set_hub.url)}
    for key, value in fault.items():
        setattr(set_hub, key, value)
    with pytest.raises(DataError) as error:
        fetch_set(**changes | {"source": source})
    for word in words:
        assert word in str(error.value)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_without_a_network_the_message_sends_to_a_login_node(fetch_set, set_hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DataError, match="download failed") as caught:
        fetch_set()
    assert "login node" in caught.value.hint
    assert "HTTPS_PROXY" in caught.value.hint


def test_a_hub_that_cannot_be_reached_is_not_awaited_for_long(fetch_set, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hub, "PATIENCE", -1.0)
    with pytest.raises(DataError, match=r"\(1 attempts\)"):
        fetch_set(source={"hub": "acme/set", "revision": "main"})


def test_one_file_at_a_plain_address(fetch_set, set_hub):
    url = f"{set_hub.url}/files/{FIRST}"
    out = fetch_set(source={"url": url}, files=None)
    ids = [one.id for one in read_all(out / "rows").conversations]
    assert len(ids) == 50
    source = read_json(out / "manifest.json")["facts"]["source"]
    sha256 = hashlib.sha256((set_hub.folder / FIRST).read_bytes()).hexdigest()
    assert source == {"url": url, "files": {"train-0.jsonl.gz": sha256}}


def test_several_files_are_read_in_the_order_of_their_addresses(fetch_set, set_hub, tmp_path):
    (tmp_path / "a[1].jsonl").write_bytes(gzip.decompress((set_hub.folder / FIRST).read_bytes()))
    addresses = [
        f"{set_hub.url}/files/data/train-1.jsonl.gz",
        (tmp_path / "a[1].jsonl").as_uri(),
    ]
    out = fetch_set(source={"url": addresses}, files=None)
    ids = [one.id.split(":")[0] for one in read_all(out / "rows").conversations]
    assert list(dict.fromkeys(ids)) == ["train-1.jsonl.gz", "a[1].jsonl"]
    assert len(ids) == 100
