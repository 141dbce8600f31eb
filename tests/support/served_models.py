"""Tiny models with random weights, and their stores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from rlhf.core.files import write_json
from rlhf.provenance.manifest import Manifest
from rlhf.serving.store import Kind, export_store, model_identity

VOCABULARY, LONGEST = 512, 160
SLOW = 9  # the first token of a row that takes a second, in a model with the following code
SLOWLY = f"""

import time

_at_once = TritonPythonModel._answer

def _slowly(self, request, rows):
    time.sleep(sum(int(row[0]) == {SLOW} for row in rows))
    return _at_once(self, request, rows)

TritonPythonModel._answer = _slowly
"""


@dataclass(frozen=True)
class Exported:
    """An artifact (manifest and model folder) and its store."""

    kind: Kind
    artifact: Path
    store: Path
    identity: dict[str, str]

    @property
    def model(self) -> Path:
        return self.artifact / "model"


def make_artifact(folder: Path, kind: Kind, seed: int, nan: bool = False) -> Path:
    torch.manual_seed(seed)
    # pad == eos, as in most instruct models: pooling by pad id would be wrong
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=LONGEST,
        num_labels=1, pad_token_id=2, eos_token_id=2,
    )  # fmt: skip
    model = (LlamaForSequenceClassification if kind == "reward" else LlamaForCausalLM)(config)
    if nan:
        model.model.norm.weight.data.fill_(float("nan"))
    model.save_pretrained(folder / "model")
    if kind == "reward":
        write_json(folder / "model" / "calibration.json", {"mean": 0.5, "std": 2.0})
    facts = {"tokenizer_digest": "a" * 64, "template_digest": "b" * 64}
    Manifest(kind, folder.name, {}, "", "", {}, facts=facts).write(folder, [folder / "model"], 0.0)
    return folder


def make_store(folder: Path, kind: Kind, seed: int, nan: bool = False) -> Exported:
    artifact = make_artifact(folder / "artifact", kind, seed, nan)
    identity = model_identity(kind, artifact)
    export_store(kind, artifact / "model", folder / "store", identity, max_batch_tokens=1024)
    return Exported(kind, artifact, folder / "store", identity)
