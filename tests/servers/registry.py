"""A registry with Ollama's protocol: manifests and a login on one host, blobs on another, faults on demand."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.servers.ollama_folder import Layers, image, usual_layers
from tests.servers.serving import Answer, Asked, TwoHosts

TOKEN = "visitor-token"


class RegistryServer(TwoHosts):
    """Models by `namespace/model:tag`. With `login`, every request needs the token that `/token` gives."""

    def __init__(self) -> None:
        super().__init__()
        self.manifests: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.login = False

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
            return Answer(200, json.dumps({"token": TOKEN, "scope": query.get("scope", [""])[0]}).encode())
        if self.login and asked.headers.get("authorization") != f"Bearer {TOKEN}":
            realm = self.faults.realm or f"{self.front.url}/token"
            challenge = f'Bearer realm="{realm}",service="registry",scope="repository:pull"'
            return Answer(401, b"{}", {"WWW-Authenticate": challenge})
        _, _, namespace, model, kind, last = parts.path.split("/")
        if kind == "manifests":
            found = self.manifests.get(f"{namespace}/{model}:{last}")
            if self.faults.page is not None:
                return Answer(200, self.faults.page, {"Content-Type": "text/html"})
            return Answer(200, found) if found is not None else Answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')
        return Answer(307, b"", {"Location": self.location(last)})
