"""A hub for huggingface_hub: repositories on one host, large files on another, and faults on demand."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from tests.servers.serving import Answer, Asked, Served, part


@dataclass
class Repository:
    """`revisions`: name -> files. `token`: needed to read it, if any. `gated`: it is listed, and no file is served."""

    revisions: dict[str, dict[str, bytes]]
    token: str | None = None
    gated: bool = False
    license: str = "apache-2.0"

    def commit(self, revision: str) -> str:
        files = self.revisions[revision]
        return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()

    def files(self, revision: str) -> dict[str, bytes] | None:
        """Files by the name of a revision, or by its commit."""
        for name, files in self.revisions.items():
            if revision in (name, self.commit(name)):
                return files
        return None


@dataclass
class Faults:
    """Faults to cause. `cuts`: the bytes after which the next responses for large files end. `spoil`: wrong content."""

    cuts: list[int] = field(default_factory=list)
    spoil: bool = False
    statuses: list[int] = field(default_factory=list)
    html: bool = False
    elsewhere: str = ""


class HubServer:
    """Two servers: the hub, and the host of its large files."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.faults = Faults()
        self.token = ""
        """The token that the hub accepts."""
        self.uploads: dict[str, dict[str, bytes]] = {}
        self.hub = Served(self._hub)
        self.store = Served(self._large)

    @property
    def url(self) -> str:
        return self.hub.url

    @property
    def store_url(self) -> str:
        """The second host under another name: credentials are sent to one name only."""
        return self.store.url.replace("127.0.0.1", "localhost")

    def add(self, repo: str, files: dict[str, bytes], **fields: Any) -> Repository:
        self.repositories[repo] = Repository({"main": files}, **fields)
        return self.repositories[repo]

    def large_requests(self) -> list[Asked]:
        """The requests for files that the second host got."""
        return [asked for asked in self.store.asked if asked.method == "GET"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.hub.close()
        self.store.close()

    # -- the hub -----------------------------------------------------------------------------------------------------

    def _hub(self, asked: Asked) -> Answer:
        path = unquote(urlsplit(asked.path).path).strip("/")
        if asked.method == "POST":
            return self._write(path, asked)
        if path == "api/whoami-v2":
            known = asked.headers.get("authorization") == f"Bearer {self.token}"
            return _json({"name": "me"}) if known else _problem(401, "", "Invalid username or password.")
        if path == "api/models":
            return Answer(200, b"[]", {"Content-Type": "application/json"})
        if path.startswith("api/models/"):
            repo, _, revision = path.removeprefix("api/models/").partition("/revision/")
            return self._guarded(repo, asked) or self._listing(repo, revision or "main")
        repo, _, rest = path.partition("/resolve/")
        revision, _, file = rest.partition("/")
        return self._guarded(repo, asked) or self._file(repo, revision, file, asked)

    def _guarded(self, repo: str, asked: Asked) -> Answer | None:
        found = self.repositories.get(repo)
        authorization = asked.headers.get("authorization")
        if found is None or (found.token is not None and authorization is None):
            return _problem(404 if authorization else 401, "RepoNotFound", "Repository not found")
        if found.token is not None and authorization != f"Bearer {found.token}":
            return Answer(401, b"{}", {"X-Error-Message": "Invalid credentials in Authorization header"})
        return None

    def _listing(self, repo: str, revision: str) -> Answer:
        repository = self.repositories[repo]
        files = repository.files(revision)
        if files is None:
            return _problem(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        siblings = [
            {
                "rfilename": path,
                "size": len(data),
                "blobId": git_oid(data),
                **({"lfs": {"sha256": sha256(data), "size": len(data), "pointerSize": 134}} if is_large(path) else {}),
            }
            for path, data in files.items()
        ]
        commit = next(repository.commit(name) for name in repository.revisions if repository.revisions[name] is files)
        return _json(
            {
                "id": repo,
                "modelId": repo,
                "sha": commit,
                "private": repository.token is not None,
                "gated": repository.gated and "manual",
                "cardData": {"license": repository.license},
                "tags": [],
                "siblings": siblings,
            }
        )

    def _file(self, repo: str, revision: str, path: str, asked: Asked) -> Answer:
        repository = self.repositories[repo]
        files = repository.files(revision)
        if repository.gated:
            return _problem(403, "GatedRepo", f"Access to model {repo} is restricted")
        if files is None or path not in files:
            return _problem(404, "EntryNotFound", "Entry not found")
        data = files[path]
        commit = next(repository.commit(name) for name, held in repository.revisions.items() if held is files)
        headers = {"X-Repo-Commit": commit}
        if not is_large(path):
            return part(data, asked, {**headers, "ETag": f'"{git_oid(data)}"'})
        return Answer(
            302,
            b"",
            {
                **headers,
                "Location": self.faults.elsewhere or f"{self.store_url}/{sha256(data)}?signature=abc",
                "X-Linked-Etag": f'"{sha256(data)}"',
                "X-Linked-Size": str(len(data)),
                "X-Xet-Hash": "0" * 64,
                "Link": f'<{self.hub.url}/api/models/{repo}/xet-read-token/{commit}>; rel="xet-auth"',
            },
        )

    def _write(self, path: str, asked: Asked) -> Answer:
        """Create a repository or commit to one. All uploads are small files."""
        if path == "api/repos/create":
            wanted = json.loads(asked.body)
            repo = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            return _json({"url": f"{self.hub.url}/{repo}", "name": repo})
        repo, _, rest = path.removeprefix("api/models/").partition("/")
        if not asked.headers.get("authorization"):
            return _problem(401, "RepoNotFound", "Invalid username or password.")
        repo, rest = "/".join([repo, rest.partition("/")[0]]), rest.partition("/")[2]
        if rest.startswith("preupload/"):
            files = json.loads(asked.body)["files"]
            modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
            return _json({"files": modes})
        for line in asked.body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                data = base64.b64decode(entry["value"]["content"])
                self.uploads.setdefault(repo, {})[entry["value"]["path"]] = data
        return _json({"commitUrl": f"{self.hub.url}/{repo}/commit/1", "commitOid": "1" * 40, "success": True})

    # -- the other host ----------------------------------------------------------------------------------------------

    def _large(self, asked: Asked) -> Answer:
        digest = urlsplit(asked.path).path.strip("/")
        data = next(
            data
            for repository in self.repositories.values()
            for files in repository.revisions.values()
            for data in files.values()
            if sha256(data) == digest
        )
        if self.faults.statuses:
            return Answer(self.faults.statuses.pop(0))
        if self.faults.html:
            return Answer(200, b"<html>please log in</html>", {"Content-Type": "text/html"})
        if self.faults.spoil:
            data = data[:-1] + b"?"
        answer = part(data, asked, {"ETag": f'"{digest}"'})
        if self.faults.cuts and asked.method == "GET":
            answer.cut = self.faults.cuts.pop(0)
        return answer


def is_large(path: str) -> bool:
    return path.endswith((".safetensors", ".bin", ".gguf"))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_oid(data: bytes) -> str:
    """Git's object id of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _json(data: object) -> Answer:
    return Answer(200, json.dumps(data).encode(), {"Content-Type": "application/json"})


def _problem(status: int, code: str, message: str) -> Answer:
    headers = {"X-Error-Code": code, "X-Error-Message": message, "Content-Type": "application/json"}
    return Answer(status, json.dumps({"error": message}).encode(), headers)
