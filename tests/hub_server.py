"""A stand-in of the Hugging Face Hub on loopback: repositories, branches, commits, large files.

It answers what `huggingface_hub` asks when it creates, uploads and downloads, and keeps files in
memory. Files of 1 kB and more are large ones: they go up by their SHA-256, as on the Hub.
"""

from __future__ import annotations

import base64
import contextlib
import fnmatch
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import huggingface_hub

TOKEN = "hf_" + "a" * 34
LARGE = 1000


class Hub(ThreadingHTTPServer):
    """The server; `repositories` by kind and name, `commits` by hash, `objects` by SHA-256."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.owners, self.repositories, self.objects = {"me"}, {}, {}
        self.commits: dict[str, dict[str, bytes]] = {"0" * 40: {}}
        self.asked: list[str] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def files(self, name: str, revision: str = "main", kind: str = "models") -> dict[str, bytes]:
        """Return the files of a repository at a branch or a commit."""
        branches = self.repositories[kind, name]["branches"]
        return self.commits[branches.get(revision, revision)]


def digest(content: bytes) -> str:
    """Return what the Hub calls a file: SHA-256 of a large one, else forty digits."""
    whole = hashlib.sha256(content).hexdigest()
    return whole if len(content) >= LARGE else whole[:40]


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle_one_request()

    def _answer(self, code: int, body: object = None, **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _do(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size)
        if self.headers.get("Transfer-Encoding") == "chunked":
            while length := int(self.rfile.readline(), 16):
                body += self.rfile.read(length)
                self.rfile.readline()
            self.rfile.readline()
        writes = self.command in ("POST", "PUT") and "/objects/" not in path
        if writes and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid username or password."})
            return
        for command, pattern, method in ROUTES:
            if self.command in command and (found := re.fullmatch(pattern, path)):
                method(self, body, *found.groups())
                return
        self._answer(404, {"error": f"nothing at {path}"})

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _do

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        owner = asked.get("organization") or "me"
        name, kind = f"{owner}/{asked['name']}", f"{asked.get('type') or 'model'}s"
        if owner not in self.server.owners:
            self._answer(403, {"error": f"You don't have the rights to create under {owner}."})
            return
        if (kind, name) in self.server.repositories:
            self._answer(409, {"error": "You already created this repo", "url": name})
            return
        private = asked.get("visibility") == "private" or asked.get("private") is True
        branches = {"main": "0" * 40}
        self.server.repositories[kind, name] = {"private": private, "branches": branches}
        place = "" if kind == "models" else f"{kind}/"
        self._answer(200, {"url": f"{self.server.endpoint}/{place}{name}"})

    def branch(self, body: bytes, kind: str, name: str, branch: str) -> None:
        branches = self.server.repositories[kind, name]["branches"]
        if branch in branches:
            self._answer(409, {"error": "Reference already exists"})
            return
        branches[branch] = branches["main"]
        self._answer(200)

    def validate(self, body: bytes) -> None:
        self._answer(200, {"errors": [], "warnings": []})

    def preupload(self, body: bytes, kind: str, name: str, revision: str) -> None:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["size"] >= LARGE else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        self._answer(200, {"files": files})

    def batch(self, body: bytes, name: str) -> None:
        objects = []
        for known in json.loads(body)["objects"]:
            place = f"{self.server.endpoint}/objects/{known['oid']}"
            actions = {"upload": {"href": place, "header": {}}}
            objects.append({**known, "actions": actions})
        self._answer(200, {"transfer": "basic", "objects": objects})

    def put(self, body: bytes, oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.objects[oid] = body
        self._answer(200)

    def commit(self, body: bytes, kind: str, name: str, revision: str) -> None:
        branches = self.server.repositories[kind, name]["branches"]
        files = dict(self.server.commits[branches[revision]])
        for row in map(json.loads, body.decode().splitlines()):
            value = row["value"]
            if row["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            elif row["key"] == "deletedFile":
                del files[value["path"]]
        oid = hashlib.sha1(f"{len(self.server.commits)}".encode()).hexdigest()
        self.server.commits[oid], branches[revision] = files, oid
        url = f"{self.server.endpoint}/{name}/commit/{oid}"
        self._answer(200, {"success": True, "commitOid": oid, "commitUrl": url})

    def info(self, body: bytes, kind: str, name: str, _: str = "", revision: str = "") -> None:
        known = self.server.repositories.get((kind, name))
        code = {"X-Error-Code": "RepoNotFound"}
        if known is None:
            self._answer(404, {"error": "Repository not found"}, **code)
            return
        oid = known["branches"].get(revision or "main", revision)
        if oid not in self.server.commits:
            code = {"X-Error-Code": "RevisionNotFound"}
            self._answer(404, {"error": f"Invalid rev id: {revision}"}, **code)
            return
        siblings = [{"rfilename": path} for path in self.server.commits[oid]]
        told = {"id": name, "private": known["private"], "sha": oid, "siblings": siblings}
        self._answer(200, told | {"tags": [], "downloads": 0, "likes": 0})

    def tree(self, body: bytes, kind: str, name: str, revision: str, _: str = "") -> None:
        rows = []
        for path, content in self.server.files(name, revision, kind).items():
            oid = digest(content)
            row = {"type": "file", "path": path, "size": len(content), "oid": oid[:40]}
            if len(content) >= LARGE:
                row["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 1}
            rows.append(row)
        self._answer(200, rows)

    def resolve(self, body: bytes, name: str, revision: str, path: str) -> None:
        files = self.server.files(name, revision)
        if path not in files:
            self._answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
            return
        content = files[path]
        branches = self.server.repositories["models", name]["branches"]
        tag = f'"{digest(content)}"'
        headers = {"X_Repo_Commit": branches.get(revision, revision), "ETag": tag}
        self._answer(200, content, **headers)


NAME = r"([\w.-]+/[\w.-]+)"
KIND = r"/api/(models|spaces)/" + NAME
ROUTES = [
    ("POST", r"/api/repos/create", Handler.create),
    ("POST", KIND + r"/branch/(.+)", Handler.branch),
    ("POST", r"/api/validate-yaml", Handler.validate),
    ("POST", KIND + r"/preupload/(.+)", Handler.preupload),
    ("POST", r"/(?:spaces/)?" + NAME + r"\.git/info/lfs/objects/batch", Handler.batch),
    ("PUT", r"/objects/(\w{64})", Handler.put),
    ("POST", KIND + r"/commit/(.+)", Handler.commit),
    ("GET", KIND + r"(/revision/([^/]+))?", Handler.info),
    ("GET", KIND + r"/tree/([^/]+)(/.*)?", Handler.tree),
    ("GET HEAD", "/" + NAME + r"/resolve/([^/]+)/(.+)", Handler.resolve),
]


@contextlib.contextmanager
def serve(monkeypatch, cache, token: str | None = TOKEN) -> Iterator[Hub]:
    """Run a Hub, and let `huggingface_hub` find it, a token, and an empty cache."""
    hub = Hub()
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    constants, template = huggingface_hub.constants, "/{repo_id}/resolve/{revision}/{filename}"
    settings = {
        "ENDPOINT": hub.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + template,
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_CACHE": str(cache),
        "HF_TOKEN_PATH": str(cache / "no_token"),
    }
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


def written(files: dict[str, bytes], pattern: str) -> list[str]:
    """Return the names of files that fit a pattern."""
    return sorted(fnmatch.filter(files, pattern))
