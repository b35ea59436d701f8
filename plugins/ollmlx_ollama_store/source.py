"""The source "ollama": models of registries that speak Ollama's protocol, such as Hugging Face's GGUF repositories."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from ollmlx import ModelName, closing, format_size
from ollmlx.errors import Forbidden, NotFound, StorageError, Unsupported, UpstreamError
from ollmlx.storekit import (
    download_client,
    is_named,
    to_transfer_thread,
    write_receipt,
)
from ollmlx.storekit.download import ATTEMPTS, MAX_REPORTS, Sleep
from ollmlx.types import RECEIPT, FetchReceipt, InstalledModel, PullCandidate, PullProgress
from ollmlx_ollama_store.description import MAX_TEXT
from ollmlx_ollama_store.fetching import LayerFetch
from ollmlx_ollama_store.installer import STAGED_MANIFEST
from ollmlx_ollama_store.key import key_file
from ollmlx_ollama_store.layout import (
    DEFAULT_HOST,
    DEFAULT_NAMESPACE,
    HUBS,
    MAX_CONFIG,
    MEDIA_TYPE,
    OllamaConfig,
    OllamaLayout,
    OllamaManifest,
)
from ollmlx_ollama_store.registry_client import RegistryClient, RegistryModel
from ollmlx_ollama_store.tensor_folders import missing_part
from ollmlx_ollama_store.upload import BlobUpload

MLX_HINT = "look for a conversion of it at mlx-community"
TEXTS = ("template", "system", "params", "messages", "license")


class OllamaSource:
    """Fetches models from registries, and pushes them there. `layout`: the models that can be pushed.

    `registry` is used for names without a host; if empty, those are not fetched. `private_hosts`, and a `registry` that
    a person has named, may be on private addresses. `has_keys`: requests come from holders of keys, who may use plain
    HTTP for these hosts only.
    """

    name = "ollama"
    store = "ollama"

    def __init__(
        self,
        registry: str = DEFAULT_HOST,
        layout: OllamaLayout | None = None,
        *,
        private_hosts: Sequence[str] = (),
        has_keys: bool = False,
        attempts: int = ATTEMPTS,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.registry = registry
        self.layout = layout
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
            fetch = LayerFetch(registry, into, self.attempts, self._sleep)
            await fetch.prepare(manifest.blobs())
            for layer in {layer.digest: layer for layer in manifest.blobs() if layer.kind != "tensor"}.values():
                async with closing(fetch.one(layer)) as steps:
                    async for step in steps:
                        yield step
                if layer == manifest.config and fetch.target(layer).is_file():
                    await to_transfer_thread(_check_config, model, manifest, fetch.target(layer))
            if manifest.of("tensor"):
                async with closing(fetch.together(manifest.of("tensor"))) as steps:
                    async for step in steps:
                        yield step
        receipt = FetchReceipt(source=f"ollama:{model}", files=tuple(fetch.fetched.values()))
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
            await to_transfer_thread(_check_config, model, manifest, config)
            for layer in manifest.layers:
                if layer.kind in ("model", "projector"):
                    outlined[layer.kind] = into / f"{layer.kind}.gguf"
                    await registry.outline(layer, outlined[layer.kind])
        yield PullCandidate(
            origin=f"ollama:{model}",
            format="mlx" if manifest.of("tensor") else "gguf",
            size=sum(layer.size for layer in blobs),
            path=outlined.get("model"),
            projector=outlined.get("projector"),
        )

    async def push(
        self, model: InstalledModel, target: ModelName, *, insecure: bool = False
    ) -> AsyncIterator[PullProgress]:
        """Upload what the registry lacks of a model of Ollama's store, then its manifest.

        An interrupted push goes on where it stopped. Raises Unsupported, Unauthorized, Forbidden, UpstreamError.
        """
        if self.layout is None or model.store != self.store or target.via in HUBS:
            raise Unsupported(
                f"{target.short} cannot be pushed: registries take the models of Ollama's store, and a hub others",
                hint="hf upload puts files of any kind on Hugging Face's hub",
            )
        named = target if target.host or target.via else replace(target, host=self.registry or DEFAULT_HOST)
        host = self._allowed(named, insecure=insecure)
        yield PullProgress(status="retrieving manifest")
        layout = self.layout
        manifest, data = await to_transfer_thread(layout.manifest, layout.origin(model).path)
        async with download_client(self.private_hosts) as client:
            registry = RegistryClient(client, host, insecure=insecure, key=key_file())
            for layer in dict.fromkeys((*manifest.layers, manifest.config)):
                note = layout.upload_note(host.host, layer.digest)
                upload = BlobUpload(registry, layer, layout.blob(layer.digest), note, self.attempts, self._sleep)
                async with closing(_pushing(upload, mount=host.beside(layer))) as steps:
                    async for step in steps:
                        yield step
            yield PullProgress(status="pushing manifest")
            url = f"{registry.base}manifests/{host.tag}"
            answer = await registry.send("PUT", url, content=data, Content_Type=MEDIA_TYPE)
            if answer.status_code not in {200, 201}:
                raise registry.refused(answer.status_code)
        yield PullProgress(status="success")

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


def _is_named(host: str, hosts: Sequence[str]) -> bool:
    parts = urlsplit(f"//{host}")
    return is_named(parts.hostname or "", parts.port or 80, hosts)


async def _pushing(upload: BlobUpload, mount: str | None) -> AsyncIterator[PullProgress]:
    """Run an upload and report its progress, at most `MAX_REPORTS` times."""
    digest, total = upload.layer.digest, upload.layer.size
    reported = -total
    async with closing(upload.run(mount)) as sizes:
        async for completed in sizes:
            if completed - reported >= total // MAX_REPORTS or completed == total:
                reported = completed
                status = f"pushing {digest.removeprefix('sha256:')[:12]}"
                yield PullProgress(status=status, digest=digest, total=total, completed=completed)


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


def _check_config(model: RegistryModel, manifest: OllamaManifest, path: Path) -> None:
    """Raise Unsupported for a model that nothing here can run, before its weights are downloaded."""
    try:
        config = OllamaConfig.parse(path.read_bytes(), "its configuration")
    except StorageError as error:
        raise UpstreamError(f"{model}: {error.message}", code="NET005") from None
    if config.remote_host or config.remote_model:
        raise Unsupported(f"{model} runs at {config.remote_host or 'ollama.com'}: there is nothing to pull")
    if config.model_format == "safetensors":
        if (missing := missing_part(manifest)) is not None:
            raise Unsupported(
                f"{model} is not a model that MLX reads: it has no {missing}", code="MDL005", hint=MLX_HINT
            )
        return
    if config.model_format not in ("", "gguf"):
        raise Unsupported(
            f"{model} is not a GGUF model: it has the format {config.model_format[:40]!r}",
            code="MDL005",
            hint=MLX_HINT,
        )
