"""What another user of the machine tries: ``python -m intruder`` as root, with JSON on stdin.

Everything is imported first, what is imported at a first call too: that user may not be able to
read this environment, which may lie in a private home.
"""

from __future__ import annotations

import json
import os
import pwd
import signal
import sys
from pathlib import Path

import grpc
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException


def outcome(act) -> str:
    try:
        act()
    except PermissionError:
        return "not permitted"
    except InferenceServerException as error:
        return error.status().removeprefix("StatusCode.")
    return "done"


def requests(given) -> dict:
    known_by = grpc.ssl_channel_credentials(given["ca"].encode())
    server = InferenceServerClient(given["endpoint"], creds=known_by)
    return {
        "ask": server.get_server_metadata,
        "unload": lambda: server.unload_model(given["kind"]),
        "share memory": server.get_system_shared_memory_status,
    }


def main() -> None:
    given = json.load(sys.stdin)
    user = pwd.getpwnam("nobody")
    for act in requests(given).values():
        outcome(act)  # for what it imports; without a certificate root is refused, too
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    tries = {f"read {path}": Path(path).read_bytes for path in given["paths"]}
    tries |= {f"stop {pid}": lambda pid=pid: os.kill(pid, signal.SIGTERM) for pid in given["pids"]}
    tries |= requests(given)
    print(json.dumps({name: outcome(act) for name, act in tries.items()}))


if __name__ == "__main__":
    main()
