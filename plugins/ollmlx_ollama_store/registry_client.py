"""The client of a registry that speaks Ollama's protocol, for one model.

Credentials are sent to the scheme, host and port that gave them. Every response is read up to a limit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

import httpx2

from ollmlx import OllmlxError, __version__
from ollmlx.errors import Forbidden, NotFound, Unauthorized, UpstreamError
from ollmlx.storekit import fetch_outline, follow_redirects, origin
from ollmlx_ollama_store.layout import MAX_MANIFEST, MEDIA_TYPE, OllamaLayer

MAX_TOKEN = 64 << 10
HEADERS = {"User-Agent": f"ollmlx/{__version__}", "Accept-Encoding": "identity"}

MAX_CHALLENGE = 4096
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
_TOKEN = re.compile(r"[\x21-\x7e]{1,16384}")


class RegistryModel(NamedTuple):
    """The full name of a model in a registry."""

    host: str
    namespace: str
    model: str
    tag: str

    def __str__(self) -> str:
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"


class RegistryClient:
    """The registry of one model, for one pull. `insecure`: over plain HTTP."""

    def __init__(self, client: httpx2.AsyncClient, model: RegistryModel, *, insecure: bool = False) -> None:
        self.client = client
        self.model = model
        self.base = f"{'http' if insecure else 'https'}://{model.host}/v2/{model.namespace}/{model.model}/"
        self.headers = dict(HEADERS)

    async def manifest(self) -> bytes:
        """Return the manifest's bytes. Raises NotFound, Unauthorized, Forbidden, UpstreamError."""
        url = f"{self.base}manifests/{self.model.tag}"
        status, body, headers = await self._get(url, {"Accept": MEDIA_TYPE}, MAX_MANIFEST)
        if status == 401:
            self.headers["Authorization"] = f"Bearer {await self._token(headers.get('WWW-Authenticate', ''))}"
            status, body, headers = await self._get(url, {"Accept": MEDIA_TYPE}, MAX_MANIFEST)
        if status != 200:
            raise self._refused(status)
        return body

    async def outline(self, layer: OllamaLayer, target: Path) -> None:
        """Write the outline of a layer to a file. Raises UpstreamError, StorageError."""
        await fetch_outline(
            self.client, f"{self.base}blobs/{layer.digest}", target, size=layer.size, headers=self.headers
        )

    async def _token(self, challenge: str) -> str:
        """Get an anonymous token from the address in the challenge, if that is the registry's own host."""
        words = dict(_CHALLENGE.findall(challenge[:MAX_CHALLENGE]))
        realm = words.get("realm", "")
        if not challenge.lower().startswith("bearer ") or not realm:
            raise self._refused(401)
        if origin(realm) != origin(self.base):
            raise UpstreamError(
                f"{self.model.host} wants a login at another host ({urlsplit(realm).hostname}); refused", code="NET006"
            )
        query = urlencode({key: words[key] for key in ("service", "scope") if key in words})
        status, body, _ = await self._get(f"{realm}{'&' if '?' in realm else '?'}{query}", {}, MAX_TOKEN)
        if status != 200:
            raise self._refused(401)
        try:
            answer = json.loads(body)
            token = str(answer.get("token") or answer.get("access_token"))
        except (ValueError, RecursionError, AttributeError):
            token = ""
        if not _TOKEN.fullmatch(token):
            raise UpstreamError(f"{self.model.host} gave no usable token", code="NET005")
        return token

    async def _get(self, url: str, more: Mapping[str, str], limit: int) -> tuple[int, bytes, httpx2.Headers]:
        """Return status, body and headers of a response, whose body has at most `limit` bytes."""
        body = bytearray()
        try:
            async with follow_redirects(self.client, url, {**self.headers, **more}) as response:
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > limit:
                        raise UpstreamError(f"{self.model.host} sends more than the {limit} bytes allowed here")
                return response.status_code, bytes(body), response.headers
        except (httpx2.TransportError, httpx2.InvalidURL, ValueError) as error:
            raise UpstreamError(
                f"cannot reach {self.model.host}: {error or type(error).__name__}",
                code="NET005",
                hint="check the network; for a registry without TLS: --insecure",
            ) from error

    def _refused(self, status: int) -> OllmlxError:
        model = self.model
        if status == 404:
            return NotFound(f"{model.host} has no model {model.namespace}/{model.model}:{model.tag}", code="MDL002")
        if status in {401, 403}:
            kind = Unauthorized if status == 401 else Forbidden
            return kind(f"{model.host} does not give {model} to visitors", code="NET006", hint="check the name")
        return UpstreamError(f"{model.host} answered {status} for {model}", code="NET005", hint="pull again later")
