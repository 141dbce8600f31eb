"""A stage reads its slice of the configuration back into the class that describes it."""

import copy
import json

import pytest
from support.valid_config import VALID, put

from rlhf.config.cpo import CpoConfig
from rlhf.config.data import DatasetSlice
from rlhf.config.dpo import DpoConfig
from rlhf.config.evaluation import EvaluationConfig
from rlhf.config.ilql import IlqlConfig
from rlhf.config.kto import KtoConfig
from rlhf.config.load import load_config
from rlhf.config.mixture import DuplicatesSlice
from rlhf.config.models import ModelSlice
from rlhf.config.orpo import OrpoConfig
from rlhf.config.ppo import PpoConfig
from rlhf.config.report import ReportConfig
from rlhf.config.reward import RewardConfig
from rlhf.config.rows import RowsSlice
from rlhf.config.sft import SftConfig
from rlhf.config.simpo import SimpoConfig
from rlhf.config.store import StoreSlice
from rlhf.config.tokenization import TokenizeSlice
from rlhf.errors import ConfigError
from rlhf.pipeline.slices import canonical_slice
from rlhf.stages.stage import parse

SLICES = {
    "fetch_model tiny": ModelSlice,
    "fetch_model random": ModelSlice,
    "fetch_data demo": DatasetSlice,
    "fetch_data downloaded": DatasetSlice,
    "tokenize conversation": TokenizeSlice,
    "tokenize preference": TokenizeSlice,
    "tokenize feedback": TokenizeSlice,
    "tokenize prompt": TokenizeSlice,
    "find_duplicates sft.chat": DuplicatesSlice,
    "find_duplicates ppo.final": DuplicatesSlice,
    "check_rows sft.chat": RowsSlice,
    "train_sft chat": SftConfig,
    "train_reward helpful": RewardConfig,
    "export_store reward helpful": StoreSlice,
    "export_store reference chat": StoreSlice,
    "train_dpo direct": DpoConfig,
    "train_kto direct": KtoConfig,
    "train_orpo direct": OrpoConfig,
    "train_simpo direct": SimpoConfig,
    "train_cpo direct": CpoConfig,
    "train_ilql values": IlqlConfig,
    "train_ppo final": PpoConfig,
    "evaluate final": EvaluationConfig,
    "report final": ReportConfig,
}


def stage(config: str):
    return parse(["--name", "x", "--config", config, "--output", "manifest", "x/manifest.json"])[0]


@pytest.fixture
def config(tmp_path):
    """Every kind of source; what people write in two ways; and a path that holds a ``$``."""
    text = tmp_path / "$text.jsonl"
    text.write_text("{}\n")
    escaped = str(text).replace("$", "$$")
    values = copy.deepcopy(VALID)
    put(values, "models.random", {"source": {"random": {"tokenizer_text": escaped}}})
    put(values, "datasets.demo.path", escaped)
    put(values, "datasets.demo.stage_split", {"conversation": 2, "preference": 4, "prompt": 4})
    put(values, "datasets.downloaded", {"source": {"url": "file:///rows.csv"}, "format": "qa"})
    put(values, "sft.chat.data.demo", {"size": 7, "max_validation": 3})
    put(values, "tokenization.conversation.reply_tags", {"length": True})
    put(values, "ilql.values", {"sft": "chat", "data": {"demo": {}}, "two_qs": False})
    put(values, "dpo.direct", {"sft": "chat", "data": {"demo": {}}, "loss": "ipo"})
    for section in ("kto", "orpo", "simpo", "cpo"):
        put(values, f"{section}.direct", {"sft": "chat", "data": {"demo": {}}})
    return load_config(values)


@pytest.mark.parametrize("artifact", SLICES)
def test_nothing_is_lost(config, artifact):
    values = canonical_slice(config, *artifact.split(" "))
    section = stage(values).read(SLICES[artifact])
    assert section.model_dump(mode="json", exclude_unset=True) == json.loads(values)


def test_attributes_have_their_types(config):
    read = stage(canonical_slice(config, "train_sft", "chat")).read(SftConfig)
    assert read == config.sft["chat"]
    assert (read.data["demo"].size, read.optimizer.warmup) == (7, 0.03)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"clipp": 0.3}, "clipp: Extra inputs"),
        ({"gamma": 2.0}, "gamma: Input should be less than"),
        ({"kl": {"target": "far"}}, "kl.target: "),
    ],
)
def test_a_slice_of_another_class_is_refused(config, change, said):
    values = config.ppo["final"].model_dump(mode="json") | change
    with pytest.raises(ConfigError, match=said):
        stage(json.dumps(values)).read(PpoConfig)
