"""The hub's own HTTP, as far as its client needs it here, on loopback: one repository in memory.

What a request must look like is known from huggingface_hub, which sends it. The hub itself is not
asked. `python -m tests.lmdata.hub PORT` serves it until it is ended.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

SMALL_BYTES = 600  # what is larger is sent as a large file, before the commit


class Hub:
    """Commits of the repository `datasets/me/mine`, and what goes wrong on purpose."""

    def __init__(self) -> None:
        self.commits: list[dict[str, bytes]] = [{".gitattributes": b"* -text\n"}]
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.ignored: set[str] = set()  # paths that its .gitignore names
        self.lost = 0  # commits that are made and answered by 500
        self.failing = 0  # commits that are not made and answered by 500
        self.others = 0  # commits of somebody else that come first
        self.lock = threading.Lock()

    def name(self, number: int) -> str:
        return hashlib.sha1(f"commit {number}".encode()).hexdigest()

    def number(self, revision: str) -> int | None:
        if revision == "main":
            return len(self.commits) - 1
        return next((n for n in range(len(self.commits)) if self.name(n) == revision), None)

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1]

    def commit(self, lines: list[dict[str, Any]]) -> tuple[int, Any]:
        """Make a commit upon the one that its header names."""
        if self.others:
            self.others -= 1
            self.commits.append({**self.files, "other.txt": b"of another"})
        if self.failing:
            self.failing -= 1
            return 500, {"error": "before it was made"}
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit", self.name(len(self.commits) - 1)) != self.name(
            len(self.commits) - 1
        ):
            return 412, {"error": "A commit has happened since. Please refresh and try again."}
        files = dict(self.files)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        self.commits.append(files)
        if self.lost:
            self.lost -= 1
            return 500, {"error": "after it was made"}
        name = self.name(len(self.commits) - 1)
        return 200, {"commitUrl": f"/commit/{name}", "commitOid": name, "success": True}


@contextmanager
def serve_hub(port: int = 0) -> Iterator[tuple[Hub, str]]:
    """Serve a hub, and yield it with its address."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing is logged."""

    def _answer(self, status: int, value: Any = None, data: bytes = b"", code: str = "") -> None:
        body = data if value is None else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self) -> bytes:
        """Read what was sent; large files come in chunks, each behind its size."""
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _route(self) -> None:
        body = self._body()
        path = unquote(urlparse(self.path).path)
        with self.hub.lock:
            self.hub.requests.append(f"{self.command} {path}")
            for method, pattern, action in _ROUTES:
                if method in (self.command, "") and (found := re.fullmatch(pattern, path)):
                    if self.hub.number(found.groupdict().get("revision") or "main") is None:
                        return self._answer(404, {"error": "no"}, code="RevisionNotFound")
                    return action(self, found, body)
        return self._answer(404, {"error": "Repository not found"}, code="RepoNotFound")

    do_GET = do_POST = do_PUT = do_HEAD = _route

    def _files(self, found: re.Match[str]) -> dict[str, bytes]:
        number = self.hub.number(found["revision"])
        assert number is not None
        return self.hub.commits[number]

    def _info(self, found: re.Match[str], body: bytes) -> None:
        number = self.hub.number(found["revision"] or "main")
        assert number is not None
        name = self.hub.name(number)
        self._answer(200, {"id": "me/mine", "sha": name, "siblings": [], "tags": []})

    def _tree(self, found: re.Match[str], body: bytes) -> None:
        files, folder = self._files(found), (found["path"] or "").strip("/")
        prefix = f"{folder}/" if folder else ""
        is_deep = parse_qs(urlparse(self.path).query).get("recursive", ["false"])[0].lower()
        entries: dict[str, dict[str, Any]] = {}
        for name, data in files.items():
            if name.startswith(prefix):
                rest = name.removeprefix(prefix).split("/")
                for depth in range(1, len(rest) if is_deep in ("true", "1") else min(len(rest), 2)):
                    path = prefix + "/".join(rest[:depth])
                    entries[path] = {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}
                if is_deep in ("true", "1") or len(rest) == 1:
                    entries[name] = _entry(name, data)
        if folder and not entries:
            return self._answer(404, {"error": "no"}, code="EntryNotFound")
        return self._answer(200, list(entries.values()))

    def _paths(self, found: re.Match[str], body: bytes) -> None:
        files = self._files(found)
        if "json" in (self.headers.get("Content-Type") or ""):
            asked = json.loads(body)["paths"]
        else:
            asked = parse_qs(body.decode())["paths"]
        self._answer(200, [_entry(name, files[name]) for name in asked if name in files])

    def _preupload(self, found: re.Match[str], body: bytes) -> None:
        files = [
            {"path": file["path"], "uploadMode": "lfs" if file["size"] > SMALL_BYTES else "regular",
             "shouldIgnore": file["path"] in self.hub.ignored}
            for file in json.loads(body)["files"]
        ]  # fmt: skip
        self._answer(200, {"files": files})

    def _batch(self, found: re.Match[str], body: bytes) -> None:
        host = self.headers["Host"]
        objects = [
            {"oid": each["oid"], "size": each["size"],
             "actions": {"upload": {"href": f"http://{host}/large/{each['oid']}"}}}
            for each in json.loads(body)["objects"]
        ]  # fmt: skip
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _put(self, found: re.Match[str], body: bytes) -> None:
        assert hashlib.sha256(body).hexdigest() == found["oid"]
        self.hub.large[found["oid"]] = body
        self._answer(200, {})

    def _commit(self, found: re.Match[str], body: bytes) -> None:
        status, value = self.hub.commit([json.loads(line) for line in body.splitlines()])
        self._answer(status, value)

    def _resolve(self, found: re.Match[str], body: bytes) -> None:
        data = self._files(found).get(found["path"])
        if data is None:
            return self._answer(404, {"error": "no"}, code="EntryNotFound")
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or ""):
            return self._answer(206, data=data[int(wanted[1]) : int(wanted[2]) + 1])
        return self._answer(200, data=data)


def _entry(name: str, data: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}


_REPO = r"/api/datasets/me/mine"
_REVISION = r"(?P<revision>[^/]+)"
_ROUTES: list[tuple[str, str, Any]] = [
    ("GET", rf"{_REPO}(/revision/{_REVISION})?", _Handler._info),
    ("GET", rf"{_REPO}/tree/{_REVISION}(?P<path>/.*)?", _Handler._tree),
    ("POST", rf"{_REPO}/paths-info/{_REVISION}", _Handler._paths),
    ("POST", rf"{_REPO}/preupload/{_REVISION}", _Handler._preupload),
    ("POST", r"/datasets/me/mine\.git/info/lfs/objects/batch", _Handler._batch),
    ("PUT", r"/large/(?P<oid>[0-9a-f]{64})", _Handler._put),
    ("POST", rf"{_REPO}/commit/{_REVISION}", _Handler._commit),
    ("", rf"/datasets/me/mine/resolve/{_REVISION}/(?P<path>.+)", _Handler._resolve),
]


if __name__ == "__main__":
    with serve_hub(int(sys.argv[1])) as (_, address):
        sys.stdout.write(f"{address}\n")
        sys.stdout.flush()
        threading.Event().wait()
