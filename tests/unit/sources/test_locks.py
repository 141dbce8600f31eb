"""``rlhf lock``, and fetch stages that obey it."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from pathlib import Path

import pytest
import yaml
from support.hub_stand_in import serve

from rlhf.cli import main
from rlhf.core.files import read_json, write_json
from rlhf.data.rows_file import read_all
from rlhf.errors import ConfigError, IntegrityError
from rlhf.sources.base_models.materialize import materialize
from rlhf.sources.locks import VARIABLE, Lock, lock_path

FIRST = "data/train-0.jsonl.gz"
LOCK = Path("config/config.lock.json")


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def config(set_hub, tmp_path, monkeypatch):
    """A function that writes the configuration: datasets at a branch and at an address."""
    monkeypatch.chdir(tmp_path)
    set_hub.branches = {"main"}
    set_hub.large = {FIRST}

    def write(path="config/config.yaml", **datasets):
        hub = {"hub": set_hub.repo, "revision": "main"}
        default = {
            "mine": {"source": hub, "files": ["data/train-*.jsonl.gz"], "format": "qa"},
            "page": {"source": {"url": f"{set_hub.url}/files/README.md"}, "format": "text"},
            "local": {"path": "local.jsonl", "format": "qa"},
        }
        values = {"models": {}, "datasets": datasets or default}
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text(yaml.safe_dump(values))

    write()
    return write


def lock(*arguments, code=0):
    assert main(["lock", *arguments]) == code
    return read_json(LOCK) if LOCK.is_file() else None


def move(hub, content=b"{}"):
    """The branch gets a new commit, with another first file."""
    hub.revision = "b" * 40
    (hub.folder / FIRST).write_bytes(content)


def test_commits_and_digests_are_written_beside_the_configuration(config, set_hub, capsys):
    value = lock()
    folder = set_hub.folder
    assert value["datasets"]["mine"] == {
        "hub": "acme/set",
        "revision": "main",
        "commit": "a" * 40,
        "files": {
            name: {"sha256": sha256(folder / name), "size": (folder / name).stat().st_size}
            for name in (FIRST, "data/train-1.jsonl.gz")
        },
    }
    assert value["datasets"]["page"] == {
        "url": [f"{set_hub.url}/files/README.md"],
        "files": {"README.md": {"sha256": sha256(folder / "README.md"), "size": 5}},
    }
    assert value["datasets"].keys() == {"mine", "page"}
    assert "datasets.mine: new: acme/set at aaaa" in capsys.readouterr().out
    resolved = [path for _, path in set_hub.requests if "/resolve/" in path]
    assert not [path for path in resolved if path.endswith(FIRST)]  # the hub knows its digest


def test_locking_again_changes_nothing(config, capsys):
    lock()
    before = LOCK.read_bytes(), LOCK.stat().st_mtime_ns
    lock()
    assert (LOCK.read_bytes(), LOCK.stat().st_mtime_ns) == before
    assert "as it was" in capsys.readouterr().out


def test_check_says_what_moved_and_writes_nothing(config, set_hub, capsys):
    lock()
    lock("--check")
    assert "nothing has moved" in capsys.readouterr().out
    before = LOCK.read_bytes()
    move(set_hub)
    (set_hub.folder / "data/train-9.jsonl.gz").write_bytes(b"{}")
    (set_hub.folder / "README.md").write_text("# Other")
    lock("--check", code=1)
    text = capsys.readouterr().out
    assert f"datasets.mine: moved: acme/set at {'a' * 40} → acme/set at {'b' * 40}" in text
    assert f"changed: {FIRST}; added: data/train-9.jsonl.gz" in text
    assert "datasets.page: moved: changed: README.md" in text
    assert LOCK.read_bytes() == before


def test_check_of_what_was_never_locked(config, capsys):
    assert lock("--check", code=1) is None
    assert "datasets.mine: new" in capsys.readouterr().out


def test_only_what_is_named_is_locked_anew(config, set_hub):
    before = lock()
    move(set_hub)
    (set_hub.folder / "README.md").write_text("# Other")
    after = lock("page")
    assert after["datasets"]["mine"] == before["datasets"]["mine"]
    assert after["datasets"]["page"] != before["datasets"]["page"]


def test_what_cannot_be_resolved_keeps_its_entry(config, set_hub, capsys):
    before = lock()
    set_hub.branches = set()
    (set_hub.folder / "README.md").write_text("# Other")
    after = lock(code=2)
    assert after["datasets"]["mine"] == before["datasets"]["mine"]
    assert after["datasets"]["page"] != before["datasets"]["page"]
    text = capsys.readouterr().out
    assert "datasets.mine: not resolved" in text
    assert "no such commit, branch or tag: main" in text


def test_what_is_no_longer_downloaded_leaves_the_lock(config, capsys):
    lock()
    config(mine={"path": "mine.jsonl", "format": "qa"})
    lock("--check", code=1)
    assert "datasets.mine: locked, but nothing is downloaded for it" in capsys.readouterr().out
    assert lock()["datasets"] == {}


def test_nothing_is_locked_where_nothing_is_downloaded(config, capsys):
    config(mine={"path": "mine.jsonl", "format": "qa"})
    assert lock() is None
    assert lock("--check") is None
    assert "nothing to lock" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mien", ["no model or dataset 'mien'", "did you mean 'mine'?"]),
        ("local", ["local is not downloaded", "content"]),
    ],
)
def test_names_that_cannot_be_locked(config, capsys, name, words):
    lock(name, code=2)
    text = capsys.readouterr().err
    for word in words:
        assert word in text


def test_a_dataset_of_the_registry_is_locked_by_its_hub_id(config, set_hub):
    set_hub.repo, set_hub.branches = "openai/webgpt_comparisons", {"refs/convert/parquet"}
    (set_hub.folder / "default/train").mkdir(parents=True)
    (set_hub.folder / "default/train/0.parquet").write_bytes(b"rows")
    config(webgpt={})
    entry = lock()["datasets"]["webgpt"]
    assert (entry["hub"], entry["commit"]) == (set_hub.repo, "a" * 40)
    assert entry["files"].keys() == {"default/train/0.parquet"}


def test_locks_of_several_files_add_up_as_their_keys_do(config, set_hub):
    first = lock()
    addition = {"source": {"url": f"{set_hub.url}/files/{FIRST}"}, "format": "qa"}
    config("mine.yaml", more=addition)
    both = ["--configfile", "config/config.yaml", "--configfile", "mine.yaml"]
    lock(*both)
    assert read_json(LOCK) == first
    assert read_json("mine.lock.json")["datasets"].keys() == {"mine", "page", "more"}
    made = Lock(["config/config.yaml", "mine.yaml"])
    assert made.command("more") == f"rlhf lock {' '.join(both)} more"
    assert Lock(["config/config.yaml"]).command("mine") == "rlhf lock mine"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"version": 1}', "damaged"),
        ('{"version": 1, "models": {}, "datasets": {"a": {"files": {"b": 1}}}}', "damaged"),
        ('{"version": 1, "models": {"a": {"hub": "x", "files": {}}}, "datasets": {}}', "damaged"),
        ('{"version": 2}', "version 2"),
    ],
)
def test_a_damaged_lock_is_no_lock(tmp_path, content, problem):
    path = lock_path(tmp_path / "config.yaml")
    path.write_text(content)
    with pytest.raises(ConfigError, match=problem) as caught:
        Lock([tmp_path / "config.yaml"])
    assert caught.value.where.resolve() == path.resolve()
    assert "delete it and make it anew with `rlhf lock`" in caught.value.hint


# The stage.


@pytest.fixture
def fetch_locked(config, fetch_set, set_hub, monkeypatch):
    """Runs the stage with the lock's entry as it is now."""
    lock("mine")
    monkeypatch.setenv(VARIABLE, "config/config.yaml")

    def fetch(change=lambda entry: None, **changes):
        value = read_json(LOCK)
        change(value["datasets"]["mine"])
        write_json(LOCK, value)
        digest = Lock(["config/config.yaml"]).digest("datasets", "mine")
        source = {"hub": set_hub.repo, "revision": "main"}
        return fetch_set(**{"source": source, "lock": digest} | changes)

    return fetch


def test_the_locked_commit_is_fetched_though_the_branch_has_moved(fetch_locked, set_hub):
    set_hub.branches = set()
    set_hub.requests.clear()
    out = fetch_locked()
    assert len(read_all(out / "rows").conversations) == 100
    manifest = read_json(out / "manifest.json")
    assert manifest["facts"]["source"]["commit"] == "a" * 40
    assert not [path for _, path in set_hub.requests if "main" in path]


def set_digest(entry):
    entry["files"][FIRST]["sha256"] = "0" * 64


@pytest.mark.parametrize(
    ("change", "changes", "words"),
    [
        (
            set_digest,
            {},
            [f"another digest than in the lock: {FIRST}", f"sha256 {'0' * 64} (", "), found "],
        ),
        (
            lambda entry: entry["files"].pop(FIRST),
            {},
            [f"not in the lock: {FIRST}", "the 1 files of the lock; found 2"],
        ),
        (
            lambda entry: entry["files"].update(x={"sha256": "0" * 64, "size": 1}),
            {},
            ["not there: x", "the 3 files of the lock; found 2"],
        ),
        (
            lambda entry: None,
            {"files": ["data/train-1.jsonl.gz"]},
            [f"not there: {FIRST}"],
        ),
        (
            lambda entry: None,
            {"source": {"hub": "acme/set", "revision": "v2"}},
            ["differ in revision", "datasets.mine.source.revision", "main, as in the lock; found"],
        ),
        (
            lambda entry: None,
            {"source": {"hub": "acme/other", "revision": "main"}},
            ["differ in hub", "acme/set, as in the lock; found acme/other"],
        ),
        (
            lambda entry: None,
            {"source": {"url": "http://x/y.jsonl"}, "files": None},
            ["differ in hub", "acme/set, as in the lock; found none"],
        ),
    ],
)
def test_a_lock_that_does_not_match_refuses_and_says_what_to_type(
    fetch_locked, tmp_path, change, changes, words
):
    with pytest.raises(IntegrityError) as caught:
        fetch_locked(change, **changes)
    for word in (*words, "type `rlhf lock mine`"):
        assert word in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_lock_that_changed_after_the_planning_refuses(fetch_locked):
    with pytest.raises(IntegrityError, match="changed after this run was planned") as caught:
        fetch_locked(lock="0" * 64)
    assert str(LOCK) in caught.value.where
    assert "datasets.mine" in caught.value.where


def test_an_address_is_held_to_its_lock(config, set_hub, fetch_set, monkeypatch):
    url = f"{set_hub.url}/files/{FIRST}"
    config(mine={"source": {"url": url}, "format": "qa"})
    lock()
    monkeypatch.setenv(VARIABLE, "config/config.yaml")
    digest = Lock(["config/config.yaml"]).digest("datasets", "mine")
    options = {"source": {"url": url}, "files": None, "lock": digest}
    set_hub.requests.clear()
    assert len(read_all(fetch_set(**options) / "rows").conversations) == 50
    assert not set_hub.requests  # locking has downloaded it
    shutil.rmtree("assets")
    (set_hub.folder / FIRST).write_bytes(b"{}")
    with pytest.raises(IntegrityError, match="another digest") as caught:
        fetch_set(**options)
    assert "rlhf lock" in caught.value.hint


# Models.


@pytest.fixture
def model_hub(tiny, tmp_path, monkeypatch, own_cache, slept):
    shutil.copytree(tiny, tmp_path / "model-repository")
    (tmp_path / "model-repository/modeling_tiny.py").write_text("raise SystemExit('it ran')")
    with serve(tmp_path / "model-repository") as hub:
        hub.large = {"model.safetensors"}
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.chdir(tmp_path)
        yield hub


def test_a_model_is_held_to_its_lock(model_hub, tmp_path):
    source = {"hub": model_hub.repo, "revision": model_hub.revision}
    Path("config").mkdir()
    values = {"models": {"base": {"source": source}}, "datasets": {}}
    Path("config/config.yaml").write_text(json.dumps(values))
    entry = lock()["models"]["base"]
    assert entry["commit"] == model_hub.revision
    assert {"model.safetensors", "config.json"} <= entry["files"].keys()
    assert "modeling_tiny.py" not in entry["files"]  # code is fetched from a trusted model only

    made = Lock(["config/config.yaml"])
    locked = made.locked("models", "base", source, made.digest("models", "base"))
    materialize(source, tmp_path / "m", check=locked.check_files)
    with pytest.raises(IntegrityError, match=r"not in the lock: modeling_tiny\.py") as caught:
        materialize(source, tmp_path / "n", check=locked.check_files, trust_remote_code=True)
    assert "rlhf lock base" in caught.value.hint
    assert not (tmp_path / "n").exists()


def test_a_lock_of_many_files_is_read_quickly(tmp_path):
    files = {f"data/{i:05}.parquet": {"sha256": "0" * 64, "size": i} for i in range(10_000)}
    entry = {"hub": "a/b", "revision": "main", "commit": "a" * 40, "files": files}
    value = {"version": 1, "models": {}, "datasets": {"big": entry}}
    write_json(lock_path(tmp_path / "config.yaml"), value)
    started = time.perf_counter()
    made = Lock([tmp_path / "config.yaml"])
    assert len(made.digest("datasets", "big")) == 64
    assert time.perf_counter() - started < 30  # looking through all for each takes minutes
