"""Stands in for a vLLM server: its routes, in a process of their own, without a model.

``python fake_vllm.py CERTIFICATES PORT LOG MOOD NAME…``. It answers the same to the same row, by
the weights that it was given last, and keeps every request in the log. As MOOD says it answers
as it should (``well``), with something else, or fails its first rows.
"""

from __future__ import annotations

import json
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

certificates, port, log, mood, *names = sys.argv[1:]
state: dict[str, Any] = {"version": None, "rows": 0}
lock = threading.Lock()


def generate(body: dict[str, Any]) -> tuple[int, Any]:
    with lock:
        state["rows"] += 1
    if mood == "refuses":
        return 400, {"error": "the prompt is too long"}
    if mood == "fails" and state["rows"] <= 2:
        return 500, {"error": "the engine is dead"}
    if mood == "hangs" and state["rows"] == 1:
        time.sleep(600)
    eos, seed = body["sampling_params"]["stop_token_ids"][0], body["sampling_params"]["seed"]
    ids = [*body["token_ids"], seed, eos][-body["sampling_params"]["max_tokens"] :]
    weights = len(state["version"] or "")
    logprobs = [-(weights + i) / 8 for i in range(len(ids))]
    if mood == "nan":
        logprobs[0] = float("nan")
    content = [{"token_id": i, "logprob": p} for i, p in zip(ids, logprobs, strict=True)]
    if mood == "short":
        content.pop()
    versions = [{"version": state["version"], "start": 0, "end": len(ids)}]
    choice = {"token_ids": ids, "logprobs": {"content": content}, "weight_versions": versions}
    return 200, {"choices": [{} if mood == "empty" else choice]}


def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
    route = path.partition("?")[0]
    if route == "/inference/v1/generate":
        return generate(body)
    if route == "/update_weight_version":
        state["version"] = body["new_version"]
    known = {
        "/v1/models": {"data": [{"id": name} for name in names]},
        "/version": {"version": "1.2.3"},
        "/weight_info": {"weight_version": state["version"]},
        "/reset_prefix_cache": {"success": True},
    }
    empty = ("/health", "/pause", "/resume", "/collective_rpc", "/update_weight_version")
    return (200, known.get(route)) if route in {*known, *empty} else (404, {})


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(size)) if size else {}
        status, content = answer(self.path, body)
        with lock, open(log, "a") as kept:
            kept.write(json.dumps([self.path, body]) + "\n")
        text = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128

    def finish_request(self, request: Any, address: Any) -> None:
        """The handshake in the request's own thread: one that is refused must not hold others."""
        super().finish_request(context.wrap_socket(request, server_side=True), address)

    def handle_error(self, *_: object) -> None:
        pass


folder = Path(certificates)
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.pem"))
context.load_cert_chain(folder / "server.pem", folder / "server.key")
context.verify_mode = ssl.CERT_REQUIRED
Server(("127.0.0.1", int(port)), Handler).serve_forever()
