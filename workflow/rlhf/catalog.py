"""The stages of the pipeline: one row for each, from which all that differs between them is read.

A new stage is a row here, a class of its configuration, a module of what it learns, and a rule.
Only the report imports this module: what stands here, such as usual hours, is no reason to train
again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

View = Literal["conversation", "preference", "feedback", "prompt"]
VIEWS: tuple[str, ...] = get_args(View)


@dataclass(frozen=True)
class Plot:
    """A chart of a run's metrics.

    Attributes:
        title: what is drawn.
        unit: unit of the y axis.
        lines: metric and label of each line.
    """

    title: str
    unit: str
    lines: tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False)
class Row:
    """What the workflow knows of a stage.

    Attributes:
        rule: its rule, and its module in ``rlhf.stages``.
        section: section of the configuration that names its artifacts; empty: it works for the
            artifacts of other stages.
        folder: folder of its artifacts below ``results/``; by default the section.
        slice: key of its slice in the configuration, ``{}`` being its first wildcard; by default
            an entry of the section.
        parents: key of an entry → section in which that key names one or more entries.
        start: those of these keys that may name what a run starts from, of which one is given.
        view: view of the data that it trains on.
        held_out: role of an input → view of which it needs held-out rows.
        trains: whether it trains: on several processes and nodes, saving a state to resume from.
        online: whether it samples while it trains, by updates and not by epochs.
        token_values: whether it learns values of tokens too, by heads of which copies follow.
        servers: kind of model server that it scores with → the key that names its models.
        checks_model: whether it is told all that the configuration asks of its model.
        fetches: whether it reads what lies outside of the project.
        image: kind of the image that it runs in.
        threads: key of ``runtime`` that says how many threads a process has; empty: one.
        gpu: whether it has work for a GPU.
        hours: usual time with a model of a billion parameters; in training, on 8 GPUs.
        memory_gb: memory beside that of models, in GB.
        models: models held in memory at once; training has its own rule.
        title: heading of its runs in the report.
        label: name of its models in the report.
        plots: charts of its metrics.
    """

    rule: str
    section: str = ""
    folder: str = ""
    slice: str = ""
    parents: Mapping[str, str] = field(default_factory=dict)
    start: tuple[str, ...] = ()
    view: View | None = None
    held_out: Mapping[str, View] = field(default_factory=dict)
    trains: bool = False
    online: bool = False
    token_values: bool = False
    servers: Mapping[str, str] = field(default_factory=dict)
    checks_model: bool = False
    fetches: bool = False
    image: Literal["train", "serve"] = "train"
    threads: Literal["", "threads", "server_threads"] = ""
    gpu: bool = False
    hours: float = 1
    memory_gb: float = 4
    models: int = 0
    title: str = ""
    label: str = ""
    plots: tuple[Plot, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", self.folder or self.section)
        object.__setattr__(self, "slice", self.slice or f"{self.section}.{{}}")


_TRAIN, _VALIDATION = "train", "validation"
_POLICY = (
    Plot("Reward", "calibrated, standard deviations", (("reward", "reward"),)),
    Plot("KL from the reference", "nats per response", (("kl", "KL"),)),
    Plot("KL coefficient", "β", (("kl_coefficient", "β"),)),
    Plot("Response length", "tokens", (("response_length", "length"),)),
    Plot("Responses that end", "share with an end token", (("eos_rate", "ended"),)),
    Plot("Entropy", "nats per token", (("entropy", "entropy"),)),
    Plot("Clip fraction", "share of tokens", (("clip_fraction", "clipped"),)),
)

_RANKED = (  # of methods that need no reference
    Plot("Loss", "per pair", (("loss", _TRAIN), ("validation_loss", _VALIDATION))),
    Plot(
        "Accuracy",
        "share of pairs in people’s order",
        (("accuracy", _TRAIN), ("validation_accuracy", _VALIDATION)),
    ),
    Plot(
        "Log probability of the replies",
        "nats per token",
        (("chosen_logprob", "better reply"), ("rejected_logprob", "worse reply")),
    ),
)
_MARGIN = Plot(
    "Margin of rewards",
    "better reply − worse reply",
    (("reward_margin", _TRAIN), ("validation_reward_margin", _VALIDATION)),
)

# In the order in which they are built.
STAGES = (
    Row(
        rule="fetch_model",
        section="models",
        fetches=True,
        checks_model=True,
        hours=4,
        models=2,
    ),
    Row(
        rule="fetch_data",
        section="datasets",
        fetches=True,
        hours=4,
        memory_gb=16,
    ),
    Row(
        rule="tokenize",
        folder="tokenized",
        slice="tokenization.{}",
        threads="threads",
        hours=4,
        memory_gb=16,
    ),
    Row(
        rule="find_duplicates",
        folder="duplicates",
        slice="{}.duplicates",
        hours=4,
        memory_gb=16,
    ),
    Row(
        rule="check_rows",
        folder="rows",
        slice="rows that {} needs",
    ),
    Row(
        rule="train_sft",
        section="sft",
        parents={"model": "models", "sft": "sft"},
        start=("model", "sft"),
        view="conversation",
        trains=True,
        checks_model=True,
        threads="threads",
        gpu=True,
        hours=12,
        title="Supervised fine-tuning",
        label="SFT",
        plots=(
            Plot("Loss", "nats per token", (("loss", _TRAIN), ("validation_loss", _VALIDATION))),
            Plot("Learning rate", "", (("learning_rate", "learning rate"),)),
            Plot("Gradient norm", "", (("grad_norm", "gradient norm"),)),
        ),
    ),
    Row(
        rule="train_reward",
        section="reward",
        parents={"model": "models", "sft": "sft"},
        start=("model", "sft"),
        view="preference",
        held_out={"demonstrations": "conversation"},
        trains=True,
        checks_model=True,
        threads="threads",
        gpu=True,
        hours=12,
        title="Reward model",
        label="Reward model",
        plots=(
            Plot("Loss", "nats per pair", (("loss", _TRAIN), ("validation_loss", _VALIDATION))),
            Plot(
                "Accuracy",
                "share of pairs in people’s order",
                (("accuracy", _TRAIN), ("validation_accuracy", _VALIDATION)),
            ),
            Plot("Kendall’s τ", "validation, −1 to 1", (("validation_kendall_tau", _VALIDATION),)),
        ),
    ),
    Row(
        rule="train_dpo",
        section="dpo",
        parents={"sft": "sft"},
        start=("sft",),
        view="preference",
        trains=True,
        threads="threads",
        gpu=True,
        hours=12,
        title="DPO",
        label="DPO",
        plots=(
            Plot("Loss", "per pair", (("loss", _TRAIN), ("validation_loss", _VALIDATION))),
            Plot(
                "Accuracy of implicit rewards",
                "share of pairs in people’s order",
                (("accuracy", _TRAIN), ("validation_accuracy", _VALIDATION)),
            ),
            Plot(
                "Margin of implicit rewards",
                "nats",
                (("reward_margin", _TRAIN), ("validation_reward_margin", _VALIDATION)),
            ),
            Plot(
                "Log ratio to the reference",
                "nats per reply",
                (("chosen_logratio", "better reply"), ("rejected_logratio", "worse reply")),
            ),
        ),
    ),
    Row(
        rule="train_kto",
        section="kto",
        parents={"sft": "sft"},
        start=("sft",),
        view="feedback",
        trains=True,
        threads="threads",
        gpu=True,
        hours=12,
        title="KTO",
        label="KTO",
        plots=(
            Plot("Loss", "per reply", (("loss", _TRAIN), ("validation_loss", _VALIDATION))),
            Plot(
                "Accuracy of implicit rewards",
                "share of replies on their side of the KL",
                (("accuracy", _TRAIN), ("validation_accuracy", _VALIDATION)),
            ),
            Plot(
                "Log ratio to the reference",
                "nats per reply",
                (
                    ("desirable_logratio", "desirable"),
                    ("undesirable_logratio", "undesirable"),
                    ("kl", "KL"),
                ),
            ),
        ),
    ),
    Row(
        rule="train_orpo",
        section="orpo",
        parents={"model": "models", "sft": "sft"},
        start=("model", "sft"),
        view="preference",
        trains=True,
        checks_model=True,
        threads="threads",
        gpu=True,
        hours=12,
        title="ORPO",
        label="ORPO",
        plots=(
            *_RANKED,
            Plot(
                "Log odds ratio",
                "better reply to worse reply",
                (("log_odds_ratio", _TRAIN), ("validation_log_odds_ratio", _VALIDATION)),
            ),
        ),
    ),
    Row(
        rule="train_simpo",
        section="simpo",
        parents={"sft": "sft"},
        start=("sft",),
        view="preference",
        trains=True,
        threads="threads",
        gpu=True,
        hours=12,
        title="SimPO",
        label="SimPO",
        plots=(*_RANKED, _MARGIN),
    ),
    Row(
        rule="train_cpo",
        section="cpo",
        parents={"sft": "sft"},
        start=("sft",),
        view="preference",
        trains=True,
        threads="threads",
        gpu=True,
        hours=12,
        title="CPO",
        label="CPO",
        plots=(*_RANKED, _MARGIN),
    ),
    Row(
        rule="train_ilql",
        section="ilql",
        parents={"sft": "sft"},
        start=("sft",),
        view="preference",
        trains=True,
        token_values=True,
        threads="threads",
        gpu=True,
        hours=12,
        title="ILQL",
        label="ILQL",
        plots=(
            Plot("Loss", "per token", (("loss", _TRAIN), ("validation_loss", _VALIDATION))),
            Plot(
                "Losses of Q and V",
                "squared reward per token",
                (("q_loss", "Q"), ("value_loss", "V")),
            ),
            Plot(
                "Losses beside them",
                "nats per token",
                (("cql_loss", "conservative"), ("policy_loss", "policy")),
            ),
            Plot(
                "Accuracy of Q at the last token",
                "share of pairs in people’s order",
                (("accuracy", _TRAIN), ("validation_accuracy", _VALIDATION)),
            ),
            Plot("Value and advantage", "reward", (("value", "V"), ("advantage", "Q − V"))),
        ),
    ),
    Row(
        rule="export_store",
        folder="store",
        slice="store",
        checks_model=True,
        image="serve",
        threads="server_threads",
        gpu=True,
        memory_gb=8,
        models=2,
    ),
    Row(
        rule="train_ppo",
        section="ppo",
        parents={"sft": "sft", "reward": "reward"},
        start=("sft",),
        view="prompt",
        trains=True,
        online=True,
        servers={"reward": "reward", "reference": "sft"},
        threads="threads",
        gpu=True,
        hours=24,
        title="PPO",
        label="PPO",
        plots=(
            *_POLICY,
            Plot("Value loss", "", (("value_loss", "value loss"),)),
            Plot("Explained variance", "of the returns", (("explained_variance", "explained"),)),
            Plot("Pretraining loss", "nats per token", (("ptx_loss", "loss"),)),
        ),
    ),
    Row(
        rule="train_rloo",
        section="rloo",
        parents={"sft": "sft", "reward": "reward"},
        start=("sft",),
        view="prompt",
        trains=True,
        online=True,
        servers={"reward": "reward", "reference": "sft"},
        threads="threads",
        gpu=True,
        hours=24,
        title="RLOO",
        label="RLOO",
        plots=_POLICY,
    ),
    Row(
        rule="train_grpo",
        section="grpo",
        parents={"sft": "sft", "reward": "reward"},
        start=("sft",),
        view="prompt",
        trains=True,
        online=True,
        servers={"reward": "reward", "reference": "sft"},
        threads="threads",
        gpu=True,
        hours=24,
        title="GRPO",
        label="GRPO",
        plots=_POLICY,
    ),
    Row(
        rule="train_reinforce",
        section="reinforce",
        parents={"sft": "sft", "reward": "reward"},
        start=("sft",),
        view="prompt",
        trains=True,
        online=True,
        servers={"reward": "reward", "reference": "sft"},
        threads="threads",
        gpu=True,
        hours=24,
        title="REINFORCE++",
        label="REINFORCE++",
        plots=_POLICY,
    ),
    Row(
        rule="evaluate",
        section="evaluation",
        parents={
            "ppo": "ppo",
            "rloo": "rloo",
            "grpo": "grpo",
            "reinforce": "reinforce",
            "dpo": "dpo",
            "kto": "kto",
            "orpo": "orpo",
            "simpo": "simpo",
            "cpo": "cpo",
            "ilql": "ilql",
            "reward": "reward",
            "gold": "reward",
        },
        start=("ppo", "rloo", "grpo", "reinforce", "dpo", "kto", "orpo", "simpo", "cpo", "ilql"),
        held_out={"prompts": "prompt"},
        threads="threads",
        gpu=True,
        hours=4,
        memory_gb=8,
        models=3,
    ),
    Row(
        rule="report",
        section="report",
        parents={"evaluations": "evaluation"},
    ),
)

RULES = {row.rule: row for row in STAGES}
SECTIONS = {row.section: row for row in STAGES if row.section}
RUNS = {section: row for section, row in SECTIONS.items() if not row.fetches}
DRAWING = {section: row for section, row in RUNS.items() if row.view}  # training rows
ONLINE = {section: row for section, row in RUNS.items() if row.online}
EVALUATED = {section: RUNS[section] for section in RUNS["evaluation"].start}
# Keys by which an evaluation names reward models.
SCORING = tuple(k for k, target in RUNS["evaluation"].parents.items() if target == "reward")
TRAINING = tuple(row.rule for row in STAGES if row.trains)
# Kind of a model server → section of the models that it serves.
STORES = {kind: row.parents[key] for row in STAGES for kind, key in row.servers.items()}


def subject(rule: str, *wildcards: str) -> tuple[str, str]:
    """Section and name of the entry that a job works for.

    Args:
        rule: the job's rule, not ``tokenize``, which works for many.
        wildcards: the job's.
    """
    if rule in RULES and (section := RULES[rule].section):
        return section, wildcards[0]
    if rule == "export_store":
        kind, name = wildcards
        return STORES[kind], name
    section, _, name = wildcards[0].partition(".")
    return section, name
