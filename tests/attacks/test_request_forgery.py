"""Attack: a registry that leads a pull to an address of the private network. Three pulls read an answer from there."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import StartDaemon
from tests.servers.ollama_folder import digest
from tests.servers.registry import RegistryServer
from tests.servers.serving import Answer, Served, no_wait

from ollmlx import ModelName, OllmlxError
from ollmlx.errors import Forbidden
from ollmlx.storekit import download_client, follow_redirects
from ollmlx.storekit.public_addresses import is_named, is_public
from ollmlx_ollama_store.source import OllamaSource

SECRET = b'{"role": "admin", "token": "of the internal service"}'


@pytest.fixture
def internal() -> Iterator[Served]:
    """A service of the private network, with an answer that no client of the daemon may see."""
    with closing(Served(lambda asked: Answer(200, SECRET))) as server:
        yield server


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "169.254.169.254", "10.0.0.1", "[::ffff:10.0.0.1]"]
)
def test_a_private_registry_is_not_asked_and_its_state_is_not_told(
    daemon: StartDaemon, host: str, free_port: int
) -> None:
    one = daemon(fakes=None, settings={"plugins": {"disabled": ["pypi"]}})
    with closing(Served(lambda asked: Answer(200, SECRET))) as server:
        told = set()
        for port in (int(server.url.rpartition(":")[2]), free_port):  # one is open, one is closed
            *_, last = one.lines("/api/pull", {"model": f"{host}:{port}/a/b", "insecure": True})
            told.add(last["error"].replace(str(port), "PORT"))
        assert server.asked == []
    assert len(told) == 1
    assert "error" in last
    assert SECRET.decode() not in str(told)


async def test_a_redirect_to_a_private_address_is_not_followed(internal: Served, tmp_path: Path) -> None:
    with RegistryServer() as registry:
        registry.add("me/m:latest")
        registry.faults.elsewhere = f"{internal.url.replace('127.0.0.1', 'localhost')}/admin"
        source = OllamaSource(private_hosts=("127.0.0.1",), attempts=1, sleep=no_wait)
        name = ModelName.parse(f"{registry.host}/me/m")
        with pytest.raises(OllmlxError) as refused:
            _ = [step async for step in source.fetch(name, tmp_path, insecure=True)]
    assert "not on a public address" in refused.value.message
    assert internal.asked == []
    assert hashlib.sha256(SECRET).hexdigest() not in refused.value.message
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == SECRET] == []


async def test_a_name_that_changes_its_address_is_refused_on_the_connection(
    internal: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["93.184.215.14"])
    resolve = socket.getaddrinfo

    def rebinding(host: Any, *rest: Any, **more: Any) -> Any:
        if host not in ("evil.example", b"evil.example"):
            return resolve(host, *rest, **more)
        return resolve(next(answers, "127.0.0.1"), *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    port = internal.url.rpartition(":")[2]
    with pytest.raises(Forbidden, match=r"evil\.example is not on a public address"):
        async with download_client() as client, follow_redirects(client, f"http://evil.example:{port}/", {}):
            pass
    assert internal.asked == [], "it connected, and sent nothing"


async def test_plain_http_is_no_right_of_a_request_when_keys_are_in_use(tmp_path: Path) -> None:
    with RegistryServer() as registry:
        registry.add("me/m:latest")
        name = ModelName.parse(f"{registry.host}/me/m")
        for hosts, refused in ((("localhost",), True), (("localhost", registry.host), False)):
            source = OllamaSource(private_hosts=hosts, has_keys=True, attempts=1, sleep=no_wait)
            steps = source.fetch(name, tmp_path, insecure=True)
            if refused:
                with pytest.raises(Forbidden, match="without TLS"):
                    await anext(steps)
                assert registry.front.asked == []
            else:
                assert [step async for step in steps]


def test_an_error_tells_neither_hash_nor_length_of_what_came(daemon: StartDaemon) -> None:
    with RegistryServer() as registry:
        settings = {"plugins": {"disabled": ["pypi"]}, "security": {"private_hosts": ["127.0.0.1", "localhost"]}}
        one = daemon(fakes=None, settings=settings)
        manifest, blobs = registry.add("me/m:latest")
        changed = json.loads(manifest)["layers"][0]["digest"]
        registry.blobs[changed] = bytes(reversed(blobs[changed]))
        *_, last = one.lines("/api/pull", {"model": f"{registry.host}/me/m", "insecure": True})
    assert last["error"].endswith(f"checksum mismatch for {changed.replace(':', '-')}")
    assert digest(registry.blobs[changed]).removeprefix("sha256:") not in json.dumps(last)
    assert digest(registry.blobs[changed]).removeprefix("sha256:") in one.log_text


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True), ("2606:4700::1111", True), ("127.0.0.1", False), ("10.1.2.3", False), ("100.64.0.1", False),
        ("169.254.169.254", False), ("192.168.0.1", False), ("0.0.0.0", False), ("224.0.0.1", False), ("::1", False),
        ("fe80::1%eth0", False), ("fd00::1", False), ("::ffff:127.0.0.1", False), ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False), ("64:ff9b::808:808", True), ("evil.example", False), ("", False),
    ],
)  # fmt: skip
def test_public_addresses_are_told_from_all_others(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_a_host_is_named_with_or_without_its_port() -> None:
    assert is_named("Registry.LAN", 5000, ["registry.lan"])
    assert is_named("registry.lan", 5000, ["registry.lan:5000"])
    assert not is_named("registry.lan", 5001, ["registry.lan:5000"])
    assert not is_named("registry.lan.evil", 5000, ["registry.lan"])


async def test_a_proxy_of_the_person_may_be_on_a_private_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Served(lambda asked: Answer(200, asked.path.encode()))) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        async with download_client() as client, follow_redirects(client, "http://example.com/x", {}) as answer:
            assert await answer.aread()
        with pytest.raises(Forbidden):
            async with download_client() as client, follow_redirects(client, "http://10.0.0.1/", {}):
                pass
    assert len(proxy.asked) == 1
