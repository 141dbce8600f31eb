"""Recipes made small: tiny models of the same architectures, a few rows in the sets' schemas."""

from __future__ import annotations

import gc
import itertools
import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rlhf.catalog import DRAWING, ONLINE
from rlhf.config.load import load_config
from rlhf.config.registry import find
from rlhf.config.schema import Config
from rlhf.pipeline.slices import canonical_slice
from support.dataset_rows import ROWS
from support.projects import REPOSITORY, Project
from support.tiny_tokenizers import FAMILIES, byte_level, modern

RECIPES = {path.stem: path for path in sorted((REPOSITORY / "config/recipes").glob("*.yaml"))}
ROWS_EACH = 40  # of which some are held out, and `stage_split` shares out the others
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
# Wide enough that what a narrow model says of a token depends on those before it: in bfloat16 a
# reward model would give all demonstrations one score, and be refused.
WEIGHTS = {"initializer_range": 0.2, "init_std": 0.2}
SIZES |= {"intermediate_size": 16, "ffn_dim": 16, "word_embed_proj_dim": 16}
SIZES |= {"max_position_embeddings": 8192}  # as long as rows of the longest recipe
GPT_SIZES = {"n_embd": 16, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 2048}
# OPT 350M alone: embeddings narrower than the layers, norms after them.
OPT_350M = {"word_embed_proj_dim": 8, "do_layer_norm_before": False}


def olmo() -> Any:
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
    named = {"eos_token": specials[0], "bos_token": specials[0], "pad_token": specials[3]}
    return byte_level(specials, steps=modern(), last=True, **named)


# Words in a model's source → architecture, tokenizer, what is special of its configuration.
KINDS: dict[str, tuple[str, Callable[[], Any], dict[str, Any]]] = {
    "galactica": (*FAMILIES["galactica"], {"enable_bias": False}),
    "opt-350m": (*FAMILIES["opt"], OPT_350M),
    "opt": (*FAMILIES["opt"], {}),
    "pythia": (*FAMILIES["pythia"], {}),
    "gpt-neox": (*FAMILIES["pythia"], {}),
    "gpt-j": (*FAMILIES["gpt-j"], {}),
    "bloom": (*FAMILIES["bloom"], {}),
    "llama-3.": (*FAMILIES["llama3"], {"num_key_value_heads": 2}),
    "llama": (*FAMILIES["llama"], {}),
    "smollm2": (*FAMILIES["smollm"], {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen2.5": ("qwen2", FAMILIES["qwen"][1], {"num_key_value_heads": 2}),
    "qwen3": ("qwen3", FAMILIES["qwen"][1], {"num_key_value_heads": 2, "head_dim": 8}),
    "olmo-2": ("olmo2", olmo, {}),
}


@dataclass(frozen=True)
class Job:
    """One job of a dry run.

    Attributes:
        rule: its rule.
        wildcards: their values, in order.
        command: arguments of ``rlhf``, as the shell would pass them.
    """

    rule: str
    wildcards: tuple[str, ...]
    command: tuple[str, ...]

    def stage(self, config: Config) -> list[str]:
        """Module and arguments of the stage that the launcher would start, with another slice.

        Model stores are left out: a PPO run that scores by itself needs none.
        """
        module, *arguments = self.command[self.command.index("--") + 1 :]
        options: list[list[str]] = []
        for one in arguments:
            if one.startswith("--"):
                options.append([])
            options[-1].append(one)
        for option in options:
            if option[0] == "--config":
                option[1] = canonical_slice(config, self.rule, *self.wildcards)
        kept = [one for one in options if one[:2] != ["--input", "store"]]
        return [module, *itertools.chain(*kept)]


def dry_run(project: Project, recipe: Path) -> list[Job]:
    """The jobs that Snakemake would run for a recipe, in its order."""
    project.config = str(recipe.relative_to(REPOSITORY))
    done = project.snakemake("--dry-run", "--printshellcmds")
    found = []
    said = done.stdout + done.stderr
    for block in re.split(r"\n(?=(?:local)?(?:rule|checkpoint) \w+:)", said)[1:]:
        (rule,) = re.match(r"(?:local)?(?:rule|checkpoint) (\w+):", block).groups()
        if rule == "all":
            continue
        wildcards = re.search(r"^    wildcards: (.+)$", block, re.M).group(1)
        (command,) = re.findall(r"^Shell command: (.+)$", block, re.M)
        found.append((rule, tuple(one.split("=")[1] for one in wildcards.split(", ")), command))
    # The shell takes each command apart; `rlhf` only says what it was given.
    script = ["rlhf() { printf '%s\\0' \"$@\"; printf '\\036'; }", *(one for *_, one in found)]
    said = subprocess.run(
        ["bash", "-c", "\n".join(script)], capture_output=True, text=True, check=True
    ).stdout
    commands = [tuple(one.split("\0")[:-1]) for one in said.split("\036")[:-1]]
    return [
        Job(rule, wildcards, command)
        for (rule, wildcards, _), command in zip(found, commands, strict=True)
    ]


def expected_jobs(config: Config) -> set[tuple[str, ...]]:
    """Rule and wildcards of every job that makes all that a configuration names."""
    jobs: set[tuple[str, ...]] = set()

    def tokenize(view: str, model: str, datasets: Iterable[str]) -> None:
        jobs.add(("fetch_model", model))
        for dataset in datasets:
            jobs.update({("fetch_data", dataset), ("tokenize", view, model, dataset)})

    for name, sft in config.sft.items():
        jobs |= {("train_sft", name), ("check_rows", f"sft.{name}")}
        tokenize("conversation", config.base_model("sft", name), sft.data)
    for name, reward in config.reward.items():
        jobs |= {("train_reward", name), ("check_rows", f"reward.{name}")}
        for view in ("preference", "conversation"):  # it is calibrated on demonstrations
            tokenize(view, config.base_model("reward", name), reward.data)
    for name, dpo in config.dpo.items():
        jobs |= {("train_dpo", name), ("check_rows", f"dpo.{name}")}
        tokenize("preference", config.base_model("dpo", name), dpo.data)
    for name, ilql in config.ilql.items():
        jobs |= {("train_ilql", name), ("check_rows", f"ilql.{name}")}
        tokenize("preference", config.base_model("ilql", name), ilql.data)
    for section in ONLINE:
        for name, run in getattr(config, section).items():
            jobs |= {(ONLINE[section].rule, name), ("check_rows", f"{section}.{name}")}
            if run.scoring != "local":
                jobs |= {("export_store", "reward", term.model) for term in run.reward}
                jobs.add(("export_store", "reference", run.sft))
            tokenize("prompt", config.base_model(section, name), run.data)
    for name in config.evaluation:
        datasets = config.drawn_from("evaluation", name)
        tokenize("prompt", config.base_model("evaluation", name), datasets)
    jobs |= {("evaluate", name) for name in config.evaluation}
    return jobs | {("report", name) for name in config.report}


def tiny(values: dict[str, Any], folder: Path) -> Config:
    """A recipe with tiny models and datasets, which are written to ``folder``, and short runs.

    All other values stay: learning rates, schedules, lengths, templates, shares, penalties.
    What a vLLM server would sample is sampled here: vLLM is no part of this environment, and
    tests/rollouts runs it.
    """
    values = json.loads(json.dumps(values))  # what YAML's anchors share is shared no more
    for model in values["models"].values():
        source = model["source"]
        model["source"] = {"path": str(_tiny_model(source.get("hub") or source["path"], folder))}
    for name, dataset in values["datasets"].items():
        entry = find(dataset.get("registry", name))
        dataset.pop("files", None)
        dataset |= {"registry": entry.name, "path": str(_few_rows(entry.name, folder))}
        dataset["validation_fraction"] = 0.3
    for section in DRAWING.keys() - ONLINE.keys():
        for run in values.get(section, {}).values():
            run |= {"epochs": 1, "global_batch_size": 16, "evaluations": 1}
            _shorten(run)
    for run in (run for section in ONLINE for run in values.get(section, {}).values()):
        run |= {"updates": 2, "rollout_batch_size": 4, "scoring": "local"}
        run["minibatch_size"] = max(2, run.get("responses_per_prompt", 1))
        run["epochs"] = min(run.get("epochs", 1), 2)
        run["sampling"] |= {"max_new_tokens": 6, "sampler": "loop"}
        _shorten(run)
    for run in values.get("evaluation", {}).values():
        run |= {"max_prompts": 4, "max_new_tokens": 6}
    values.pop("cluster")
    return load_config(values)


def _shorten(run: dict[str, Any]) -> None:
    run["freeze_layers"] = min(run.get("freeze_layers", 0), 1)
    for share in run["data"].values():
        if share.get("size"):
            share["size"] = 10


def _tiny_model(source: str, folder: Path) -> Path:
    """A random model of the architecture that ``source`` has, with a tokenizer built like its."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind = next(kind for kind in KINDS if kind in source.lower())
    target = folder / "models" / kind
    if target.exists():
        return target
    architecture, tokenizer_of, special = KINDS[kind]
    tokenizer = tokenizer_of()
    sizes = (GPT_SIZES if architecture == "gptj" else SIZES) | WEIGHTS | special
    # As most published models, with more rows than tokens.
    config = AutoConfig.for_model(architecture, vocab_size=len(tokenizer) + 7, **sizes)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


def _few_rows(name: str, folder: Path) -> Path:
    """Rows of a dataset of the registry in its real schema, each about something else."""
    target = folder / "data" / f"{name}.jsonl"
    target.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps(_numbered(ROWS[name][0], i), ensure_ascii=False) for i in range(ROWS_EACH)]
    target.write_text("\n".join(rows) + "\n")
    return target


def _numbered(value: Any, number: int, key: str = "") -> Any:
    """A row with a number after the first word of each text, but not after who says it."""
    if isinstance(value, dict):
        return {key: _numbered(one, number, key) for key, one in value.items()}
    if isinstance(value, list):
        return [_numbered(one, number, key) for one in value]
    if not isinstance(value, str) or key in ("role", "from", "lang", "tree_state"):
        return value
    return re.sub(r"[^\W\d_]+(?![\w:>])", rf"\g<0> {number}", value, count=1)


def run_stages(folder: Path, stages: list[list[str]], **rank: str) -> None:
    """Run stages one after another in this process, each as ``python -m`` would.

    Args:
        folder: where they run.
        stages: module and arguments of each.
        rank: what torchrun would add to the environment.

    Raises:
        RuntimeError: a stage failed; its log says why.
    """
    os.chdir(folder)
    os.environ |= {"OMP_NUM_THREADS": "1"} | rank
    gc.freeze()  # DeepSpeed collects garbage at each engine, among all that was ever imported
    for module, *arguments in stages:
        sys.argv = [module, *arguments]
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            if end.code:
                log = Path(arguments[arguments.index("--log") + 1])
                raise RuntimeError(f"{module} ended with {end.code}:\n{log.read_text()}") from None


def read(recipe: Path) -> dict[str, Any]:
    return yaml.safe_load(recipe.read_text())
