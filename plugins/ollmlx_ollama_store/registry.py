"""A registry, asked as Ollama asks it: manifests, where blobs are, and a token for those who have no account.

Credentials belong to the scheme, host and port that gave them. Every answer is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode, urljoin, urlsplit

import httpx2
from pydantic import BaseModel, ConfigDict, ValidationError

from ollmlx import OllmlxError, __version__, redirected
from ollmlx.errors import Forbidden, NotFound, Unauthorized, UpstreamError
from ollmlx_ollama_store.manifest import MAX_MANIFEST, MEDIA_TYPE

MAX_REDIRECTS = 5
MAX_TOKEN = 64 << 10
HEADERS = {"User-Agent": f"ollmlx/{__version__}", "Accept-Encoding": "identity"}

_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class Place:
    """Where a model is in a registry."""

    host: str
    namespace: str
    model: str
    tag: str

    def __str__(self) -> str:
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"


class _Token(BaseModel):
    model_config = ConfigDict(extra="ignore")

    token: str = ""
    access_token: str = ""


class Registry:
    """One registry for the time of one pull. `scheme` is `http` only when somebody asked for it."""

    def __init__(self, client: httpx2.AsyncClient, place: Place, *, insecure: bool = False) -> None:
        self.client = client
        self.place = place
        self.base = f"{'http' if insecure else 'https'}://{place.host}/v2/{place.namespace}/{place.model}/"
        self.headers = dict(HEADERS)

    async def manifest(self) -> bytes:
        """The manifest's bytes. Raises NotFound, Unauthorized, Forbidden, UpstreamError."""
        url = f"{self.base}manifests/{self.place.tag}"
        status, body, answered = await self._get(url, {"Accept": MEDIA_TYPE}, MAX_MANIFEST)
        if status == 401:
            self.headers["Authorization"] = f"Bearer {await self._token(answered.get('WWW-Authenticate', ''))}"
            status, body, answered = await self._get(url, {"Accept": MEDIA_TYPE}, MAX_MANIFEST)
        if status != 200:
            raise self._refused(status)
        return body

    def blob(self, digest: str) -> str:
        """The address of a blob. `digest` has been checked."""
        return f"{self.base}blobs/{digest}"

    async def _token(self, challenge: str) -> str:
        """A token for a visitor, from the address that the registry names, if that is the registry itself."""
        words = dict(_CHALLENGE.findall(challenge))
        realm = words.get("realm", "")
        if not challenge.lower().startswith("bearer ") or not realm:
            raise self._refused(401)
        if _origin(realm) != _origin(self.base):
            raise UpstreamError(
                f"{self.place.host} wants a login at another host ({urlsplit(realm).hostname}); refused", code="NET006"
            )
        query = urlencode({key: words[key] for key in ("service", "scope") if key in words})
        status, body, _ = await self._get(f"{realm}{'&' if '?' in realm else '?'}{query}", {}, MAX_TOKEN)
        if status != 200:
            raise self._refused(401)
        try:
            found = _Token.model_validate_json(body)
        except ValidationError:
            raise UpstreamError(f"{self.place.host} gave no usable token", code="NET005") from None
        token = found.token or found.access_token
        if not re.fullmatch(r"[\x21-\x7e]{1,16384}", token):
            raise UpstreamError(f"{self.place.host} gave no usable token", code="NET005")
        return token

    async def _get(self, url: str, more: Mapping[str, str], cap: int) -> tuple[int, bytes, httpx2.Headers]:
        """Status, body and headers, redirects followed without credentials. Raises UpstreamError."""
        headers = {**self.headers, **more}
        try:
            for _ in range(MAX_REDIRECTS):
                async with self.client.stream("GET", url, headers=headers) as response:
                    if response.status_code not in {301, 302, 303, 307, 308}:
                        return response.status_code, await self._body(response, cap), response.headers
                    target = urljoin(url, response.headers.get("Location", ""))
                headers, url = redirected(url, target, headers), target
        except (httpx2.TransportError, httpx2.InvalidURL, ValueError) as error:
            raise UpstreamError(
                f"cannot reach {self.place.host}: {error or type(error).__name__}",
                code="NET005",
                hint="check the network; for a registry without TLS: --insecure",
            ) from error
        raise UpstreamError(f"{self.place.host}: more than {MAX_REDIRECTS} redirects", code="NET005")

    async def _body(self, response: httpx2.Response, cap: int) -> bytes:
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > cap:
                raise UpstreamError(f"{self.place.host} sends more than {cap} bytes where little is expected")
        return bytes(body)

    def _refused(self, status: int) -> OllmlxError:
        place = self.place
        if status == 404:
            return NotFound(f"{place.host} has no model {place.namespace}/{place.model}:{place.tag}", code="MDL002")
        if status in {401, 403}:
            kind = Unauthorized if status == 401 else Forbidden
            return kind(f"{place.host} does not give {place} to visitors", code="NET006", hint="check the name")
        return UpstreamError(f"{place.host} answered {status} for {place}", code="NET005", hint="pull again later")


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or {"http": 80, "https": 443}.get(parts.scheme)
