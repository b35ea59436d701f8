"""A registry with Ollama's protocol: manifests, uploads and a login on one host, blobs on another; faults on demand."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from tests.servers.ollama_folder import Layers, image, usual_layers
from tests.servers.serving import Answer, Asked, TwoHosts

TOKEN = "visitor-token"


class RegistryServer(TwoHosts):
    """Models by `namespace/model:tag`. With `login`, every request needs the token that `/token` gives.

    `pusher`: the public key, in base64, whose signature the login needs. `lost`: the numbers of the parts, counted over
    all uploads, whose connection ends after their first half. `redirects`: parts of uploads go to the second host.
    """

    def __init__(self) -> None:
        super().__init__()
        self.manifests: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.login = False
        self.pusher = ""
        self.uploads: dict[str, bytearray] = {}
        self.parts = 0
        self.lost: set[int] = set()
        self.redirects = False
        self.tags: list[str] = []

    @property
    def host(self) -> str:
        """`127.0.0.1:port`, for the beginning of a model's name."""
        return self.url.removeprefix("http://")

    def add(self, name: str, layers: Layers | None = None, **config: Any) -> tuple[bytes, dict[str, bytes]]:
        """Publish a model, and return its manifest and blobs."""
        manifest, blobs = image(usual_layers() if layers is None else layers, **config)
        self.manifests[name] = manifest
        self.blobs |= blobs
        return manifest, blobs

    def content(self, digest: str) -> bytes | None:
        return self.blobs.get(digest)

    def answer(self, asked: Asked) -> Answer:
        parts = urlsplit(asked.path)
        if parts.path == "/token":
            query = parse_qs(parts.query)
            if self.pusher and not self._is_signed(asked):
                return Answer(403)
            return Answer(200, json.dumps({"token": TOKEN, "scope": query.get("scope", [""])[0]}).encode())
        if self.login and asked.headers.get("authorization") != f"Bearer {TOKEN}":
            realm = self.faults.realm or f"{self.front.url}/token"
            challenge = f'Bearer realm="{realm}",service="registry",scope="repository:pull"'
            return Answer(401, b"{}", {"WWW-Authenticate": challenge})
        _, _, namespace, model, kind, last, *rest = parts.path.split("/")
        if last == "uploads":
            return self._upload(asked, "/".join(rest))
        if kind == "manifests" and asked.method == "PUT":
            self.manifests[f"{namespace}/{model}:{last}"] = asked.body
            return Answer(201)
        if asked.method == "HEAD":
            return Answer(200 if last in self.blobs else 404)
        if kind == "manifests":
            found = self.manifests.get(f"{namespace}/{model}:{last}")
            if self.faults.page is not None:
                return Answer(200, self.faults.page, {"Content-Type": "text/html"})
            return Answer(200, found) if found is not None else Answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')
        return Answer(307, b"", {"Location": self.location(last)})

    # -- uploads -----------------------------------------------------------------------------------------------------

    def _is_signed(self, asked: Asked) -> bool:
        """Return whether the request has the pusher's signature, as Ollama makes it."""
        public, _, signature = asked.headers.get("authorization", "").partition(":")
        nothing = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()
        key = load_ssh_public_key(f"ssh-ed25519 {public}".encode())
        assert isinstance(key, Ed25519PublicKey)
        key.verify(base64.b64decode(signature), f"GET,{self.url}{asked.path},{nothing}".encode())
        return public == self.pusher

    def _upload(self, asked: Asked, number: str) -> Answer:
        """Begin an upload, tell its length, take a part, or end it."""
        query = dict(parse_qsl(urlsplit(asked.path).query))
        if asked.method == "POST":
            if query.get("mount") in self.blobs:
                return Answer(201)
            number = str(len(self.uploads))
            self.uploads[number] = bytearray()
        content = self.uploads.get(number)
        if content is None:
            return Answer(404)
        here = urlsplit(asked.path)._replace(path="/v2/me/any/blobs/uploads/" + number, query="state=x").geturl()
        found = {"Location": here, "Range": f"0-{max(0, len(content) - 1)}"}
        if asked.method == "PATCH":
            return self._part(asked, number, content, found)
        if asked.method == "PUT":
            digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
            self.tags.append(query["etag"])
            if digest != query["digest"]:
                return Answer(400)
            self.blobs[digest] = bytes(self.uploads.pop(number))
            return Answer(201)
        return Answer(204 if asked.method == "GET" else 202, b"", found)

    def _part(self, asked: Asked, number: str, content: bytearray, found: dict[str, str]) -> Answer:
        first, _, last = asked.headers["content-range"].partition("-")
        assert int(last) - int(first) + 1 == len(asked.body)
        if int(first) != len(content):
            return Answer(416, b"", found)
        self.parts += 1
        if self.redirects:
            assert asked.headers["x-redirect-uploads"] == "1"
            to = {"Location": f"{self.store_url}/part/{number}", "Docker-Upload-Location": found["Location"]}
            return Answer(307, b"", to)
        if self.parts in self.lost:
            content += asked.body[: len(asked.body) // 2]
            return Answer(503)
        content += asked.body
        return Answer(202, b"", {**found, "Range": f"0-{len(content) - 1}"})

    def large_file(self, asked: Asked) -> Answer:
        if asked.method == "PUT":
            assert "authorization" not in asked.headers
            self.uploads[urlsplit(asked.path).path.rpartition("/")[2]] += asked.body
            return Answer(200)
        return super().large_file(asked)
