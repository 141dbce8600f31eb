"""What `snakemake --profile slurm` hands to sbatch, against fake SLURM commands."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.fakes.cluster import FakeCluster
from support.projects import TINY, Project

from rlhf.pipeline.lost_jobs import plain_state

GOLDEN = Path(__file__).parent / "golden/sbatch.txt"

SFT_INPUTS = ["models/tiny", "tokenized/conversation/tiny/demo"]
PPO_INPUTS = [
    "datasets/demo",
    "sft/chat",
    "reward/helpful",
    "tokenized/prompt/tiny/demo",
    "store/reward/helpful",
    "store/reference/chat",
]
CASES = {
    "SFT on the CPU": ({}, "sft/chat", SFT_INPUTS),
    "SFT on 1 GPU": ({"gpus_per_node": 1, "server_gpus": 0}, "sft/chat", SFT_INPUTS),
    "SFT on 8 GPUs": ({"gpus_per_node": 8}, "sft/chat", SFT_INPUTS),
    "SFT on 2 nodes of 8 GPUs": ({"gpus_per_node": 8, "nodes": 2}, "sft/chat", SFT_INPUTS),
    "PPO with its two servers on 8 GPUs": ({"gpus_per_node": 8}, "ppo/final", PPO_INPUTS),
    "PPO with its two servers on 2 nodes of 8 GPUs": (
        {"gpus_per_node": 8, "nodes": 2, "gpu_type": "h200"},
        "ppo/final",
        PPO_INPUTS,
    ),
}


class Login:
    """A login node: a project, and a cluster that only pretends."""

    def __init__(self, project: Project, slurm: FakeCluster) -> None:
        self.project, self.slurm = project, slurm

    def configure(self, cluster: dict[str, object]) -> None:
        """Set the section ``cluster`` of the configuration."""
        path = self.project.folder / TINY
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"cluster": cluster}))

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run snakemake with the profile, looking at its jobs often."""
        profile = [] if "--profile" in arguments else ["--profile", "slurm"]
        polls = ["--slurm-init-seconds-before-status-checks", "1"]
        return subprocess.run(
            ["snakemake", *profile, *polls, *arguments, "--configfile", TINY],
            cwd=self.project.folder,
            env=self.project.environment() | {"PATH": self.slurm.path()},
            capture_output=True,
            text=True,
            timeout=1800,
        )

    def pretend(self, *artifacts: str) -> None:
        """Put empty manifests in the place of what earlier stages would have made."""
        for artifact in artifacts:
            manifest = self.project.folder / "results" / artifact / "manifest.json"
            manifest.parent.mkdir(parents=True, exist_ok=True)
            manifest.write_text("{}")

    def submit(self, artifact: str, inputs: list[str], *arguments: str) -> str:
        """Let snakemake submit the job of one artifact; what snakemake said."""
        checked = f"rows/{artifact.replace('/', '.')}"
        sets = [f"tokenized/{view}/tiny/demo" for view in ("conversation", "preference", "prompt")]
        # parents first: by their times nothing is stale
        self.pretend(*dict.fromkeys(["models/tiny", "datasets/demo", *sets, *inputs, checked]))
        (self.project.folder / "results" / checked / "rows.json").write_text("{}")
        only = ["--rerun-triggers", "mtime", "--printshellcmds"]
        done = self.snakemake(f"results/{artifact}/manifest.json", *only, *arguments)
        return done.stdout + done.stderr


@pytest.fixture
def login(tmp_path: Path) -> Login:
    return Login(Project.clone(tmp_path / "project"), FakeCluster(tmp_path))


def rendered(login: Login, said: str) -> str:
    """The call of sbatch and the call of the launcher in it, without what differs each time."""
    (arguments,) = login.slurm.submitted()
    call = shlex.join(["sbatch", *arguments[:-1]])
    assert arguments[-1].startswith("--wrap=")
    call = re.sub(r"rlhf_[0-9a-f-]{36}", "rlhf_RUN", call)
    call = call.replace(str(login.project.folder), "PROJECT")
    (launch,) = re.findall(r"^Shell command: (rlhf launch .*? -- rlhf\.stages\.\w+)", said, re.M)
    return f"{call} --wrap=…\n{launch} …\n"


@pytest.mark.parametrize("case", CASES)
def test_jobs_are_submitted_as_agreed(case: str, login: Login) -> None:
    cluster, artifact, inputs = CASES[case]
    login.configure(cluster)
    login.slurm.sbatch(code=1)
    said = login.submit(artifact, inputs, "--retries", "0")
    golden = dict(re.findall(r"^# (.*)\n((?:[^#\n].*\n)+)", GOLDEN.read_text(), re.M))
    assert rendered(login, said) == golden[case]


@pytest.mark.parametrize("profile", ["slurm", "profiles/slurm"])
def test_both_names_of_the_profile_work(profile: str, login: Login) -> None:
    done = login.snakemake("--profile", profile, "--dry-run")
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    assert "slurm_partition=gpu" in text
    assert login.slurm.submitted() == []


def test_what_can_not_run_is_refused_before_anything_is_submitted(login: Login) -> None:
    login.configure({"gpus_per_node": 16})
    for _ in range(2):  # and the folder is not left locked
        text = login.submit("sft/chat", SFT_INPUTS)
        assert "train_sft asks for 16 GPUs on each node; partition gpu has at most 8." in text
        assert "Traceback" not in text
    assert login.slurm.submitted() == []


def test_a_preempted_job_is_seen_to_have_ended(login: Login) -> None:
    login.slurm.answer("squeue", "1|PREEMPTED")
    text = login.submit("sft/chat", SFT_INPUTS, "--retries", "0")
    assert "SLURM-job '1' failed" in text


@pytest.mark.parametrize(
    ("state", "known"),
    [
        ("PREEMPTED", "CANCELLED"),
        ("CANCELLED by 1000", "CANCELLED"),
        ("NODE_FAIL", "NODE_FAIL"),
        ("RUNNING", "RUNNING"),
        ("", ""),
    ],
)
def test_how_a_job_ended_is_told_to_the_plugin(state: str, known: str) -> None:
    assert plain_state(state) == known


def test_stages_that_need_a_network_are_not_submitted(login: Login) -> None:
    done = login.snakemake("results/datasets/demo/manifest.json")
    assert done.returncode == 0, done.stderr
    assert (login.project.folder / "results/datasets/demo/manifest.json").exists()
    assert login.slurm.submitted() == []


QUOTED = """
from rlhf.pipeline.quoted import quote_python
quote_python()
quote_python()
from snakemake_executor_plugin_slurm_jobstep import Executor
print(Executor.get_python_executable(None))
"""


def test_an_environment_may_lie_in_a_path_with_a_space(tmp_path):
    (tmp_path / "an environment").symlink_to(sys.prefix)
    for folder in (Path(sys.prefix), tmp_path / "an environment"):
        python = folder / "bin" / "python"
        found = subprocess.run([python, "-c", QUOTED], capture_output=True, text=True, check=True)
        line = f"{found.stdout.strip()} -c 'print(2 + 3)'"
        said = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)
        assert said.stdout == "5\n"
