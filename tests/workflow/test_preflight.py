"""What is refused before anything is submitted. SLURM's answers were recorded from a real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from support.fakes.cluster import FakeCluster
from support.projects import REPOSITORY, TINY

from rlhf.config.load import load_config
from rlhf.config.schema import Config
from rlhf.errors import ClusterError
from rlhf.pipeline.jobs import plugin_resources
from rlhf.pipeline.preflight import Request, check
from rlhf.pipeline.resources import stage_resources
from rlhf.pipeline.site import read_gpus, read_site


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    fake = FakeCluster(tmp_path)
    monkeypatch.setenv("PATH", fake.path())
    return fake


def configuration(**cluster: Any) -> Config:
    return load_config(yaml.safe_load((REPOSITORY / TINY).read_text()) | {"cluster": cluster})


def request(config: Config, rule: str, **resources: Any) -> Request:
    """What a job would ask for under a profile that names lab and gpu."""
    asked = stage_resources(config, rule)
    profile = {"slurm_account": "lab", "slurm_partition": "gpu", "_cores": asked.cpus}
    return Request.read(rule, plugin_resources(asked) | profile | resources)


def refusal(
    config: Config, rule: str = "train_sft", status: str = "squeue", cap: float = 64, **resources
) -> str:
    with pytest.raises(ClusterError) as caught:
        check(config, [], [request(config, rule, **resources)], status, cap)
    return str(caught.value)


def test_the_site_is_read(slurm: FakeCluster) -> None:
    site = read_site()
    assert site.default == "gpu"
    assert site.accounts == {"lab", "course"}
    assert (site.accounting, site.enforced, site.min_job_age) == (True, True, 300)
    gpu, cpu = site.partitions["gpu"], site.partitions["cpu"]
    assert (gpu.max_minutes, gpu.max_nodes) == (24 * 60, 4)
    assert (cpu.max_minutes, cpu.max_nodes) == (float("inf"), float("inf"))
    assert [(one.count, one.gpus, one.cpus, one.mem_mb) for one in gpu.nodes] == [
        (4, {"h200": 8}, 64, 1_000_000),
        (2, {"a100": 4}, 32, 500_000),
    ]
    assert [one.gpus for one in cpu.nodes] == [{}]


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("(null)", {}),
        ("gpu:4", {"": 4}),
        ("gpu:8(S:0-1)", {"": 8}),
        ("gpu:a100:4(S:0,3),gpu:v100:2,shard:16", {"a100": 4, "v100": 2}),
        ("mps:100,gpu:a100_3g.20gb:7", {"a100_3g.20gb": 7}),
    ],
)
def test_gpus_are_read_in_every_spelling(gres: str, gpus: dict[str, int]) -> None:
    assert read_gpus(gres) == gpus


def test_what_fits_is_not_refused(slurm: FakeCluster) -> None:
    config = configuration(gpus_per_node=8, nodes=4)
    rules = ["tokenize", "train_sft", "train_ppo", "evaluate"]
    assert check(config, [], [request(config, rule) for rule in rules], "squeue", 64) == []


PROBLEMS: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "no account": (
        {},
        {"slurm_account": ""},
        ["No account is given.", "slurm_account (for train_sft)", "course, lab"],
    ),
    "another's account": (
        {},
        {"slurm_account": "phys"},
        ["You have no account phys", "your accounts are: course, lab"],
    ),
    "wrong partition": (
        {},
        {"slurm_partition": "gpuu"},
        ["no partition gpuu", "one of: cpu, gpu", "did you mean 'gpu'?"],
    ),
    "more GPUs than a node has": (
        {"gpus_per_node": 16},
        {},
        ["train_sft asks for 16 GPUs on each node; partition gpu has at most 8."],
    ),
    "GPUs where there are none": (
        {"gpus_per_node": 8},
        {"slurm_partition": "cpu"},
        ["train_sft asks for 8 GPUs on each node; partition cpu has at most 0."],
    ),
    "another type of GPU": (
        {"gpus_per_node": 8},
        {"gpu_model": "a100"},
        ["train_sft asks for 8 a100 GPUs on each node; partition gpu has at most 4."],
    ),
    "more CPUs than a node has": (
        {"stages": {"train_sft": {"cpus": 65}}},
        {},
        ["train_sft asks for 65 CPUs on each node", "cluster.stages.train_sft.cpus"],
    ),
    "more memory than a node has": (
        {"stages": {"train_sft": {"memory_gb": 2000}}},
        {},
        ["train_sft asks for 2000000 MB of memory on each node", "at most 1000000"],
    ),
    "more nodes than there are": (
        {"gpus_per_node": 8, "nodes": 5},
        {},
        ["train_sft asks for 5 nodes; partition gpu gives a job at most 4"],
    ),
    "too long": (
        {"stages": {"train_sft": {"hours": 48}}},
        {},
        ["train_sft asks for 48 hours; partition gpu allows 24.", "cluster.max_hours"],
    ),
    "too short for a save": (
        {"save_margin_seconds": 300},
        {"runtime": 5},
        ["The time limit of train_sft, 5 min, is shorter than one save.", "at least 6 min"],
    ),
    "above the profile's cap": (
        {"gpus_per_node": 8, "nodes": 4},
        {"cap": 16},
        ["train_sft asks for 32 GPUs in all; the cap is 16.", "total_gpus"],
    ),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_what_the_cluster_would_refuse(problem: str, slurm: FakeCluster) -> None:
    cluster, resources, expected = PROBLEMS[problem]
    text = refusal(configuration(**cluster), **resources)
    for part in expected:
        assert part in text
    assert text.count("to do:") == 1


def test_all_problems_at_once(slurm: FakeCluster) -> None:
    text = refusal(configuration(gpus_per_node=16), slurm_account="", cap=8)
    assert [line for line in text.splitlines() if not line.startswith(" ")] == [
        "No account is given.",
        "train_sft asks for 16 GPUs on each node; partition gpu has at most 8.",
        "train_sft asks for 16 GPUs in all; the cap is 8.",
    ]


def test_one_of_several_partitions_is_enough(slurm: FakeCluster) -> None:
    config = configuration(gpus_per_node=8)
    asked = request(config, "train_sft", slurm_partition="cpu,gpu")
    assert check(config, [], [asked], "squeue", 64) == []


def test_no_slurm_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    text = refusal(configuration())
    assert "SLURM does not answer" in text
    assert "with --profile local" in text


def test_slurm_is_down(slurm: FakeCluster) -> None:
    error = "slurm_load_ctl_conf error: Unable to contact slurm controller (connect failure)"
    slurm.answer("scontrol", "", error=error, code=1)
    assert error in refusal(configuration())


def test_a_user_without_any_account(slurm: FakeCluster) -> None:
    slurm.answer("sacctmgr", "")
    assert "ask the cluster's administrators for one" in refusal(configuration())


def test_a_site_without_accounting_is_fine_with_squeue(slurm: FakeCluster) -> None:
    slurm.without_accounting()
    config = configuration()
    asked = [request(config, "train_sft", slurm_account="")]
    notes = check(config, [], asked, "squeue", 64)
    assert notes == ["This cluster keeps no accounting: squeue alone says how jobs ended."]
    assert "sacct knows nothing of jobs" in refusal(config, status="sacct", slurm_account="")
    assert "This cluster keeps no accounts, but lab is given." in refusal(config)


@pytest.mark.parametrize(
    ("accounting", "advice"), [(True, "slurm-status-command: sacct"), (False, "raise MinJobAge")]
)
def test_a_cluster_that_forgets_its_jobs_at_once(
    accounting: bool, advice: str, slurm: FakeCluster
) -> None:
    if not accounting:
        slurm.without_accounting()
    settings = slurm.folder / "scontrol"
    settings.write_text(settings.read_text().replace("300 sec", "60 sec"))
    text = refusal(configuration(), slurm_account="lab" if accounting else "")
    assert "squeue forgets a finished job after 60 s" in text
    assert advice in text


def in_images() -> Config:
    values = yaml.safe_load((REPOSITORY / TINY).read_text())
    values["runtime"]["containers"] = "apptainer"
    return load_config(values)


def test_images_and_their_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "images").mkdir()
    (tmp_path / "images/train-0123456789ab.sif").touch()
    with pytest.raises(ClusterError) as caught:
        check(in_images(), [("train_ppo", "final")], [], "squeue", 64)
    problems = [line for line in str(caught.value).splitlines() if not line.startswith(" ")]
    assert problems == [
        "There is no container runtime on this machine.",
        "The image of kind serve is not built yet.",
        "The image of kind train is stale.",
    ]
