import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf.cli import main
from rlhf.commands.dry_run import Job, parse_dry_run
from rlhf.commands.explain import reasons
from rlhf.core.digest import canonical_json

SNAKEFILE = """
import json
from rlhf.core.digest import canonical_json
RUN = json.load(open("run.json"))
rule all:
    default_target: True
    input: "results/ppo/final/manifest.json", "results/report/final/manifest.json"
rule train_ppo:
    output: "results/ppo/{name}/manifest.json"
    params: config=canonical_json(RUN["ppo"]), code=RUN["code"], image=RUN["image"]
    shell:
        "cp made.json {output}"
        " # --config {params.config:q} --code '{params.code}' --image '{params.image}'"
rule report:
    input: "results/ppo/{name}/manifest.json"
    output: "results/report/{name}/manifest.json"
    params: config=lambda wildcards: "{}", code="code:1", image="image:none"
    shell:
        "cp report.json {output}"
        " # --config {params.config:q} --code '{params.code}' --image '{params.image}'"
        " --input ppo {input}"
"""

DRY_RUN = """\
Building DAG of jobs...
Job stats:
job          count
train_sft        1

[Sat Nov 21 09:27:50 2026]
rule train_sft:
    input: results/models/tiny/manifest.json
    output: results/sft/chat/model, results/sft/chat/manifest.json
    jobid: 1
    reason: Missing output files: results/sft/chat/manifest.json
    wildcards: name=chat
    resources: tmpdir=/tmp
[Sat Nov 21 09:27:50 2026]
localrule all:
    input: results/sft/chat/manifest.json
    jobid: 0
    reason: Rules with neither input nor output files are always executed.
Reasons:
    (check individual jobs above for details)
"""


def params(before, now):
    sides = [",".join(map(repr, side)) or "<nothing exclusive>" for side in (before, now)]
    return (
        "Params have changed since last execution: Union of exclusive params before and now "
        f"across all output: before: {sides[0]} now: {sides[1]} "
    )


def job(rule, reason, output="results/x/manifest.json", **wildcards):
    pairs = ", ".join(f"{key}={value}" for key, value in wildcards.items())
    return Job(rule, {"output": output, "reason": reason, "wildcards": pairs})


def test_reads_jobs_and_leaves_out_all():
    (found,) = parse_dry_run(DRY_RUN)
    assert found.title == "train_sft chat"
    assert found.outputs == ["results/sft/chat/model", "results/sft/chat/manifest.json"]
    assert reasons(found, {}) == ["not there yet"]


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Forced execution", ["forced"]),
        (
            "Missing output files: results/x/metrics.jsonl",
            ["output missing: results/x/metrics.jsonl"],
        ),
        ("Incomplete output files: results/x/model", ["the last run was cut off"]),
        ("Updated input files: demo.jsonl", ["demo.jsonl changed"]),
        (
            "Set of input files has changed since last execution; "
            "Code has changed since last execution",
            ["its set of inputs changed", "the rule's code changed"],
        ),
        (params(["code:1"], ["code:2"]), ["its code changed"]),
        (params(["image:none"], ["image:train-1"]), ["its image changed: none → train-1"]),
        (
            params(['{"a":1}', "code:1", "image:a"], ['{"a":2}', "code:2", "image:b"]),
            ["ppo.final.a 1 → 2", "its code changed", "its image changed: a → b"],
        ),
        (
            params(["made from an artifact that is not here"], ['{"a":1}', "code:1"]),
            ["a parent that it was made from is no longer here"],
        ),
    ],
)
def test_reasons_in_words(reason, words):
    assert reasons(job("train_ppo", reason, name="final"), {}) == words


def test_keys_of_nested_changes():
    before = {"kl": {"coefficient": 0.05}, "data": {"demo": {"fraction": 1.0}}, "seed": 0}
    now = {"kl": {"coefficient": 0.1}, "data": {"other": {"fraction": 1.0}}, "seed": 0}
    reason = params([canonical_json(before)], [canonical_json(now)])
    assert reasons(job("train_ppo", reason, name="final"), {}) == [
        'ppo.final.data.demo {"fraction": 1.0} → (absent)',
        'ppo.final.data.other (absent) → {"fraction": 1.0}',
        "ppo.final.kl.coefficient 0.05 → 0.1",
    ]


def test_texts_with_quotes_and_words_of_the_format():
    before = canonical_json({"title": "It's \"old\" now: 'x', before: y; Forced, done"})
    now = canonical_json({"title": "new"})
    found = reasons(job("report", params([before], [now]), name="final"), {})
    assert found == ["report.final.title It's \"old\" now: 'x', before: y; Forced, done → new"]


def test_content_of_a_source():
    before, now = ({"path": "demo.jsonl", "content": digest * 64} for digest in "ab")
    reason = params([canonical_json(before)], [canonical_json(now)])
    found = reasons(job("fetch_data", reason, dataset="demo"), {})
    assert found == ["the content of demo.jsonl changed"]


def test_parents_that_re_run_are_named_once():
    parent = job(
        "train_sft", "", "results/sft/chat/model, results/sft/chat/manifest.json", name="chat"
    )
    makers = dict.fromkeys(parent.outputs, parent)
    reason = f"Input files updated by another job: {', '.join(parent.outputs)}"
    assert reasons(job("train_ppo", reason, name="final"), makers) == ["train_sft chat re-runs"]


def test_tokenized_sets_are_named_by_view_model_and_dataset():
    reason = params(['{"max_length":1}'], ['{"max_length":2}'])
    found = job("tokenize", reason, view="conversation", model="tiny", dataset="demo")
    assert found.title == "tokenize conversation/tiny/demo"
    assert reasons(found, {}) == ["tokenization.conversation.max_length 1 → 2"]


@pytest.fixture
def workflow(results, tmp_path):
    """A workflow of two rules whose stages are copies of ready manifests."""
    (tmp_path / "Snakefile").write_text(SNAKEFILE)

    def configure(coefficient, code="code:1", image="image:none", made=True):
        """Set what is to be made; what the stages write changes too if ``made``."""
        config = {"kl": {"coefficient": coefficient}}
        run = {"ppo": config, "code": code, "image": image}
        (tmp_path / "run.json").write_text(json.dumps(run))
        if made:
            ppo = results.make("ready/ppo", "train_ppo", config, code=code, image=image)
            report = results.make("ready/report", "report", {}, {"ppo": ppo}, code="code:1")
            ppo.replace(tmp_path / "made.json")
            report.replace(tmp_path / "report.json")
            shutil.rmtree(tmp_path / "results/ready")

    configure(0.05)
    return configure


def snakemake(*arguments):
    subprocess.run([sys.executable, "-m", "snakemake", "-c1", "-q", "all", *arguments], check=True)


def explained(capsys):
    assert main(["explain"]) == 0
    return capsys.readouterr().out.splitlines()


ALL_IS_WELL = ["Nothing would run: all is as the configuration, the code and the parents say."]
TOUCHED = (
    "Snakemake would run nothing: its own records agree (after `--touch`, for example). But by "
    "their manifests, these were made differently:"
)


def test_touched_results_are_compared_with_their_manifests(workflow, capsys):
    snakemake()
    workflow(0.1, "code:2", "image:train-1", made=False)
    snakemake("--touch")
    said = explained(capsys)
    assert said[:2] == [
        TOUCHED,
        "train_ppo final: ppo.final.kl.coefficient 0.05 → 0.1; its code changed; "
        "its image changed: none → train-1",
    ]
    advice, _, command = said[2].partition(": --forcerun ")
    assert advice == "To rebuild them, end the snakemake command with"
    workflow(0.1, "code:2", "image:train-1")
    snakemake("--forcerun", *command.split())
    assert explained(capsys) == ALL_IS_WELL


def test_a_touched_child_of_another_parent(workflow, capsys):
    snakemake()
    workflow(0.1)
    shutil.copy("made.json", "results/ppo/final/manifest.json")
    snakemake("--touch")
    assert explained(capsys)[:2] == [TOUCHED, "report final: made from another train_ppo final"]


def test_a_touched_manifest_that_is_damaged(workflow, capsys):
    snakemake()
    Path("results/report/final/manifest.json").write_text("{")
    snakemake("--touch")
    assert explained(capsys)[1].startswith("report final: The manifest is damaged: ")


def test_what_would_run_and_what_was_touched(workflow, capsys):
    snakemake()
    workflow(0.1, made=False)
    snakemake("--touch")
    Path("results/report/final/manifest.json").unlink()
    said = explained(capsys)
    assert said[:2] == ["report final: not there yet", "1 would run"]
    assert said[2].startswith("Snakemake would leave these: its own records agree")
    assert said[3] == "train_ppo final: ppo.final.kl.coefficient 0.05 → 0.1"


def test_with_snakemake(workflow, capsys):
    assert main(["explain"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "train_ppo final: not there yet",
        "report final: not there yet",
        "2 would run",
    ]
    snakemake()
    assert explained(capsys) == ALL_IS_WELL
    workflow(0.1, "code:2")
    assert main(["explain"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "train_ppo final: ppo.final.kl.coefficient 0.05 → 0.1; its code changed",
        "report final: train_ppo final re-runs",
        "2 would run",
    ]
    assert main(["explain", "results/absent"]) == 2
    assert "MissingRuleException" in capsys.readouterr().err
