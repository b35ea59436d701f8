"""A client of registries that speak Ollama's protocol: requests for one model, and the login.

Credentials are sent to the scheme, host and port that gave them. Every response is read up to a limit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

import httpx2

from ollmlx import ModelName, OllmlxError, __version__
from ollmlx.errors import Forbidden, InvalidRequest, NotFound, Unauthorized, UpstreamError
from ollmlx.storekit import fetch_outline, follow_redirects, origin, redirected
from ollmlx_ollama_store.key import login_address, signature
from ollmlx_ollama_store.layout import DEFAULT_HOST, DEFAULT_NAMESPACE, HUBS, MAX_MANIFEST, MEDIA_TYPE, OllamaLayer

MAX_TOKEN = 64 << 10
HEADERS = {"User-Agent": f"ollmlx/{__version__}", "Accept-Encoding": "identity"}
MAX_CHALLENGE = 4096
COMMIT_SECONDS = 600.0
"""Seconds that a registry may take to check a file that it got."""
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

    def beside(self, layer: OllamaLayer) -> str | None:
        """Return the model in the same registry from which a layer was taken: the registry may have it from there."""
        if layer.kind != "model" or not layer.from_:
            return None
        try:
            parent = ModelName.parse(layer.from_)
        except InvalidRequest:
            return None
        host = parent.host or (DEFAULT_HOST if parent.via not in HUBS else None)
        return f"{parent.org or DEFAULT_NAMESPACE}/{parent.name}" if host == self.host else None


class RegistryClient:
    """One model's registry, for a pull or a push. `insecure`: over plain HTTP. `key`: a file that signs logins."""

    def __init__(
        self, client: httpx2.AsyncClient, model: RegistryModel, *, insecure: bool = False, key: Path | None = None
    ) -> None:
        self.client = client
        self.model = model
        self.base = f"{'http' if insecure else 'https'}://{model.host}/v2/{model.namespace}/{model.model}/"
        self.headers = dict(HEADERS)
        self._key = key

    async def manifest(self) -> bytes:
        """Return the manifest's bytes. Raises NotFound, Unauthorized, Forbidden, UpstreamError."""
        url = f"{self.base}manifests/{self.model.tag}"
        status, body, headers = await self._get(url, {"Accept": MEDIA_TYPE}, MAX_MANIFEST)
        if status == 401:
            await self.log_in(headers)
            status, body, headers = await self._get(url, {"Accept": MEDIA_TYPE}, MAX_MANIFEST)
        if status != 200:
            raise self.refused(status)
        return body

    async def outline(self, layer: OllamaLayer, target: Path) -> None:
        """Write the outline of a layer to a file. Raises UpstreamError, StorageError."""
        await fetch_outline(
            self.client, f"{self.base}blobs/{layer.digest}", target, size=layer.size, headers=self.headers
        )

    async def send(
        self, method: str, url: str, *, content: Any = None, log_in: bool = True, **headers: str
    ) -> httpx2.Response:
        """Send a request of a push; returns the response, whose body is not read. Raises UpstreamError, Unauthorized.

        After a 401 it logs in and sends the request again, if `log_in`, which is for requests whose content can be sent
        twice. A redirect is returned.
        """
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        own = redirected(self.base, url, {**self.headers, **named})
        with self._reachable():
            async with self.client.stream(
                method, url, headers=own, content=content, timeout=COMMIT_SECONDS
            ) as response:
                pass
        if response.status_code == 401 and log_in:
            await self.log_in(response.headers)
            return await self.send(method, url, content=content, log_in=False, **headers)
        return response

    async def log_in(self, headers: httpx2.Headers) -> None:
        """Use a token of the registry from now on, an anonymous one if there is no key."""
        self.headers["Authorization"] = f"Bearer {await self._token(headers.get('WWW-Authenticate', ''))}"

    async def _token(self, challenge: str) -> str:
        """Get a token from the address in the challenge, if that is the registry's own host."""
        words = dict(_CHALLENGE.findall(challenge[:MAX_CHALLENGE]))
        realm = words.get("realm", "")
        if not challenge.lower().startswith("bearer ") or not realm:
            raise self.refused(401)
        if origin(realm) != origin(self.base):
            raise UpstreamError(
                f"{self.model.host} wants a login at another host ({urlsplit(realm).hostname}); refused", code="NET006"
            )
        signed = {}
        if self._key is not None:
            url = login_address(realm, words)
            signed = {"Authorization": signature(url, self._key)}
        else:
            query = urlencode({key: words[key] for key in ("service", "scope") if key in words})
            url = f"{realm}{'&' if '?' in realm else '?'}{query}"
        self.headers.pop("Authorization", None)
        status, body, _ = await self._get(url, signed, MAX_TOKEN)
        if status != 200:
            raise self.refused(401)
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
        with self._reachable():
            async with follow_redirects(self.client, url, {**self.headers, **more}) as response:
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > limit:
                        raise UpstreamError(f"{self.model.host} sends more than the {limit} bytes allowed here")
                return response.status_code, bytes(body), response.headers

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        """Turn a failed connection into an UpstreamError."""
        try:
            yield
        except (httpx2.TransportError, httpx2.InvalidURL, ValueError) as error:
            raise UpstreamError(
                f"cannot reach {self.model.host}: {error or type(error).__name__}",
                code="NET005",
                hint="check the network; for a registry without TLS: --insecure",
            ) from error

    def refused(self, status: int) -> OllmlxError:
        """Return the error for a status."""
        model = self.model
        if status in {401, 403} and self._key is not None:
            kind = Unauthorized if status == 401 else Forbidden
            hint = f"tell the registry the key in {self._key}.pub, and check the name"
            return kind(f"{model.host} does not take {model} from this key", code="NET006", hint=hint)
        if status == 404:
            return NotFound(f"{model.host} has no model {model.namespace}/{model.model}:{model.tag}", code="MDL002")
        if status in {401, 403}:
            kind = Unauthorized if status == 401 else Forbidden
            return kind(f"{model.host} does not give {model} to visitors", code="NET006", hint="check the name")
        return UpstreamError(f"{model.host} answered {status} for {model}", code="NET005", hint="try it again later")
