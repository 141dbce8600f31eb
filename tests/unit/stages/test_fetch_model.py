from __future__ import annotations

import json
import os
import subprocess
import sys

from rlhf.core.digest import describe_tree
from rlhf.provenance.manifest import read_manifest, verify


def run(config, folder):
    return subprocess.run(
        [
            *(sys.executable, "-m", "rlhf.stages.fetch_model", "--name", "base"),
            *("--config", json.dumps(config), "--code", "c0de"),
            *("--output", "model", str(folder / "model")),
            *("--output", "manifest", str(folder / "manifest.json")),
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONHASHSEED": "7"},
    )


def test_stage_makes_the_same_bytes_in_another_process(random_source, tiny, tmp_path):
    config = {"source": random_source, "template": "chatml", "pad_token": None, "eos_token": None}
    done = run(config, tmp_path)
    assert done.returncode == 0, done.stderr
    assert describe_tree(tmp_path / "model") == describe_tree(tiny)
    assert verify(tmp_path) == []
    manifest = read_manifest(tmp_path)
    assert (manifest["stage"], manifest["name"]) == ("fetch_model", "base")
    facts = manifest["facts"]
    assert facts["architecture"] == "LlamaForCausalLM"
    assert facts["source"]["kind"] == "random"
    assert facts["vocab_size"] == 300
    assert manifest["counts"]["parameters"] == facts["parameters"] > 0
    assert len(facts["tokenizer_digest"]) == len(facts["template_digest"]) == 64
    assert str(tmp_path) not in (tmp_path / "manifest.json").read_text()


def test_stage_says_what_is_wrong_with_the_configuration(tmp_path):
    done = run({"source": {"hub": "acme/tiny", "revision": "main"}}, tmp_path)
    assert done.returncode == 2
    assert "source: " in done.stderr
    assert "revision must be a commit" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
