"""A stand-in for the hub's file API on loopback: listing, HEAD, GET with ranges, tokens, faults.

It serves the same files, with the same faults, at the plain addresses ``/files/NAME`` too.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit


@dataclass
class Hub:
    """One repository at one commit, and how it is to misbehave."""

    folder: Path
    repo: str = "acme/tiny"
    revision: str = "a" * 40
    token: str | None = None
    gated: bool = False
    cut: dict[str, int] = field(default_factory=dict)  # file → how often it is cut in the middle
    wrong: dict[str, int] = field(default_factory=dict)  # file → how often other bytes are sent
    large: set[str] = field(default_factory=set)  # listed as LFS files, with their sha256
    branches: set[str] = field(default_factory=set)  # other names of the commit
    busy: int = 0  # how many requests are answered 503, or as `away` says
    away: int = 503
    limited: int = 0  # how many requests are answered 429, with Retry-After: 7
    lost: set[str] = field(default_factory=set)  # listed, but not there
    extra: list[str] = field(default_factory=list)  # listed besides
    requests: Counter = field(default_factory=Counter)
    ranges: list[str] = field(default_factory=list)
    resumes: bool = True  # whether it answers a Range with a part
    tags: bool = True  # whether it sends ETags
    plain: bool = False  # whether these are plain sha1, as of mirrors that know nothing of git
    url: str = ""


def digest(content: bytes, large: bool) -> str:
    """What the hub names a file by: its sha256 in LFS, else git's sha1."""
    if large:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_args):
            pass

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            headers.setdefault("Content_Length", str(len(body)))
            for key, value in headers.items():
                self.send_header(key.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def refuse(self, status: int, code: str = "") -> None:
            self.answer(status, X_Error_Code=code, X_Error_Message=code or "refused")

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = urlsplit(self.path).path.replace("%2F", "/")
            hub.requests[self.command, path] += 1
            if hub.busy:
                hub.busy -= 1
                return self.refuse(hub.away)
            if hub.limited:
                hub.limited -= 1
                return self.answer(429, Retry_After="7")
            if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self.refuse(401)
            if hub.gated:
                return self.refuse(403, "GatedRepo")
            if path.startswith("/files/"):
                return self.file(path.removeprefix("/files/"))
            match = re.fullmatch(
                r"/(?:api/(?:models|datasets)/(?P<api>[^/]+/[^/]+)/(?:tree|revision)/(?P<commit>.+)"
                r"|(?:datasets/)?(?P<repo>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<file>.+))",
                path,
            )
            if not match or hub.repo not in (match["api"], match["repo"]):
                return self.refuse(404, "RepoNotFound")
            if (match["commit"] or match["rev"]) not in {hub.revision, *hub.branches}:
                return self.refuse(404, "RevisionNotFound")
            return self.file(match["file"]) if match["file"] else self.listing("/tree/" in path)

        def listing(self, tree: bool) -> None:
            files = sorted(path for path in hub.folder.rglob("*") if path.is_file())
            names = [path.relative_to(hub.folder).as_posix() for path in files]
            contents = {name: path.read_bytes() for name, path in zip(names, files, strict=True)}
            contents |= dict.fromkeys(hub.extra, b"{}")
            if tree:
                value = [self.listed(name, content) for name, content in contents.items()]
            else:
                siblings = [{"rfilename": name} for name in contents]
                value = {"id": hub.repo, "sha": hub.revision, "siblings": siblings}
            self.answer(200, json.dumps(value).encode(), Content_Type="application/json")

        def listed(self, name: str, content: bytes) -> dict:
            entry = {"type": "file", "path": name, "size": len(content)}
            if name in hub.large:
                lfs = {"oid": digest(content, large=True), "size": len(content), "pointerSize": 130}
                return entry | {"oid": "0" * 40, "lfs": lfs}
            return entry | {"oid": digest(content, large=False)}

        def file(self, name: str) -> None:
            if name in hub.lost or not (hub.folder / name).is_file():
                return self.refuse(404, "EntryNotFound")
            body = (hub.folder / name).read_bytes()
            tag = f'"{digest(body, name in hub.large)}"'
            if hub.plain:
                tag = f'"{hashlib.sha1(body).hexdigest()}"'
            headers = {"ETag": tag, "X_Repo_Commit": hub.revision, "Accept_Ranges": "bytes"}
            if not hub.tags:
                del headers["ETag"]
            if self.headers.get("If-None-Match") == tag:
                return self.answer(304)
            status, start = 200, 0
            found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
            if found and hub.resumes and self.headers.get("If-Range", tag) == tag:
                status, start = 206, int(found[1])
                headers["Content_Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
                hub.ranges.append(f"{name}:{start}")
            if self.command == "GET" and hub.wrong.get(name):
                hub.wrong[name] -= 1
                body = bytes(255 - byte for byte in body)
            rest = body[start:]
            headers["Content_Length"] = str(len(rest))
            if self.command == "GET" and hub.cut.get(name):
                hub.cut[name] -= 1
                rest = rest[: len(rest) // 2]
                self.close_connection = True
            return self.answer(status, rest, **headers)

    return Handler


@contextmanager
def serve(folder: Path):
    """Serve ``folder`` as a repository; yields the hub, whose faults may be set at any time."""
    hub = Hub(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
