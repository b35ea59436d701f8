"""Pushes to a registry: in parts, continued where they stopped, signed with Ollama's key."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from tests.servers.ollama_folder import OllamaFolder, digest, tiny_gguf, usual_layers
from tests.servers.registry import RegistryServer
from tests.servers.serving import no_wait
from tests.unit.plugins.ollama_store.conftest import found

from ollmlx import ModelName
from ollmlx.errors import Forbidden, Unauthorized, Unsupported, UpstreamError
from ollmlx.types import PullProgress
from ollmlx_ollama_store import upload
from ollmlx_ollama_store.source import OllamaSource
from ollmlx_ollama_store.store import OllamaStore

LARGE = tiny_gguf(weights=1 << 20)
PART = 1 << 18


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def registry(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RegistryServer]:
    """An empty registry. Files go there in parts of 256 KiB."""
    monkeypatch.setattr(upload, "SMALLEST_PART", PART)
    with RegistryServer() as server:
        yield server


async def push(
    store: OllamaStore, registry: RegistryServer, name: str = "m", *, as_name: str = "me/m", attempts: int = 3
) -> list[PullProgress]:
    """Push an installed model under another name."""
    source = OllamaSource("", store.layout, private_hosts=("127.0.0.1", "localhost"), attempts=attempts, sleep=no_wait)
    target = ModelName.parse(f"{registry.host}/{as_name}")
    return [step async for step in source.push(await found(store, name), target, insecure=True)]


def parts_of(registry: RegistryServer) -> list[str]:
    return [asked.headers["content-range"] for asked in registry.front.asked if asked.method == "PATCH"]


async def test_a_pushed_model_can_be_pulled_and_is_not_sent_twice(
    registry: RegistryServer, ollama: OllamaFolder, store: OllamaStore
) -> None:
    written = ollama.add("m", usual_layers(LARGE))
    steps = await push(store, registry)
    assert [steps[0].status, steps[-2].status, steps[-1].status] == [
        "retrieving manifest",
        "pushing manifest",
        "success",
    ]
    assert registry.manifests["me/m:latest"] == written.read_bytes()
    assert registry.blobs[digest(LARGE)] == LARGE
    counts = [step.completed or 0 for step in steps if step.digest == digest(LARGE)]
    assert counts == sorted(counts)
    assert counts[-1] == len(LARGE)
    pieces = [LARGE[at : at + PART] for at in range(0, len(LARGE), PART)]
    hashes = b"".join(hashlib.md5(piece, usedforsecurity=False).digest() for piece in pieces)
    assert f"{hashlib.md5(hashes, usedforsecurity=False).hexdigest()}-{len(pieces)}" in registry.tags
    before = len(parts_of(registry))
    assert (await push(store, registry, as_name="me/other"))[-1].status == "success"
    assert len(parts_of(registry)) == before
    assert not any((ollama.root / ".ollmlx" / "uploads").iterdir())


async def test_an_interrupted_push_goes_on_where_it_stopped(
    registry: RegistryServer, ollama: OllamaFolder, store: OllamaStore
) -> None:
    ollama.add("m", {"model": LARGE})
    registry.lost = {2}
    assert (await push(store, registry))[-1].status == "success", "a lost part is continued by the same push"
    half = PART + PART // 2
    assert parts_of(registry)[1:3] == [f"{PART}-{2 * PART - 1}", f"{half}-{2 * PART - 1}"]

    registry.blobs.clear()
    registry.front.asked.clear()
    registry.parts = 0
    with pytest.raises(UpstreamError, match="answered 503") as caught:
        await push(store, registry, attempts=1)
    assert caught.value.hint == "push again to go on where it stopped"
    registry.lost = set()
    registry.front.asked.clear()
    await push(store, registry)
    assert parts_of(registry)[0] == f"{half}-{2 * PART - 1}", "the next push continues, too"
    assert registry.blobs[digest(LARGE)] == LARGE

    registry.blobs.clear()
    registry.parts, registry.lost = 0, {2}
    with pytest.raises(UpstreamError):
        await push(store, registry, attempts=1)
    registry.uploads.clear()
    registry.lost = set()
    await push(store, registry)
    assert registry.blobs[digest(LARGE)] == LARGE, "an upload that the registry has forgotten begins again"


async def test_a_registry_may_send_parts_to_another_host_and_take_layers_from_another_model(
    registry: RegistryServer, ollama: OllamaFolder, store: OllamaStore
) -> None:
    ollama.add("m", {"model": LARGE})
    registry.redirects = True
    assert (await push(store, registry))[-1].status == "success"
    assert registry.blobs[digest(LARGE)] == LARGE


@pytest.mark.parametrize("known", [True, False])
async def test_a_login_is_signed_with_the_key_of_ollama(
    registry: RegistryServer, ollama: OllamaFolder, store: OllamaStore, home: Path, known: bool
) -> None:
    ollama.add("m")
    registry.login = True
    key = Ed25519PrivateKey.generate()
    registry.pusher = "?"
    with pytest.raises(Unauthorized, match=r"there is no key in .*/\.ollama/id_ed25519") as caught:
        await push(store, registry)
    assert (caught.value.hint or "").startswith("ssh-keygen -t ed25519")
    (home / ".ollama").mkdir()
    file = home / ".ollama" / "id_ed25519"
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    if known:
        registry.pusher = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1].decode()
        assert (await push(store, registry))[-1].status == "success"
        return
    with pytest.raises(Unauthorized, match=r"does not take .* from this key") as caught:
        await push(store, registry)
    assert str(file) in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("target", "words"),
    [("hf.co/me/m", "cannot be pushed"), ("m", "127.0.0.1:1 may not be used without TLS")],
)
async def test_what_a_registry_does_not_take_is_refused_before_anything_is_sent(
    ollama: OllamaFolder, store: OllamaStore, target: str, words: str
) -> None:
    ollama.add("m")
    source = OllamaSource("127.0.0.1:1", store.layout, has_keys=True)
    source.private_hosts = ()
    with pytest.raises((Unsupported, Forbidden), match=words):
        _ = [step async for step in source.push(await found(store, "m"), ModelName.parse(target), insecure=True)]
