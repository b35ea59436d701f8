"""Pulls from a registry: resumed and checked, with limits for everything that the registry sends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.servers.ollama_folder import OllamaFolder, digest, image, tiny_gguf, usual_layers
from tests.servers.registry import TOKEN, RegistryServer

from ollmlx import ModelName, OllmlxError, closing
from ollmlx.errors import NotFound, StorageError, Unauthorized, Unsupported, UpstreamError
from ollmlx.types import PullProgress
from ollmlx_ollama_store.source import OllamaSource
from ollmlx_ollama_store.store import OllamaStore

LARGE = tiny_gguf(weights=1 << 20)


async def at_once(seconds: float) -> None:
    """A sleep that takes no time."""


@pytest.fixture
def registry() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        server.add("me/m:latest", usual_layers(LARGE))
        yield server


def source(attempts: int = 3) -> OllamaSource:
    return OllamaSource(attempts=attempts, sleep=at_once)


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
    assert registry.blob_requests() == [], "another model brought every one of them"
    newer = usual_layers(LARGE, system=b"You are someone else.")
    registry.add("me/m:latest", newer)
    steps = await pull(store, registry)
    asked = {request.path.partition("?")[0] for request in registry.blob_requests()}
    assert f"/{digest(LARGE)}" not in asked
    assert len(asked) == 2, "the new system prompt and the configuration"
    assert steps[-1].status == "success"
    assert digest(b"You are terse.").replace(":", "-") in ollama.blobs(), "the other model's"


async def test_a_broken_connection_is_resumed_at_the_same_byte(registry: RegistryServer, store: OllamaStore) -> None:
    registry.faults.cuts = [10**9, 600_000, 1]  # the configuration comes whole
    await pull(store, registry)
    ranges = [asked.headers.get("range") for asked in registry.blob_requests() if digest(LARGE) in asked.path]
    assert ranges == [None, "bytes=600000-", "bytes=600001-"]
    assert all(asked.headers["accept-encoding"] == "identity" for asked in registry.blob_requests())


async def test_a_pull_is_resumed_by_another_daemon(registry: RegistryServer, ollama: OllamaFolder) -> None:
    name = ModelName.parse(f"{registry.host}/me/m")
    async with closing(OllamaStore(ollama.root).pull(name, source(), None, insecure=True)) as steps:
        async for step in steps:
            if step.digest == digest(LARGE) and step.completed:
                break
    before = len(registry.blob_requests())
    assert not (ollama.root / "manifests").exists()
    await pull(OllamaStore(ollama.root), registry)
    again = registry.blob_requests()[before:]
    assert again[0].headers.get("range"), "the second pull resumes the first one"


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
    registry.faults.manifest = manifest
    error = await refused(store, registry, UpstreamError, "did not answer with a manifest")
    assert error.code == "NET005"
    assert registry.blob_requests() == []
    assert {path.name for path in ollama.root.parent.iterdir()} == {"models"}


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"model_format": "safetensors"}, Unsupported, "is not a GGUF model"),
        ({"remote_host": "https://ollama.com", "remote_model": "big"}, Unsupported, "nothing to pull"),
    ],
)
async def test_a_model_that_cannot_run_here_is_refused_before_its_weights_are_fetched(
    registry: RegistryServer, store: OllamaStore, changes: dict[str, Any], kind: type[OllmlxError], words: str
) -> None:
    registry.add("me/m:latest", usual_layers(LARGE), **changes)
    await refused(store, registry, kind, words)
    assert not any(digest(LARGE) in asked.path for asked in registry.blob_requests())


async def test_texts_of_implausible_size_are_refused(registry: RegistryServer, store: OllamaStore) -> None:
    manifest, _ = image(usual_layers())
    document = json.loads(manifest)
    document["layers"][1]["size"] = 1 << 40
    registry.faults.manifest = json.dumps(document).encode()
    await refused(store, registry, UpstreamError, "implausible")


async def test_a_model_larger_than_the_disk_is_refused_before_the_download(
    registry: RegistryServer, store: OllamaStore
) -> None:
    document = json.loads(image(usual_layers())[0])
    document["layers"][0]["size"] = 1 << 59
    registry.faults.manifest = json.dumps(document).encode()
    assert (await refused(store, registry, StorageError, "not enough disk space")).code == "STO003"
    assert registry.blob_requests() == []


async def test_a_blob_longer_than_announced_is_not_read_to_its_end(
    registry: RegistryServer, store: OllamaStore
) -> None:
    document = json.loads(registry.manifests["me/m:latest"])
    document["layers"][0]["size"] = 1000
    registry.faults.manifest = json.dumps(document).encode()
    await refused(store, registry, UpstreamError, "longer than the 1000 bytes announced")


async def test_a_model_that_does_not_exist_is_not_found(registry: RegistryServer, store: OllamaStore) -> None:
    registry.manifests.clear()
    error = await refused(store, registry, NotFound, "has no model me/m:latest")
    assert error.code == "MDL002"


async def test_an_unreachable_registry_is_named(store: OllamaStore, free_port: int) -> None:
    target = ModelName.parse(f"127.0.0.1:{free_port}/me/m")
    with pytest.raises(UpstreamError, match=f"cannot reach 127.0.0.1:{free_port}") as caught:
        async for _ in store.pull(target, source(), None, insecure=True):
            pass
    assert "--insecure" in (caught.value.hint or "")


async def test_without_insecure_nothing_is_sent_over_plain_http(registry: RegistryServer, store: OllamaStore) -> None:
    with pytest.raises(UpstreamError, match="cannot reach"):
        async for _ in store.pull(ModelName.parse(f"{registry.host}/me/m"), source(), None):
            pass
    assert registry.front.asked == []


# -- logins ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def guarded() -> Iterator[RegistryServer]:
    with RegistryServer(login=True) as server:
        server.add("me/m:latest", usual_layers(LARGE))
        yield server


async def test_an_anonymous_token_is_sent_to_the_registry_only(guarded: RegistryServer, store: OllamaStore) -> None:
    assert (await pull(store, guarded))[-1].status == "success"
    assert any(asked.headers.get("authorization") == f"Bearer {TOKEN}" for asked in guarded.front.asked)
    assert "scope=repository%3Apull" in next(asked.path for asked in guarded.front.asked if "/token" in asked.path)
    assert guarded.blob_requests()
    assert not any("authorization" in asked.headers for asked in guarded.blob_requests())


async def test_a_login_on_another_host_is_refused(guarded: RegistryServer, store: OllamaStore) -> None:
    guarded.faults.realm = f"{guarded.store_url}/token"
    error = await refused(store, guarded, UpstreamError, r"wants a login at another host \(localhost\)")
    assert error.code == "NET006"
    assert guarded.store.asked == []


@pytest.mark.parametrize("realm", ["file:///etc/passwd", "ftp://127.0.0.1/token", "//", "token"])
async def test_a_login_that_is_no_address_of_the_registry_is_refused(
    guarded: RegistryServer, store: OllamaStore, realm: str
) -> None:
    guarded.faults.realm = realm
    await refused(store, guarded, UpstreamError, "another host")


async def test_a_token_that_the_registry_refuses_is_an_error(guarded: RegistryServer, store: OllamaStore) -> None:
    guarded.faults.realm = f"{guarded.front.url}/v2/no/such/token/x"  # it is asked for a login there, too
    await refused(store, guarded, Unauthorized, "to visitors")


async def test_a_redirect_to_a_local_file_is_refused(registry: RegistryServer, store: OllamaStore) -> None:
    registry.faults.elsewhere = "file:///etc/passwd"
    await refused(store, registry, UpstreamError, "refused a redirect")


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
