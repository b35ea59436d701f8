"""Pulls from a hub with the hub's real client library: complete, refused, interrupted and resumed."""

from __future__ import annotations

import json
import shutil

import pytest
from tests.servers.hub import HubServer, sha256
from tests.servers.tiny import tiny_files
from tests.unit.plugins.hub.conftest import REPO, Pull, found

from ollmlx import ModelName, OllmlxError
from ollmlx.errors import Forbidden, NotFound, StorageError, Unauthorized, Unsupported, UpstreamError
from ollmlx_hub.client import HubAccess
from ollmlx_hub.source import HubSource
from ollmlx_hub.store import MlxStore

pytestmark = pytest.mark.slow
NAME = ModelName.parse(REPO)


async def test_a_pull_installs_a_complete_verified_model(hub: HubServer, store: MlxStore, pull: Pull) -> None:
    steps = await pull()
    model = await found(store, REPO)
    files = hub.repositories[REPO].revisions["main"]
    assert {path: (model.path / path).read_bytes() for path in files} == files
    manifest = json.loads((model.path / "ollmlx.json").read_text())
    assert {file["path"]: file["sha256"] for file in manifest["files"]} == {
        path: sha256(data) for path, data in files.items()
    }
    assert manifest["revision"] == hub.repositories[REPO].commit("main")
    assert (model.source, model.defaults.license) == (f"hub:{REPO}@main", ("apache-2.0",))
    statuses = [step.status for step in steps]
    assert statuses[0] == "pulling manifest"
    assert statuses[-3:] == ["verifying sha256 digest", "writing manifest", "success"]
    weights = [step for step in steps if step.digest == f"sha256:{sha256(files['model.safetensors'])}"]
    assert weights[-1].completed == weights[-1].total == len(files["model.safetensors"])
    assert weights[-1].status == f"pulling {sha256(files['model.safetensors'])[:12]}"
    assert not list(model.path.glob(".*"))
    assert not list((store.layout.root / ".staging").iterdir())


@pytest.mark.fault(32)
async def test_only_what_a_model_needs_is_fetched(hub: HubServer, store: MlxStore, pull: Pull) -> None:
    unwanted = {
        "modeling_tiny.py": b"import os",
        "pytorch_model.bin": b"\x80pickle",
        "consolidated.safetensors": b"twice the weights",
        "README.md": b"# hello",
        "nested/deep/model.safetensors": b"no",
        "model.safetensors.exe": b"no",
    }
    hub.add("org/messy", {**tiny_files(), **unwanted, "LICENSE": b"Do what you like."})
    await pull("org/messy")
    model = await found(store, "org/messy")
    assert {path.name for path in model.path.rglob("*")} == {*tiny_files(), "LICENSE", "ollmlx.json"}
    assert model.defaults.license == ("Do what you like.",)
    assert not [asked for asked in hub.front.asked if any(path in asked.path for path in unwanted)]


@pytest.mark.fault(29)
async def test_the_token_stays_with_the_hub_and_nothing_else_is_sent(hub: HubServer, pull: Pull) -> None:
    hub.repositories[REPO].token = "hf_secret"
    await pull(token="hf_secret")
    assert {asked.headers.get("authorization") for asked in hub.front.asked} == {"Bearer hf_secret"}
    assert hub.large_requests()
    assert not [asked for asked in hub.store.asked if "authorization" in asked.headers]
    assert {asked.headers["user-agent"].partition("/")[0] for asked in hub.front.asked} == {"ollmlx"}
    assert not [asked for asked in hub.front.asked if "agent-harnesses" in asked.path or "xet" in asked.path]


@pytest.mark.fault(28)
async def test_a_broken_connection_is_resumed_at_the_same_byte(hub: HubServer, store: MlxStore, pull: Pull) -> None:
    hub.faults.cuts = [300_000, 200_000]
    await pull()
    ranges = [asked.headers.get("range") for asked in hub.large_requests()]
    assert ranges == [None, "bytes=300000-", "bytes=500000-"]
    assert await store.resolve(NAME) is not None


@pytest.mark.fault(28)
async def test_a_failed_pull_is_resumed_by_the_next_pull(hub: HubServer, store: MlxStore, pull: Pull) -> None:
    hub.faults.cuts = [400_000]
    with pytest.raises(UpstreamError, match=r"cannot download .*RemoteProtocolError"):
        await pull(attempts=1)
    assert await store.list() == []
    assert await store.resolve(NAME) is None
    await pull()
    assert [asked.headers.get("range") for asked in hub.large_requests()] == [None, "bytes=400000-"]


@pytest.mark.fault(29)
@pytest.mark.parametrize(
    ("fault", "value", "message"),
    [
        ("spoil", True, "checksum mismatch"),
        ("page", b"<html>please log in</html>", "the connection ended early"),
        ("elsewhere", "file:///etc/passwd", "refused a redirect"),
        ("statuses", [404] * 9, "answered 404"),
    ],
    ids=["wrong content", "a page instead of the file", "a redirect to a file", "a link that ran out"],
)
async def test_a_wrong_file_is_never_installed(
    hub: HubServer, store: MlxStore, fault: str, value: object, message: str, pull: Pull
) -> None:
    setattr(hub.faults, fault, value)
    with pytest.raises(UpstreamError, match=message):
        await pull(attempts=1)
    assert await store.list() == []
    assert not store.layout.target(NAME).exists()


async def test_pulling_again_downloads_nothing(hub: HubServer, store: MlxStore, pull: Pull) -> None:
    await pull()
    before, asked = await store.resolve(NAME), len(hub.large_requests())
    hub.front.asked.clear()
    steps = await pull()
    assert steps[-1].status == "success"
    assert len(hub.large_requests()) == asked
    assert not [one for one in hub.front.asked if "/resolve/" in one.path]
    assert await store.resolve(NAME) == before


async def test_a_new_revision_fetches_what_changed(hub: HubServer, store: MlxStore, pull: Pull) -> None:
    await pull()
    before, asked = await found(store, REPO), len(hub.large_requests())
    tokenizer = b'{"model": {"vocab": {"a": 0}}}'
    hub.repositories[REPO].revisions["main"] |= {"tokenizer.json": tokenizer}
    await pull()
    after = await found(store, REPO)
    assert after.digest != before.digest
    assert (after.path / "tokenizer.json").read_bytes() == tokenizer
    assert len(hub.large_requests()) == asked


async def test_a_damaged_model_is_repaired_by_pulling(store: MlxStore, pull: Pull) -> None:
    await pull()
    model = await found(store, REPO)
    (model.path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(StorageError, match="has 5 bytes, its manifest says"):
        await store.resolve(NAME)
    await pull()
    assert await store.resolve(NAME) is not None


async def test_a_tag_is_a_revision(hub: HubServer, store: MlxStore, pull: Pull) -> None:
    hub.repositories[REPO].revisions["v2"] = tiny_files(fill=9)
    await pull(f"{REPO}:v2")
    model = await found(store, f"{REPO}:v2")
    assert model.source == f"hub:{REPO}@v2"
    assert (model.path / "model.safetensors").read_bytes() == tiny_files(fill=9)["model.safetensors"]


PROBLEMS: list[tuple[str, type[OllmlxError], str, str]] = [
    ("org/nothing", NotFound, "org/nothing does not exist", "HF_TOKEN"),
    (f"{REPO}:v9", NotFound, "has no revision 'v9'", "branches"),
    ("org/gated", Forbidden, "org/gated is gated", "accept them at"),
    ("org/private", NotFound, "does not exist", "for a private repository set HF_TOKEN"),
    ("org/gguf", Unsupported, "it holds GGUF files only", "mlx-community/gguf-4bit"),
    ("org/pickle", Unsupported, "its weights are pickles", "safetensors"),
    ("org/empty", Unsupported, "it holds no weights", "check the name"),
    ("org/lora", Unsupported, "not those of a language model", "ADAPTER"),
    ("org/bare", Unsupported, "has no config.json", ""),
    ("org/mute", Unsupported, "has no tokenizer", ""),
    ("org/broken", UpstreamError, "config.json is not valid JSON", ""),
    ("org/typeless", UpstreamError, "names no model_type", ""),
]


@pytest.mark.parametrize(("name", "kind", "message", "hint"), PROBLEMS)
async def test_an_unusable_repository_is_refused_with_a_reason_before_large_files_are_fetched(
    hub: HubServer, store: MlxStore, pull: Pull, name: str, kind: type[OllmlxError], message: str, hint: str
) -> None:
    good = tiny_files()
    hub.add("org/gated", good, gated=True)
    hub.add("org/private", good, token="x")
    hub.add("org/gguf", {"gguf.Q4_0.gguf": b"GGUF", "config.json": b"{}"})
    hub.add("org/pickle", {"pytorch_model.bin": b"\x80", "config.json": b"{}"})
    hub.add("org/empty", {"README.md": b""})
    hub.add("org/lora", {"adapters.safetensors": b"x", "adapter_config.json": b"{}"})
    hub.add("org/bare", {path: data for path, data in good.items() if path != "config.json"})
    hub.add("org/mute", {path: data for path, data in good.items() if not path.startswith("tokenizer")})
    hub.add("org/broken", {**good, "config.json": b"[1, 2"})
    hub.add("org/typeless", {**good, "config.json": b'{"hidden_size": 3}'})
    with pytest.raises(kind, match=message) as caught:
        await pull(name)
    assert hint in (caught.value.hint or "")
    assert not hub.large_requests()
    assert await store.list() == []


@pytest.mark.finding("NET005", "NET006")
async def test_a_wrong_token_and_an_unreachable_hub_are_named_as_the_cause(
    hub: HubServer, pull: Pull, free_port: int
) -> None:
    hub.repositories[REPO].token = "right"
    with pytest.raises(Unauthorized, match="does not accept the token") as refused:
        await pull(token="wrong")
    with pytest.raises(UpstreamError, match=f"cannot reach the hub at http://127.0.0.1:{free_port}") as unreachable:
        await pull(url=f"http://127.0.0.1:{free_port}")
    assert (refused.value.code, unreachable.value.code) == ("NET006", "NET005")


@pytest.mark.fault(27)
async def test_a_full_disk_is_found_before_the_download(
    hub: HubServer, pull: Pull, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(StorageError, match=r"not enough disk space: 9.* KB needed, 1 B free"):
        await pull()
    assert not hub.large_requests()


async def test_pushing_uploads_the_models_files_and_nothing_else_and_needs_a_token(
    hub: HubServer, store: MlxStore, pull: Pull
) -> None:
    await pull()
    model, target = await found(store, REPO), ModelName.parse("me/mine")
    (model.path / ".secret.json").write_text("{}")
    with pytest.raises(Unauthorized, match="needs a token") as caught:
        _ = [step async for step in HubSource(HubAccess(hub.url)).push(model, target)]
    assert "HF_TOKEN" in (caught.value.hint or "")
    steps = [step async for step in HubSource(HubAccess(hub.url, "t")).push(model, target)]
    assert steps[-1].status == "success"
    assert hub.uploads["me/mine"] == hub.repositories[REPO].revisions["main"]
