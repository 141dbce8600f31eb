"""Command lines and environments, word by word; tests/container runs them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from rlhf.errors import RlhfError
from rlhf.launch.allocation import Allocation
from rlhf.launch.containers import (
    CODE,
    GUARDED,
    Host,
    choose_environment,
    environments,
    python_command,
)
from rlhf.launch.dry_run import describe

SCRATCH = Path("/scratch/rlhf-launch-1")


@pytest.fixture
def runtimes(monkeypatch, tmp_path):
    """Makes these programs the only ones on PATH."""

    def put(*names: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        for name in names:
            (folder / name).touch(mode=0o755)
        monkeypatch.setenv("PATH", str(folder))

    return put


def image(**changes):
    return choose_environment(
        Path("images/train-1.sif"), **{"gpus": False, "binds": (), "scratch": SCRATCH} | changes
    )


def test_bare(monkeypatch):
    monkeypatch.setenv("HERE", "1")
    bare = choose_environment(None, gpus=True, binds=(), scratch=SCRATCH)
    bare.check()
    assert python_command(bare, "m", "a b") == [sys.executable, "-m", "m", "a b"]
    assert bare.environment({"X": "1"}) == {**os.environ, "X": "1"}


def test_an_image_on_the_cpu(runtimes, tmp_path):
    runtimes("singularity", "apptainer")
    assert python_command(image(), "m", "a b") == [
        *GUARDED, "apptainer", "exec", "--cleanenv", f"--home={SCRATCH}/home", f"--bind={tmp_path}",
        f"--bind={CODE}", f"--bind={SCRATCH}", f"--pwd={tmp_path}", "images/train-1.sif",
        "python", "-m", "m", "a b",
    ]  # fmt: skip


def test_an_image_on_gpus_with_folders_more(runtimes, tmp_path):
    runtimes("singularity")
    inside = image(gpus=True, binds=(Path("/data/sets"), tmp_path / "within", Path("/data")))
    assert inside.prefix() == [
        *GUARDED, "singularity", "exec", "--nv", "--cleanenv", f"--home={SCRATCH}/home",
        f"--bind={tmp_path}", f"--bind={CODE}", f"--bind={SCRATCH}", "--bind=/data/sets",
        "--bind=/data", f"--pwd={tmp_path}", "images/train-1.sif",
    ]  # fmt: skip


@pytest.mark.parametrize("runtime", ["apptainer", "singularity"])
def test_what_is_seen_inside(runtimes, monkeypatch, runtime):
    runtimes(runtime)
    prefix = f"{runtime.upper()}ENV_"
    for name in ("HF_TOKEN", "WANDB_API_KEY", "NCCL_DEBUG", "RLHF_ATTEMPT", "SLURM_JOB_ID"):
        monkeypatch.setenv(name, f"own {name}")
    for name in ("SLURM_NTASKS", "PYTHONPATH", "LD_LIBRARY_PATH", "SSH_AUTH_SOCK"):
        monkeypatch.setenv(name, "of the host")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    started = image().environment({"CUDA_VISIBLE_DEVICES": "2", "TMPDIR": "/t"})
    inside = {k.removeprefix(prefix): v for k, v in started.items() if k.startswith(prefix)}
    assert inside.pop("LANG", None) == os.environ.get("LANG")
    assert inside.pop("TZ", None) == os.environ.get("TZ")
    assert {name for name in inside if inside[name] == f"own {name}"} == {
        "HF_TOKEN", "WANDB_API_KEY", "NCCL_DEBUG", "RLHF_ATTEMPT", "SLURM_JOB_ID",
    }  # fmt: skip
    assert started[f"{runtime.upper()}_NO_EVAL"] == "1", "it would run what a value says"
    assert inside["CUDA_VISIBLE_DEVICES"] == "2"
    assert inside["TMPDIR"] == "/t"
    assert inside["PYTHONPATH"] == str(CODE)
    assert not inside.keys() & {"SLURM_NTASKS", "LD_LIBRARY_PATH", "SSH_AUTH_SOCK", "PATH"}
    assert "own HF_TOKEN" not in " ".join(image().prefix()), "everybody can read a command line"


def test_certificates_and_caches_are_seen_inside(runtimes, monkeypatch, tmp_path):
    runtimes("apptainer")
    site = tmp_path.parent / "site"
    (site / "cache").mkdir(parents=True)
    (site / "ca.pem").touch()
    (site / "compiled").mkdir()
    (tmp_path / "own.pem").touch()
    paths = {
        "SSL_CERT_FILE": site / "ca.pem",
        "REQUESTS_CA_BUNDLE": tmp_path / "own.pem",
        "CURL_CA_BUNDLE": site / "missing.pem",
        "HF_HOME": site / "cache",
        "TORCHINDUCTOR_CACHE_DIR": site / "compiled",
    }
    for name, path in paths.items():
        monkeypatch.setenv(name, str(path))
    started = image().environment({})
    assert {name: started[f"APPTAINERENV_{name}"] for name in paths} == {
        name: str(path) for name, path in paths.items()
    }
    assert image().binds == (
        tmp_path,
        CODE,
        SCRATCH,
        *(site / name for name in ("cache", "ca.pem", "compiled")),
    )


def test_no_secret_of_the_environment_is_said(runtimes, monkeypatch, options):
    runtimes("apptainer")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:pa55word@proxy:3128")
    monkeypatch.setenv("HF_TOKEN", "pa55word")
    said = describe(options("--image images/train-1.sif --serve reward=s"), Allocation())
    assert "apptainer exec" in said
    assert "pa55word" not in said


def test_the_servers_may_have_an_image_of_their_own(options):
    given = options("--serve-image serve.sif --sample-image sample.sif")
    ranks, servers, sampler = environments(given, SCRATCH)
    assert isinstance(ranks, Host)
    assert servers.prefix()[-1] == "serve.sif"
    assert sampler.prefix()[-1] == "sample.sif"


def test_what_is_missing_is_said(runtimes, tmp_path):
    runtimes()
    with pytest.raises(RlhfError, match="no container runtime"):
        image().check()
    runtimes("apptainer")
    with pytest.raises(RlhfError, match="The image is missing") as caught:
        image().check()
    assert "rlhf images build" in str(caught.value)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "train-1.sif").touch()
    with pytest.raises(RlhfError, match="folder that the image is to see is missing") as caught:
        image(scratch=tmp_path, binds=(Path("/no/such"),)).check()
    assert caught.value.where == Path("/no/such")
    image(scratch=tmp_path).check()
