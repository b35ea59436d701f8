"""The source "ollama": models of registries that speak Ollama's protocol, such as Hugging Face's GGUF repositories.

Credentials are sent to the scheme, host and port that gave them. Every response is read up to a limit.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

import httpx2

from ollmlx import ModelName, OllmlxError, __version__, closing, format_size
from ollmlx.errors import Forbidden, NotFound, StorageError, Unauthorized, Unsupported, UpstreamError
from ollmlx.storekit import (
    Download,
    check_space,
    download_client,
    fetch_file,
    fetch_outline,
    follow_redirects,
    is_named,
    origin,
    pull_progress,
    read_receipt,
    to_transfer_thread,
    write_receipt,
)
from ollmlx.storekit.download import ATTEMPTS, Sleep
from ollmlx.types import INSTALLED, RECEIPT, FetchedFile, FetchReceipt, PullCandidate, PullProgress
from ollmlx_ollama_store.description import MAX_TEXT
from ollmlx_ollama_store.installer import STAGED_MANIFEST
from ollmlx_ollama_store.layout import (
    DEFAULT_HOST,
    DEFAULT_NAMESPACE,
    HUBS,
    MAX_CONFIG,
    MAX_MANIFEST,
    MEDIA_TYPE,
    OllamaConfig,
    OllamaLayer,
    OllamaManifest,
)

TEXTS = ("template", "system", "params", "messages", "license")
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


class OllamaSource:
    """Fetches models from registries. `registry` is used for names without a host; if empty, those are not fetched.

    `private_hosts`, and a `registry` that a person has named, may be on private addresses. `has_keys`: requests come
    from holders of keys, who may use plain HTTP for these hosts only.
    """

    name = "ollama"
    store = "ollama"

    def __init__(
        self,
        registry: str = DEFAULT_HOST,
        *,
        private_hosts: Sequence[str] = (),
        has_keys: bool = False,
        attempts: int = ATTEMPTS,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.registry = registry
        self.private_hosts = (*([registry] if registry not in ("", DEFAULT_HOST) else []), *private_hosts)
        self.has_keys = has_keys
        self.attempts = attempts
        self._sleep = sleep

    def provides(self, name: ModelName) -> str | None:
        """`ollama:host/namespace/model:tag`. None for `org/name` without a host: that is a repository of the hub."""
        model = self._registry_model(name)
        return f"ollama:{model}" if model is not None else None

    def format(self, name: ModelName) -> str:
        return "gguf"

    async def fetch(self, name: ModelName, into: Path, *, insecure: bool = False) -> AsyncIterator[PullProgress]:
        """Download the missing blobs, check each against its digest, then write the manifest into the folder."""
        model = self._allowed(name, insecure=insecure)
        async with download_client(self.private_hosts) as client:
            registry = RegistryClient(client, model, insecure=insecure)
            data = await registry.manifest()
            manifest = _plausible(data, model)
            blobs = dict.fromkeys(manifest.blobs())
            missing = await to_transfer_thread(_missing, blobs, into)
            fetched: dict[str, FetchedFile] = {}
            for layer in blobs:
                target = into / layer.digest.replace(":", "-")  # checked when the manifest was parsed
                if layer in missing and not target.is_file():
                    download = Download(
                        client,
                        f"{registry.base}blobs/{layer.digest}",
                        target,
                        size=layer.size,
                        sha256=layer.digest.removeprefix("sha256:"),
                        headers=registry.headers,
                        attempts=self.attempts,
                        sleep=self._sleep,
                    )
                    async with closing(fetch_file(download, layer.digest, layer.size, str(model))) as steps:
                        async for step in steps:
                            yield step
                    fetched[layer.digest] = await to_transfer_thread(_fetched, target)
                yield pull_progress(layer.digest, layer.size, layer.size)
                if layer == manifest.config and layer in missing:
                    await to_transfer_thread(_check_config, model, target)
        receipt = FetchReceipt(source=f"ollama:{model}", files=tuple(fetched.values()))
        await to_transfer_thread((into / STAGED_MANIFEST).write_bytes, data)
        await to_transfer_thread(write_receipt, into / RECEIPT, receipt)

    async def preview(self, name: ModelName, into: Path, *, insecure: bool = False) -> AsyncIterator[PullCandidate]:
        """Yield the model of a registry, with the headers of its weights and of its projector."""
        model = self._allowed(name, insecure=insecure)
        async with download_client(self.private_hosts) as client:
            registry = RegistryClient(client, model, insecure=insecure)
            manifest = _plausible(await registry.manifest(), model)
            blobs = dict.fromkeys(manifest.blobs())
            outlined: dict[str, Path] = {}
            await registry.outline(manifest.config, config := into / "config.json")
            await to_transfer_thread(_check_config, model, config)
            for layer in manifest.layers:
                if layer.kind in ("model", "projector"):
                    outlined[layer.kind] = into / f"{layer.kind}.gguf"
                    await registry.outline(layer, outlined[layer.kind])
        yield PullCandidate(
            origin=f"ollama:{model}",
            format="gguf",
            size=sum(layer.size for layer in blobs),
            path=outlined.get("model"),
            projector=outlined.get("projector"),
        )

    def _allowed(self, name: ModelName, *, insecure: bool) -> RegistryModel:
        """Return the model of a name. Raises NotFound, Forbidden for plain HTTP to a host that nobody has named."""
        model = self._registry_model(name)
        if model is None:
            raise NotFound(f"{name.short} names no registry", code="MDL002", hint=f"use {DEFAULT_HOST}/{name.short}")
        if insecure and self.has_keys and not _is_named(model.host, self.private_hosts):
            raise Forbidden(
                f"{model.host} may not be used without TLS",
                hint="name it in [security] private_hosts of ollmlx.toml",
            )
        return model

    def _registry_model(self, name: ModelName) -> RegistryModel | None:
        host = name.host
        if host is None and name.via is not None:
            host = name.via if name.via in HUBS else DEFAULT_HOST
        elif host is None and name.org is None:
            host = self.registry
        return RegistryModel(host, name.org or DEFAULT_NAMESPACE, name.name, name.tag) if host else None


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


def _is_named(host: str, hosts: Sequence[str]) -> bool:
    parts = urlsplit(f"//{host}")
    return is_named(parts.hostname or "", parts.port or 80, hosts)


def _fetched(path: Path) -> FetchedFile:
    found = path.stat()
    sha256 = path.name.removeprefix("sha256-")
    return FetchedFile(path=path.name, size=found.st_size, sha256=sha256, mtime_ns=found.st_mtime_ns)


def _plausible(data: bytes, model: RegistryModel) -> OllamaManifest:
    """Parse the manifest of a registry. Raises UpstreamError if it cannot be a model's."""
    try:
        manifest = OllamaManifest.parse(data, "its answer")
    except StorageError as error:
        raise UpstreamError(
            f"{model.host} did not answer with a manifest for {model}: {error.message}",
            code="NET005",
            hint="is this a registry? A proxy or a login page may have answered",
        ) from None
    too_large = [layer for layer in manifest.layers if layer.kind in TEXTS and layer.size > MAX_TEXT]
    if too_large or manifest.config.size > MAX_CONFIG:
        raise UpstreamError(f"{model} is implausible: its texts are larger than {format_size(MAX_TEXT)}", code="NET005")
    return manifest


def _check_config(model: RegistryModel, path: Path) -> None:
    """Raise Unsupported for a model that nothing here can run, before its weights are downloaded."""
    try:
        config = OllamaConfig.parse(path.read_bytes(), "its configuration")
    except StorageError as error:
        raise UpstreamError(f"{model}: {error.message}", code="NET005") from None
    if config.remote_host or config.remote_model:
        raise Unsupported(f"{model} runs at {config.remote_host or 'ollama.com'}: there is nothing to pull")
    if config.model_format not in ("", "gguf"):
        raise Unsupported(
            f"{model} is not a GGUF model: it has the format {config.model_format[:40]!r}",
            code="MDL005",
            hint="look for a conversion of it at mlx-community",
        )


def _missing(blobs: Iterable[OllamaLayer], into: Path) -> list[OllamaLayer]:
    """Return the blobs that the store does not have. Raises StorageError if the disk has no space for them."""
    receipt = read_receipt(into / INSTALLED)
    present = {(f"sha256:{file.sha256}", file.size) for file in (receipt.files if receipt else ())}
    missing = [layer for layer in blobs if (layer.digest, layer.size) not in present]
    partial = sum(part.stat().st_size for part in into.glob("sha256-*") if part.is_file())
    check_space(into, sum(layer.size for layer in missing) - partial)
    return missing
