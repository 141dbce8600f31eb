import json

import pytest

from rlhf.cli import main
from rlhf.provenance.manifest import read_manifest


@pytest.fixture
def states(results, tmp_path):
    """One finished state, one of another configuration, one of a run that was cut off."""
    manifest = results.make("sft/chat", "train_sft", {"seed": 0})
    known = read_manifest(manifest)
    identity = {part: known[part] for part in ("config", "code", "image", "parents")}
    identity |= {"threads": 2}
    folders = {
        "finished": ("train_sft/chat/f1", identity),
        "superseded": ("train_sft/chat/f2", identity | {"config": {"seed": 1}}),
        "unfinished": ("train_ppo/final/f3", identity),
    }
    found = {}
    for verdict, (place, content) in folders.items():
        folder = tmp_path / "state" / place
        (folder / "step-00000001").mkdir(parents=True)
        (folder / "step-00000001/tensors").write_bytes(b"0" * 2_000_000)
        (folder / "identity.json").write_text(json.dumps(content))
        found[verdict] = folder
    return found


def test_lists_without_deleting(states, capsys):
    assert main(["prune"]) == 0
    out = capsys.readouterr().out
    assert "2.0 MB  state/train_sft/chat/f1  (finished)" in out
    assert "state/train_sft/chat/f2  (kept: superseded)" in out
    assert "state/train_ppo/final/f3  (kept: unfinished)" in out
    assert "2.0 MB can go" in out
    assert all(folder.exists() for folder in states.values())


def test_deletes_only_finished_states(states, capsys):
    assert main(["prune", "--yes"]) == 0
    assert [verdict for verdict, folder in states.items() if folder.exists()] == [
        "superseded",
        "unfinished",
    ]


def test_superseded_states_on_demand(states, capsys):
    assert main(["prune", "--superseded", "--yes"]) == 0
    assert [verdict for verdict, folder in states.items() if folder.exists()] == ["unfinished"]


def test_other_thread_count_is_another_run(states, capsys):
    path = states["finished"] / "identity.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"threads": 4}))
    assert main(["prune"]) == 0
    assert "nothing to prune" in capsys.readouterr().out


def test_no_state_folder(results, capsys):
    assert main(["prune"]) == 0
    assert capsys.readouterr().out == "nothing to prune\n"
