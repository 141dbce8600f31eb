"""A model of an architecture that transformers lacks, with the code that it brings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

CODE = """
from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM

Path({ran!r}).touch()


class OwnConfig(LlamaConfig):
    model_type = "own"


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


def own_architecture(tiny: Path, folder: Path, ran: Path, module: str = "modeling_own") -> Path:
    """A copy of the tiny model that needs its own code; running that makes the file ``ran``."""
    shutil.copytree(tiny, folder)
    (folder / "modeling_own.py").write_text(CODE.format(ran=str(ran)))
    config = json.loads((folder / "config.json").read_text()) | {
        "model_type": "own",
        "architectures": ["OwnForCausalLM"],
        "auto_map": {
            "AutoConfig": f"{module}.OwnConfig",
            "AutoModelForCausalLM": f"{module}.OwnForCausalLM",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder
