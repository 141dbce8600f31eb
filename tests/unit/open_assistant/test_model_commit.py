"""Which commit a model is at, from a stand-in for the hub on loopback."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rlhf.errors import ConfigError
from rlhf.open_assistant.hub import commit_of


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_args):
        pass

    def do_GET(self):
        found = self.path == "/api/models/acme/tiny"
        body = json.dumps({"id": "acme/tiny", "sha": "d" * 40} if found else {}).encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def hub(monkeypatch):
    import huggingface_hub.constants as constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    yield server
    server.shutdown()
    server.server_close()


def test_the_newest_commit(hub):
    assert commit_of("acme/tiny") == "d" * 40


def test_a_draft_takes_it(hub, translate):
    draft = translate("sft", "oasst_export_eu galactica-125m --model_name acme/tiny", revision=None)
    assert draft.values["models"]["tiny"]["source"] == {"hub": "acme/tiny", "revision": "d" * 40}
    assert "models: the newest commit of acme/tiny on the hub" in draft.dispositions.notes


def test_no_such_model(hub):
    with pytest.raises(ConfigError, match="--revision COMMIT"):
        commit_of("acme/absent")


def test_no_network(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(ConfigError, match="does not say which commit acme/tiny is at"):
        commit_of("acme/tiny")


def test_not_an_id(hub):
    with pytest.raises(ConfigError, match="--revision COMMIT"):
        commit_of("a model")
