"""Files at plain addresses: resumed, repeated, verified; on a server that misbehaves."""

from __future__ import annotations

import hashlib
import random

import pytest
from support.hub_stand_in import serve

from rlhf.errors import DataError, IntegrityError
from rlhf.sources import addresses as urls
from rlhf.sources.addresses import download, read_addresses

CONTENT = random.Random(1).randbytes(200_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(tmp_path, own_cache, slept, monkeypatch):
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "rows.jsonl").write_bytes(CONTENT)
    monkeypatch.setattr(urls, "CHUNK", 4096)  # what is kept of a cut file
    with serve(folder) as hub:
        yield hub


def get(server, name="rows.jsonl", **options):
    return download(read_addresses(f"{server.url}/files/{name}"), "datasets.mine", **options)


def read(made):
    return (made.folder / "rows.jsonl").read_bytes()


def test_a_file_and_what_it_is(server):
    made = get(server)
    assert read(made) == CONTENT
    assert made.files == {"rows.jsonl": {"sha256": DIGEST, "size": len(CONTENT)}}


def test_cut_connection_is_resumed_to_the_same_bytes(server):
    server.cut = {"rows.jsonl": 3}
    assert read(get(server)) == CONTENT
    starts = [int(one.split(":")[1]) for one in server.ranges]
    assert len(starts) == 3
    assert starts == sorted(set(starts))
    assert starts[0] > 90_000


def test_a_later_call_goes_on_where_an_earlier_one_was_cut(server):
    server.cut = {"rows.jsonl": 10**6}
    with pytest.raises(DataError, match="5 attempts"):
        get(server)
    server.cut = {}
    server.ranges.clear()
    assert read(get(server)) == CONTENT
    ((_, start),) = [one.split(":") for one in server.ranges]
    assert int(start) > 150_000


@pytest.mark.parametrize("fault", [{"resumes": False}, {"tags": False}])
def test_what_cannot_be_resumed_is_begun_anew(server, fault):
    server.cut = {"rows.jsonl": 1}
    for key, value in fault.items():
        setattr(server, key, value)
    assert read(get(server)) == CONTENT
    assert server.ranges == []


def test_a_file_that_changed_after_the_cut_is_begun_anew(server):
    server.cut = {"rows.jsonl": 10**6}
    with pytest.raises(DataError):
        get(server)
    (server.folder / "rows.jsonl").write_bytes(CONTENT[::-1])
    server.cut = {}
    assert read(get(server)) == CONTENT[::-1]


def test_a_digest_makes_up_for_a_server_without_tags(server):
    server.cut, server.tags = {"rows.jsonl": 1}, False
    assert read(get(server, f"rows.jsonl#sha256={DIGEST}")) == CONTENT
    assert len(server.ranges) == 1


def test_wrong_bytes_name_file_expected_and_found_and_are_not_kept(server):
    server.wrong = {"rows.jsonl": 1}
    wrong = hashlib.sha256(bytes(255 - byte for byte in CONTENT)).hexdigest()
    with pytest.raises(IntegrityError, match=r"rows\.jsonl") as caught:
        get(server, locked={"rows.jsonl": DIGEST})
    assert f"sha256 {DIGEST}, found {wrong}" in caught.value.expected
    assert "datasets.mine.source.url" in caught.value.where
    assert read(get(server, locked={"rows.jsonl": DIGEST})) == CONTENT


def test_a_file_whose_digest_is_known_is_asked_for_once(server):
    get(server, locked={"rows.jsonl": DIGEST})
    server.requests.clear()
    get(server, locked={"rows.jsonl": DIGEST})
    assert not server.requests


def test_another_file_is_sent_again_only_if_it_changed(server):
    get(server)
    before = (get(server).folder / "rows.jsonl").stat().st_mtime_ns
    assert (get(server).folder / "rows.jsonl").stat().st_mtime_ns == before
    (server.folder / "rows.jsonl").write_bytes(b"new")
    assert read(get(server)) == b"new"


def test_a_change_that_is_cut_leaves_nothing_old(server):
    get(server)
    (server.folder / "rows.jsonl").write_bytes(CONTENT[::-1])
    server.cut = {"rows.jsonl": 10**6}
    with pytest.raises(DataError):
        get(server)
    server.cut = {}
    assert read(get(server)) == CONTENT[::-1]


@pytest.mark.parametrize(("fault", "least"), [("busy", 1), ("limited", 7)])
def test_busy_server_is_asked_again_when_it_says(server, slept, fault, least):
    setattr(server, fault, 3)
    assert read(get(server)) == CONTENT
    assert len(slept) == 3
    assert min(slept) >= least


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"busy": 10**6}, ["HTTP 503", "attempts", "login node"]),
        ({"limited": 10**6}, ["HTTP 429", "attempts"]),
        ({"lost": {"rows.jsonl"}}, ["no such file: rows.jsonl", "HTTP 404"]),
        ({"token": "right"}, ["refused access (HTTP 401)", "`path`", "HF_TOKEN"]),
        ({"gated": True}, ["refused access (HTTP 403)"]),
        ({"url": "http://127.0.0.1:9"}, ["failed: ConnectError", "login node", "`path`"]),
    ],
)
def test_refusals_name_the_address_and_say_what_to_do(server, monkeypatch, fault, words):
    monkeypatch.setenv("HF_TOKEN", "right")  # is for the hub, and not sent elsewhere
    for key, value in fault.items():
        setattr(server, key, value)
    with pytest.raises(DataError) as caught:
        get(server)
    for word in (*words, f"datasets.mine.source.url: {server.url}/files/rows.jsonl"):
        assert word in str(caught.value)


def test_offline_only_what_is_known_is_there(server, monkeypatch):
    import huggingface_hub.constants as constants

    get(server)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="HF_HUB_OFFLINE"):
        get(server)
    assert read(get(server, locked={"rows.jsonl": DIGEST})) == CONTENT


def test_a_file_on_this_machine(tmp_path, own_cache):
    path = tmp_path / "my rows.jsonl"
    path.write_bytes(CONTENT)
    made = download(read_addresses(path.as_uri()), "datasets.mine")
    assert made.files["my rows.jsonl"]["sha256"] == DIGEST
    path.unlink()
    with pytest.raises(DataError, match="no such file") as caught:
        download(read_addresses(path.as_uri()), "datasets.mine")
    assert "my rows.jsonl" in str(caught.value)


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("rows.jsonl", "is no address of a file: write http"),
        ("ftp://x/rows.jsonl", "is no address of a file"),
        ("http:///rows.jsonl", "is no address of a file"),
        ("https://x/", "does not end with a file's name"),
        ("https://x/rows/", "does not end with a file's name"),
        ("https://x/.part", "does not end with a file's name"),
        ("https://me:secret@x/rows.jsonl", "passwords do not belong"),
        ("https://x/rows.jsonl#sha256=12", "after # write sha256="),
        ([], "give at least one address"),
        (["https://x/rows.jsonl", "https://y/rows.jsonl?v=2"], "two files are called rows.jsonl"),
    ],
)
def test_addresses_that_are_none(address, problem):
    with pytest.raises(ValueError, match=problem) as caught:
        read_addresses(address)
    assert "secret" not in str(caught.value)
