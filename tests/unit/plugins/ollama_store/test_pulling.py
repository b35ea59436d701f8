"""Pulls from a registry: resumed and checked, with limits for everything that the registry sends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.servers.ollama_folder import OllamaFolder, digest, tiny_gguf, usual_layers
from tests.servers.registry import TOKEN, RegistryServer
from tests.servers.serving import no_wait

from ollmlx import ModelName, OllmlxError
from ollmlx.errors import NotFound, StorageError, Unauthorized, Unsupported, UpstreamError
from ollmlx.storekit import to_transfer_thread
from ollmlx.storekit.outline import outlined_model
from ollmlx.types import PullProgress
from ollmlx_ollama_store.source import OllamaSource
from ollmlx_ollama_store.store import OllamaStore

LARGE = tiny_gguf(weights=1 << 20)


@pytest.fixture
def registry() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        server.add("me/m:latest", usual_layers(LARGE))
        yield server


def source() -> OllamaSource:
    return OllamaSource(private_hosts=("127.0.0.1", "localhost"), attempts=3, sleep=no_wait)


async def pull(store: OllamaStore, registry: RegistryServer, name: str = "me/m") -> list[PullProgress]:
    target = ModelName.parse(f"{registry.host}/{name}")
    return [step async for step in store.pull(target, source(), None, insecure=True)]


async def refused(store: OllamaStore, registry: RegistryServer, kind: type[OllmlxError], words: str) -> OllmlxError:
    with pytest.raises(kind, match=words) as caught:
        await pull(store, registry)
    assert list(await store.list()) == []
    assert not (store.layout.root / "manifests").exists()
    return caught.value


async def test_a_pulled_model_is_laid_out_as_ollama_would(
    registry: RegistryServer, ollama: OllamaFolder, store: OllamaStore
) -> None:
    steps = await pull(store, registry)
    statuses = list(dict.fromkeys(step.status for step in steps))
    short = digest(LARGE).removeprefix("sha256:")[:12]
    assert statuses[0] == "pulling manifest"
    assert f"pulling {short}" in statuses
    assert statuses[-3:] == ["verifying sha256 digest", "writing manifest", "success"]
    for step in steps:
        assert (step.completed or 0) <= (step.total or 0)
    assert [step.completed for step in steps if step.digest == digest(LARGE)][-1] == len(LARGE)
    manifest = ollama.root / "manifests" / registry.host / "me/m/latest"
    assert manifest.read_bytes() == registry.manifests["me/m:latest"]
    assert ollama.blobs() == {each.replace(":", "-") for each in registry.blobs}
    assert [model.name.short for model in await store.list()] == [f"{registry.host}/me/m"]
    assert not any((ollama.root / ".ollmlx/staging").iterdir())


async def test_installed_layers_are_not_fetched_again(
    registry: RegistryServer, ollama: OllamaFolder, store: OllamaStore
) -> None:
    ollama.add("other", usual_layers(LARGE))
    await pull(store, registry)
    assert registry.large_requests() == [], "another model brought every one of them"
    newer = usual_layers(LARGE, system=b"You are someone else.")
    registry.add("me/m:latest", newer)
    steps = await pull(store, registry)
    asked = {request.path.partition("?")[0] for request in registry.large_requests()}
    assert f"/{digest(LARGE)}" not in asked
    assert len(asked) == 2, "the new system prompt and the configuration"
    assert steps[-1].status == "success"
    assert digest(b"You are terse.").replace(":", "-") in ollama.blobs(), "the other model's"


async def test_a_wrong_blob_is_never_installed(
    registry: RegistryServer, ollama: OllamaFolder, store: OllamaStore
) -> None:
    registry.faults.spoil = True
    await refused(store, registry, UpstreamError, "checksum mismatch")
    assert not (ollama.root / "blobs").exists()
    registry.faults.spoil = False
    assert (await pull(store, registry))[-1].status == "success"


def traversal(digest: str) -> bytes:
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": digest, "size": 1}
    return json.dumps({"schemaVersion": 2, "config": layer, "layers": [layer]}).encode()


@pytest.mark.parametrize(
    "manifest",
    [
        b"<html>please log in</html>",
        b"",
        b'{"errors": []}',
        traversal("sha256:../../../etc/passwd"),
        traversal("sha256-" + "0" * 63 + "/"),
        traversal("../" + "0" * 64),
        traversal("sha256:" + "0" * 64 + "/../../x"),
        traversal("sha512:" + "0" * 128),
    ],
)
async def test_a_wrong_manifest_is_refused_before_any_path_is_made(
    registry: RegistryServer, ollama: OllamaFolder, store: OllamaStore, manifest: bytes
) -> None:
    registry.faults.page = manifest
    error = await refused(store, registry, UpstreamError, "did not answer with a manifest")
    assert error.code == "NET005"
    assert registry.large_requests() == []
    assert {path.name for path in ollama.root.parent.iterdir()} == {"models"}


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"model_format": "safetensors"}, Unsupported, "is not a model that MLX reads: it has no weights"),
        ({"model_format": "onnx"}, Unsupported, "is not a GGUF model"),
        ({"remote_host": "https://ollama.com", "remote_model": "big"}, Unsupported, "nothing to pull"),
    ],
)
async def test_a_model_that_cannot_run_here_is_refused_before_its_weights_are_fetched(
    registry: RegistryServer, store: OllamaStore, changes: dict[str, Any], kind: type[OllmlxError], words: str
) -> None:
    registry.add("me/m:latest", usual_layers(LARGE), **changes)
    await refused(store, registry, kind, words)
    assert not any(digest(LARGE) in asked.path for asked in registry.large_requests())


@pytest.mark.parametrize(
    ("layer", "size", "kind", "words", "code"),
    [
        (1, 1 << 40, UpstreamError, "implausible", "NET005"),
        (0, 1 << 59, StorageError, "not enough disk space", "STO003"),
    ],
    ids=["a text of implausible size", "weights larger than the disk"],
)
async def test_sizes_are_checked_before_the_download(
    registry: RegistryServer, store: OllamaStore, layer: int, size: int, kind: type[OllmlxError], words: str, code: str
) -> None:
    document = json.loads(registry.manifests["me/m:latest"])
    document["layers"][layer]["size"] = size
    registry.faults.page = json.dumps(document).encode()
    assert (await refused(store, registry, kind, words)).code == code
    assert registry.large_requests() == []


async def test_a_model_that_does_not_exist_is_not_found(registry: RegistryServer, store: OllamaStore) -> None:
    registry.manifests.clear()
    error = await refused(store, registry, NotFound, "has no model me/m:latest")
    assert error.code == "MDL002"


@pytest.mark.parametrize("insecure", [True, False], ids=["nothing listens", "plain HTTP, and no --insecure"])
async def test_an_unreachable_registry_is_named(
    registry: RegistryServer, store: OllamaStore, free_port: int, insecure: bool
) -> None:
    host = f"127.0.0.1:{free_port}" if insecure else registry.host
    with pytest.raises(UpstreamError, match=f"cannot reach {host}") as caught:
        async for _ in store.pull(ModelName.parse(f"{host}/me/m"), source(), None, insecure=insecure):
            pass
    assert "--insecure" in (caught.value.hint or "")
    assert registry.front.asked == []


# -- logins ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def guarded(registry: RegistryServer) -> RegistryServer:
    registry.login = True
    return registry


async def test_an_anonymous_token_is_sent_to_the_registry_only(guarded: RegistryServer, store: OllamaStore) -> None:
    assert (await pull(store, guarded))[-1].status == "success"
    assert any(asked.headers.get("authorization") == f"Bearer {TOKEN}" for asked in guarded.front.asked)
    assert "scope=repository%3Apull" in next(asked.path for asked in guarded.front.asked if "/token" in asked.path)
    assert guarded.large_requests()
    assert not any("authorization" in asked.headers for asked in guarded.large_requests())


@pytest.mark.parametrize("realm", ["https://localhost:9/token", "file:///etc/passwd", "ftp://127.0.0.1/t", "//", "x"])
async def test_a_login_at_another_address_than_the_registrys_is_refused(
    guarded: RegistryServer, store: OllamaStore, realm: str
) -> None:
    guarded.faults.realm = realm
    error = await refused(store, guarded, UpstreamError, "wants a login at another host")
    assert error.code == "NET006"
    assert guarded.large_requests() == []


async def test_a_token_that_the_registry_refuses_is_an_error(guarded: RegistryServer, store: OllamaStore) -> None:
    guarded.faults.realm = f"{guarded.front.url}/v2/no/such/token/x"  # it is asked for a login there, too
    await refused(store, guarded, Unauthorized, "to visitors")


# -- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "provided"),
    [
        ("phi3:mini", "ollama:registry.ollama.ai/library/phi3:mini"),
        ("org/name", None),
        ("registry.ollama.ai/library/llama3.2", "ollama:registry.ollama.ai/library/llama3.2:latest"),
        ("ollama.com/user/model", "ollama:registry.ollama.ai/user/model:latest"),
        ("hf.co/org/X-GGUF:Q4_K_M", "ollama:hf.co/org/X-GGUF:Q4_K_M"),
        ("localhost:5000/me/m:v1", "ollama:localhost:5000/me/m:v1"),
    ],
)
def test_names_are_models_of_registries(text: str, provided: str | None) -> None:
    assert OllamaSource().provides(ModelName.parse(text)) == provided


def test_names_without_a_host_belong_to_the_registry_of_the_settings() -> None:
    assert OllamaSource("").provides(ModelName.parse("phi3")) is None
    assert OllamaSource("").provides(ModelName.parse("hf.co/org/x")) is not None
    assert OllamaSource("mirror:80").provides(ModelName.parse("phi3")) == "ollama:mirror:80/library/phi3:latest"


async def test_a_preview_reads_the_headers_of_weights_and_projector_and_no_weights(
    registry: RegistryServer, tmp_path: Path
) -> None:
    large = tiny_gguf(weights=16 << 20)
    about_projector: dict[str, Any] = {"general.architecture": "clip"}
    projector = tiny_gguf(**about_projector)
    _, blobs = registry.add("me/seeing:latest", usual_layers(large, projector=projector))
    name = ModelName.parse(f"{registry.host}/me/seeing")
    (found,) = [each async for each in source().preview(name, tmp_path / "outline", insecure=True)]
    assert found.size == sum(map(len, blobs.values()))
    assert (found.path, found.projector) == (tmp_path / "outline/model.gguf", tmp_path / "outline/projector.gguf")
    assert found.path is not None
    assert found.path.stat().st_size == len(large)
    assert found.path.stat().st_blocks * 512 <= 2 << 20
    model = await to_transfer_thread(outlined_model, name, found)
    assert model is not None
    assert "vision" in model.capabilities
    with pytest.raises(NotFound, match="has no model me/other:latest"):
        await anext(source().preview(ModelName.parse(f"{registry.host}/me/other"), tmp_path, insecure=True))


# -- models of many layers -------------------------------------------------------------------------------------------

TENSORS = {f"layer.{number}.weight": bytes([number]) * (200 + number) for number in range(40)}
FILES = {"config.json": b'{"model_type":"llama"}', "tokenizer.json": b"{}"}


async def test_a_model_of_many_layers_is_pulled_as_one_and_goes_on_where_it_ended(
    registry: RegistryServer, ollama: OllamaFolder, store: OllamaStore
) -> None:
    large = {"embed.weight": b"e" * (1 << 20), "again.weight": b"e" * (1 << 20)}
    manifest, blobs = registry.add(
        "me/m:latest", {"tensor": {**TENSORS, **large}, "json": FILES}, model_format="safetensors"
    )
    last = registry.blobs.pop(digest(large["embed.weight"]))
    with pytest.raises(UpstreamError, match="answered 404"):
        await pull(store, registry)
    assert not (ollama.root / "manifests").exists()
    registry.blobs[digest(last)] = last
    before = len(registry.large_requests())
    steps = await pull(store, registry)
    assert len(registry.large_requests()) - before < len(TENSORS) / 2, "most layers were whole, and none was again"
    whole = [step for step in steps if step.digest == "sha256:model"]
    assert {step.status for step in whole} == {"pulling model"}
    total = sum(map(len, TENSORS.values())) + (1 << 20)
    assert {step.total for step in whole} == {total}
    assert [step.completed for step in whole] == sorted(step.completed or 0 for step in whole)
    assert whole[-1].completed == total
    (path,) = (ollama.root / "manifests").rglob("latest")
    assert path.read_bytes() == manifest
    assert ollama.blobs() == {each.replace(":", "-") for each in blobs}


async def test_layers_that_are_there_are_not_pulled_again(
    registry: RegistryServer, ollama: OllamaFolder, store: OllamaStore
) -> None:
    registry.add("me/m:latest", {"tensor": TENSORS, "json": FILES}, model_format="safetensors")
    registry.add("me/n:latest", {"tensor": {**TENSORS, "new": b"new"}, "json": FILES}, model_format="safetensors")
    await pull(store, registry)
    before = len(registry.large_requests())
    await pull(store, registry, "me/n")
    asked = {each.path.rpartition("/")[2] for each in registry.large_requests()[before:]}
    assert digest(b"new") in "".join(asked)
    assert len(asked) <= 2, "its configuration and the new layer"
