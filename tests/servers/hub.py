"""A hub for huggingface_hub: repositories on one host, large files on another, and faults on demand."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.servers.serving import Answer, Asked, TwoHosts, part


@dataclass
class Repository:
    """`revisions`: name -> files. `token`: needed to read it, if any. `gated`: it is listed, and no file is served."""

    revisions: dict[str, dict[str, bytes]]
    token: str | None = None
    gated: bool = False
    license: str = "apache-2.0"

    def commit(self, revision: str) -> str:
        """The id of the content of a revision: of its name, or the id itself."""
        if revision not in self.revisions:
            return revision
        return hashlib.sha1(repr(sorted(self.revisions[revision].items())).encode()).hexdigest()

    def files(self, revision: str) -> dict[str, bytes] | None:
        """Files by the name of a revision, or by its commit."""
        found = (files for name, files in self.revisions.items() if revision in (name, self.commit(name)))
        return next(found, None)


class HubServer(TwoHosts):
    """The hub, and the host of its large files. `token`: the one that it accepts."""

    def __init__(self) -> None:
        super().__init__()
        self.repositories: dict[str, Repository] = {}
        self.token = ""
        self.uploads: dict[str, dict[str, bytes]] = {}
        self.made: dict[str, str] = {}

    def add(self, repo: str, files: dict[str, bytes], **fields: Any) -> Repository:
        self.repositories[repo] = Repository({"main": files}, **fields)
        return self.repositories[repo]

    def answer(self, asked: Asked) -> Answer:
        path = unquote(urlsplit(asked.path).path).strip("/")
        if asked.method == "POST":
            return self._write(path, asked)
        if path == "api/whoami-v2":
            known = asked.headers.get("authorization") == f"Bearer {self.token}"
            return _json({"name": "me"}) if known else _problem(401, "", "Invalid username or password.")
        if path == "api/models":
            return self._found({key: values[0] for key, values in parse_qs(urlsplit(asked.path).query).items()})
        if path.startswith("api/models/"):
            repo, _, revision = path.removeprefix("api/models/").partition("/revision/")
            return self._guarded(repo, asked) or self._listing(repo, revision or "main")
        repo, _, rest = path.partition("/resolve/")
        revision, _, file = rest.partition("/")
        return self._guarded(repo, asked) or self._file(repo, revision, file, asked)

    def _found(self, query: dict[str, str]) -> Answer:
        """The repositories of an author whose names contain a text."""
        author, text = query.get("author"), query.get("search", "").lower()
        names = [repo for repo in self.repositories if repo.partition("/")[0] == author and text in repo.lower()]
        return _json([{"id": repo, "modelId": repo, "lastModified": "2026-01-01T00:00:00.000Z"} for repo in names])

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
        siblings: list[dict[str, Any]] = []
        for path, data in files.items():
            siblings.append({"rfilename": path, "size": len(data), "blobId": git_oid(data)})
            if is_large(path):
                siblings[-1]["lfs"] = {"sha256": sha256(data), "size": len(data), "pointerSize": 134}
        about = {"id": repo, "modelId": repo, "tags": [], "cardData": {"license": repository.license}}
        gated = {"private": repository.token is not None, "gated": repository.gated and "manual"}
        return _json({**about, **gated, "sha": repository.commit(revision), "siblings": siblings})

    def _file(self, repo: str, revision: str, path: str, asked: Asked) -> Answer:
        repository = self.repositories[repo]
        files = repository.files(revision)
        if repository.gated:
            return _problem(403, "GatedRepo", f"Access to model {repo} is restricted")
        if files is None or path not in files:
            return _problem(404, "EntryNotFound", "Entry not found")
        data = files[path]
        commit = repository.commit(revision)
        headers = {"X-Repo-Commit": commit}
        if not is_large(path):
            return part(data, asked, {**headers, "ETag": f'"{git_oid(data)}"'})
        return Answer(
            302,
            b"",
            {
                **headers,
                "Location": self.location(sha256(data)),
                "X-Linked-Etag": f'"{sha256(data)}"',
                "X-Linked-Size": str(len(data)),
                "X-Xet-Hash": "0" * 64,
                "Link": f'<{self.url}/api/models/{repo}/xet-read-token/{commit}>; rel="xet-auth"',
            },
        )

    def _write(self, path: str, asked: Asked) -> Answer:
        """Create a repository or commit to one. All uploads are small files."""
        if path == "api/repos/create":
            wanted = json.loads(asked.body)
            repo = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            self.made[repo] = "private" if wanted.get("private") or wanted.get("visibility") == "private" else "public"
            return _json({"url": f"{self.url}/{repo}", "name": repo})
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
        return _json({"commitUrl": f"{self.url}/{repo}/commit/1", "commitOid": "1" * 40, "success": True})

    def content(self, digest: str) -> bytes | None:
        if self.faults.page is not None:
            return self.faults.page
        every = [files for repository in self.repositories.values() for files in repository.revisions.values()]
        return next((data for files in every for data in files.values() if sha256(data) == digest), None)


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
