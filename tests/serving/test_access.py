"""Who may use a server: this job's clients, and nobody else on the machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from support.programs import FOLDER
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from rlhf.errors import ServingError
from rlhf.runtime.processes import descendants
from rlhf.runtime.tls import Certificates, make_certificates


def test_only_the_owner_reads_the_keys(certificates):
    assert certificates.folder.stat().st_mode & 0o777 == 0o700
    files = list(certificates.folder.iterdir())
    assert {path.name for path in files} == {
        "ca.pem", "server.pem", "server.key", "client.pem", "client.key"
    }  # fmt: skip
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    with pytest.raises(FileExistsError):
        make_certificates(certificates.folder)


@pytest.mark.parametrize("lost", ["ca", "client_cert", "client_key"])
def test_certificates_that_can_not_be_used(connect, servers, reward, certificates, tmp_path, lost):
    """gRPC would abort the process for some of these."""
    mine = Certificates(shutil.copytree(certificates.folder, tmp_path / "tls"))
    path = getattr(mine, lost)
    for spoil in (lambda: path.write_text("-----BEGIN"), path.unlink):
        spoil()
        with pytest.raises(ServingError, match="certificates can't be used") as caught:
            connect(servers["reward"], reward, certificates=mine)
        assert caught.value.where == mine.folder


def test_key_of_another_job(connect, servers, reward, certificates, other_certificates, tmp_path):
    mine = Certificates(shutil.copytree(certificates.folder, tmp_path / "tls"))
    shutil.copy(other_certificates.client_key, mine.client_key)
    with pytest.raises(ServingError, match=r"(?i)mismatch"):
        connect(servers["reward"], reward, certificates=mine)


def test_clients_without_this_jobs_certificate(servers, certificates, other_certificates):
    ca = certificates.ca.read_bytes()

    def shows(key: Path, cert: Path) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(ca, key.read_bytes(), cert.read_bytes())

    other = other_certificates
    for known_by in (
        None,  # plain text
        grpc.ssl_channel_credentials(ca),  # no certificate
        shows(other.client_key, other.client_cert),
        shows(certificates.server_key, certificates.server_cert),  # not meant for clients
    ):
        client = InferenceServerClient(
            servers["reward"].endpoint,
            creds=known_by,
            channel_args=[("grpc.use_local_subchannel_pool", 1)],
        )
        for call in (
            client.is_server_live,
            client.get_server_metadata,
            lambda client=client: client.unload_model("reward"),
        ):
            with pytest.raises(InferenceServerException, match="Socket closed"):
                call()
    assert servers["reward"].healthy()


@pytest.mark.parametrize("theirs", ["ca", "client"])
def test_a_server_of_another_job(
    connect, servers, reward, certificates, other_certificates, tmp_path, theirs
):
    """An error, after one more try at most: waiting would not help."""
    mine = Certificates(shutil.copytree(certificates.folder, tmp_path / "tls"))
    for path in other_certificates.folder.glob(f"{theirs}.*"):
        shutil.copy(path, mine.folder)
    began = time.monotonic()
    with (
        connect(servers["reward"], reward, certificates=mine) as scorer,
        pytest.raises(ServingError, match="do not trust each other") as caught,
    ):
        scorer.rewards([np.array([1, 2])])
    assert time.monotonic() - began < 100  # its patience is longer
    assert "RLHF_TLS" in str(caught.value)


def test_one_port_on_the_loopback_and_no_http(servers):
    for server in servers.values():
        listening = {
            (socket.laddr.ip.removeprefix("::ffff:"), socket.laddr.port)
            for pid in (server.pid, *descendants(server.pid))
            for socket in psutil.Process(pid).net_connections("inet")
            if socket.status == psutil.CONN_LISTEN
        }
        assert listening == {("127.0.0.1", server._port)}


def test_another_user_of_the_machine(servers, certificates):
    if os.geteuid() != 0:  # as root, where CI runs
        pytest.skip("only root can try things as another user")
    server = servers["reward"]
    memory = [str(path) for path in Path("/dev/shm").glob(f"{server._name}*")]
    processes = [server.pid, *descendants(server.pid)]
    assert memory
    assert len(processes) == 2
    secrets = [str(path) for path in certificates.folder.iterdir()]
    secrets += [f"/proc/{pid}/{name}" for pid in processes for name in ("environ", "mem")]
    given = {
        "ca": certificates.ca.read_text(),
        "endpoint": server.endpoint,
        "kind": server.kind,
        "paths": [*secrets, *memory],
        "pids": processes,
    }
    done = subprocess.run(
        [sys.executable, "-m", "intruder"], cwd=FOLDER, input=json.dumps(given),
        text=True, capture_output=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    assert len(outcomes) == len(given["paths"]) + len(processes) + 3
    for tried, outcome in outcomes.items():
        online = tried in ("ask", "unload", "share memory")
        assert outcome == ("UNAVAILABLE" if online else "not permitted"), tried
    assert server.healthy()
