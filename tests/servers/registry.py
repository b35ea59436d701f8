"""A registry with Ollama's protocol: manifests and a login on one host, blobs on another, faults on demand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from tests.servers.ollama_folder import digest, image, usual_layers
from tests.servers.serving import Answer, Asked, Served, part

TOKEN = "visitor-token"


@dataclass
class Faults:
    """Faults to cause. `cuts`: the bytes after which the next blobs end. `realm`: the login's address in challenges."""

    cuts: list[int] = field(default_factory=list)
    spoil: bool = False
    manifest: bytes | None = None
    elsewhere: str = ""
    realm: str = ""


class RegistryServer:
    """Models by `namespace/model:tag`. With `login`, every request needs the token that `/token` gives."""

    def __init__(self, *, login: bool = False) -> None:
        self.manifests: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.faults = Faults()
        self.login = login
        self.front = Served(self._front)
        self.store = Served(self._store)

    @property
    def host(self) -> str:
        """`127.0.0.1:port`, for the beginning of a model's name."""
        return self.front.url.removeprefix("http://")

    @property
    def store_url(self) -> str:
        """The second host under another name: credentials are sent to one name only."""
        return self.store.url.replace("127.0.0.1", "localhost")

    def add(
        self, name: str, layers: Mapping[str, bytes | list[bytes]] | None = None, **config: Any
    ) -> tuple[bytes, dict[str, bytes]]:
        """Publish a model, and return its manifest and blobs."""
        manifest, blobs = image(usual_layers() if layers is None else layers, **config)
        self.manifests[name] = manifest
        self.blobs |= blobs
        return manifest, blobs

    def blob_requests(self) -> list[Asked]:
        """The requests that the second host got."""
        return list(self.store.asked)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.front.close()
        self.store.close()

    def _front(self, asked: Asked) -> Answer:
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
            if self.faults.manifest is not None:
                return Answer(200, self.faults.manifest, {"Content-Type": "text/html"})
            return Answer(200, found) if found is not None else Answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')
        return Answer(307, b"", {"Location": self.faults.elsewhere or f"{self.store_url}/{last}?signature=abc"})

    def _store(self, asked: Asked) -> Answer:
        data = self.blobs.get(urlsplit(asked.path).path.strip("/"))
        if data is None:
            return Answer(404)
        if self.faults.spoil:
            data = data[:-1] + bytes([data[-1] ^ 1])
        answer = part(data, asked, {"ETag": f'"{digest(data)}"'})
        if self.faults.cuts:
            answer.cut = self.faults.cuts.pop(0)
        return answer
