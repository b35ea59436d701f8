"""Which requests are allowed: Host headers, origins of web pages, API keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from ollmlx.errors import Forbidden, Unauthorized
from ollmlx.settings import Settings
from ollmlx.web.security import Policy


def policy(host: str = "127.0.0.1", hosts: Sequence[str] = (), origins: Sequence[str] = (), **security: Any) -> Policy:
    server = {"host": host, "hosts": hosts, "origins": origins}
    return Policy(Settings.model_validate({"server": server, "security": security}))


LOCAL = policy()
EVERYWHERE = policy("0.0.0.0", hosts=["box.lan"])


@pytest.mark.parametrize(
    "hosts",
    [
        ("localhost", "LOCALHOST:11434", "localhost:8080"),
        ("127.0.0.1", "127.0.0.1:11434", "127.8.8.8", "[::1]:11434", "[::1]"),
    ],
    ids=["names", "addresses"],
)
def test_names_of_this_machine_are_allowed(hosts: Sequence[str]) -> None:
    for host in hosts:
        LOCAL.check_host([host])
        EVERYWHERE.check_host([host])


@pytest.mark.finding("SEC002")
@pytest.mark.parametrize(
    "hosts",
    [
        ["evil.example", "evil.example:11434", "evil.example.", "localhost."],
        ["localhost.evil.example", "127.0.0.1.evil.example", "evil.localhost", "printer.local", "host.docker.internal"],
        ["", "localhost@evil.example", "localhost:80:80", "[::1", "localhost\x00", " localhost"],
    ],
    ids=["foreign", "similar", "malformed"],
)
@pytest.mark.fault(46)
def test_other_names_are_refused_wherever_the_daemon_is_bound(hosts: list[str]) -> None:
    for sent in [[host] for host in hosts] + [[], ["localhost", "localhost"], ["localhost", hosts[0]]]:
        for bound in (LOCAL, EVERYWHERE):
            with pytest.raises(Forbidden) as refused:
                bound.check_host(sent)
            assert refused.value.code == "SEC002"


@pytest.mark.parametrize("security", [{"api_keys": ["secret"]}, {"allow_no_auth": True}], ids=["key", "no key needed"])
def test_a_machine_that_serves_its_network_is_called_by_its_names_there(security: dict[str, Any]) -> None:
    settings = Settings.model_validate({"server": {"host": "0.0.0.0", "hosts": ["ollama"]}, "security": security})
    serving = Policy(settings, machine="Attic.example.org")
    for host in (
        "attic",
        "ATTIC.example.org:11434",
        "attic.local:11434",
        "box.lan",
        "box.corp.internal",
        "ollama:11434",
    ):
        serving.check_host([host])
    foreign = ("evil.example", "attic.evil.example", "local", "evillan", "evil.lan.example", "other")
    for host in (*foreign, "host.docker.internal", "docker.internal", "gateway.docker.internal", ".local@evil"):
        with pytest.raises(Forbidden):
            serving.check_host([host])


def test_an_error_names_the_variable_and_the_key_to_set() -> None:
    with pytest.raises(Forbidden, match=r"OLLMLX_SERVER__HOSTS=box\.example .*hosts in \[server\]"):
        LOCAL.check_host(["box.example:80"])
    with pytest.raises(Unauthorized, match=r"OLLMLX_SECURITY__API_KEYS .*api_keys in \[security\]") as refused:
        EVERYWHERE.check_key([], [], "192.168.1.7")
    assert "OLLMLX_SECURITY__ALLOW_NO_AUTH=true" in (refused.value.hint or "")
    with pytest.raises(Unauthorized, match=r"OLLAMA_API_KEY, OPENAI_API_KEY or ANTHROPIC_API_KEY"):
        policy(api_keys=["secret"]).check_key([], [], "192.168.1.7")


def test_literal_addresses_and_configured_names_are_allowed_where_the_daemon_listens_on_them() -> None:
    for host in ("192.168.1.20:11434", "[fe80::1]", "BOX.lan:11434"):
        EVERYWHERE.check_host([host])
        with pytest.raises(Forbidden):
            LOCAL.check_host([host])


@pytest.mark.parametrize(
    "origins",
    [
        ["http://here:11434"],
        ["http://localhost", "http://localhost:3000", "https://127.0.0.1:8443", "http://0.0.0.0:5000"],
        ["http://[::1]:3000", "app://obsidian.md", "file://", "tauri://localhost", "vscode-webview://abc"],
        ["https://ui.example", "https://a.b.example:8443"],
    ],
    ids=["the daemon's own", "local", "programs", "configured"],
)
def test_local_and_configured_origins_are_allowed(origins: list[str]) -> None:
    configured = policy(origins=["https://ui.example", "https://*.b.example:*"])
    for origin in origins:
        configured.check_origin(origin, "here:11434")
    policy(origins=["*"]).check_origin("https://evil.example", "localhost")


@pytest.mark.finding("SEC003")
@pytest.mark.parametrize(
    "origins",
    [
        ["https://evil.example", "http://other:11434", "chrome-extension://abc", "null", ""],
        ["http://localhost.evil.example", "http://evil.example/http://localhost", "https://ui.example.evil.example"],
    ],
    ids=["foreign", "similar"],
)
@pytest.mark.fault(46)
def test_other_origins_are_refused(origins: list[str]) -> None:
    for origin in origins:
        with pytest.raises(Forbidden) as refused:
            policy(origins=["https://ui.example"]).check_origin(origin, "here:11434")
        assert refused.value.code == "SEC003"


@pytest.mark.fault(47)
@pytest.mark.finding("SEC004")
@pytest.mark.parametrize("sent", [[], [""], ["wrong"], ["secret other"], ["secretx"], ["secre"], ["Ñ"], ["ÿ"]])
def test_a_missing_or_wrong_key_is_refused(sent: list[str]) -> None:
    with pytest.raises(Unauthorized) as refused:
        policy(api_keys=["secret", "other"]).check_key([], sent, "127.0.0.1")
    assert refused.value.code == "SEC004"
    assert "secret" not in refused.value.message


def test_a_valid_key_is_named_by_a_fingerprint() -> None:
    keyed = policy(api_keys=["secret", "ключ"])
    russian = "ключ".encode().decode("latin-1")
    first, second = keyed.check_key([], ["secret"], "x"), keyed.check_key([], ["wrong", russian], "x")
    assert first.startswith("key-")
    assert "secret" not in first
    assert first != second


@pytest.mark.finding("SEC001")
def test_other_machines_need_a_key_unless_the_settings_allow_it() -> None:
    for local in ("127.0.0.1", "::ffff:127.0.0.1"):
        assert EVERYWHERE.check_key([], [], local) == local
    with pytest.raises(Unauthorized) as refused:
        EVERYWHERE.check_key([], [], "192.168.1.7")
    assert refused.value.code == "SEC001"
    policy("0.0.0.0", allow_no_auth=True).check_key([], [], "192.168.1.7")
    LOCAL.check_key([], [], "192.168.1.7")


def test_keys_are_read_from_both_headers_that_clients_use() -> None:
    keyed = policy(api_keys=["one", "ключ"])
    russian = "ключ".encode().decode("latin-1")
    for bearers, keys in (["Bearer one"], []), (["bearer  one "], []), ([], ["one"]), (["Basic x"], ["one"]):
        assert keyed.check_key(bearers, keys, "x") == keyed.check_key([], ["two", "one"], "x")
    assert keyed.check_key([f"Bearer {russian}"], [], "x") == keyed.check_key([], [russian], "x")
    with pytest.raises(Unauthorized):
        keyed.check_key(["Basic one", "one"], [], "x")
