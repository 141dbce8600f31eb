from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.synthetic_results import Results, full_run

from rlhf.core.digest import digest_file
from rlhf.errors import IntegrityError
from rlhf.provenance.lineage import results_root, trace


def test_chain_of_ancestors(results: Results) -> None:
    model = results.add("models", "tiny", seconds=3)
    sft = results.add("sft", "chat", {"model": model}, seconds=5)
    results.add("sft", "unrelated", {"model": model})
    ppo = results.add("ppo", "final", {"model": sft, "start": model})

    found = trace(ppo)
    assert [node.name for node in found.nodes] == ["tiny", "chat", "final"]  # parents first
    by_name = {node.name: node for node in found.nodes}
    assert by_name["chat"].digest == digest_file(sft)
    assert by_name["chat"].path == sft
    assert by_name["chat"].seconds == 5
    assert by_name["chat"].tree == json.loads(sft.read_text())["tree"]
    assert {(e.parent, e.child, e.role) for e in found.edges} == {
        (digest_file(model), digest_file(sft), "model"),
        (digest_file(sft), digest_file(ppo), "model"),
        (digest_file(model), digest_file(ppo), "start"),
    }
    assert found.missing == ()


def test_rebuilt_parent_is_missing(results: Results) -> None:
    model = results.add("models", "tiny")
    before = digest_file(model)
    sft = results.add("sft", "chat", {"model": model})
    model.write_text(model.read_text().replace("c0de", "beef"))
    found = trace(sft)
    assert [node.name for node in found.nodes] == ["chat"]
    assert [(e.parent, e.role) for e in found.missing] == [(before, "model")]


def test_shared_ancestors_appear_once(results: Results) -> None:
    inputs = full_run(results, steps=5)
    found = trace([path for paths in inputs.values() for path in paths])
    assert len(found.nodes) == len({node.digest for node in found.nodes}) == 11
    assert len(found.edges) == len(set(found.edges))
    place = {node.digest: i for i, node in enumerate(found.nodes)}
    assert all(place[edge.parent] < place[edge.child] for edge in found.edges)


def test_json_form_and_lost_run_file(results: Results) -> None:
    model = results.add("models", "tiny")
    (model.parent / "run.json").unlink()
    content = json.loads(json.dumps(trace(model).as_dict()))
    assert content["nodes"][0]["seconds"] is None
    assert content["edges"] == content["missing"] == []


def test_absent_manifest(tmp_path: Path) -> None:
    (tmp_path / "sft" / "chat").mkdir(parents=True)
    with pytest.raises(IntegrityError, match="no manifest"):
        trace(tmp_path / "sft" / "chat" / "manifest.json")


def test_results_root() -> None:
    assert results_root("/a/results/tokenized/conversation/m/d/manifest.json") == Path("/a/results")
    assert results_root("/a/out/sft/chat/manifest.json") == Path("/a/out")
