"""Attack: a report that a person sends for help holds a secret. URLs' users, Basic and cloud credentials did."""

from __future__ import annotations

import base64
import json
import random
import string
import zipfile
from itertools import product
from pathlib import Path

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import StartDaemon

from ollmlx.errors import ConfigError
from ollmlx.errors.secrets import mask_text, mask_tree
from ollmlx.text.addresses import Address

LETTERS = string.ascii_letters + string.digits
KNOWN = {
    "Hugging Face": "hf_{}", "OpenAI": "sk-{}", "OpenAI project": "sk-proj-{}", "Anthropic": "sk-ant-api03-{}",
    "GitHub": "ghp_{}", "GitHub app": "ghs_{}", "GitHub fine": "github_pat_11A{}", "GitLab": "glpat-{}",
    "PyPI": "pypi-AgEIcHlwaS5vcmc{}", "npm": "npm_{}", "Docker": "dckr_pat_{}", "Slack": "xoxb-123-{}",
    "Slack app": "xapp-1-{}", "NVIDIA": "nvapi-{}", "Groq": "gsk_{}", "Replicate": "r8_{}", "SendGrid": "SG.{}.x",
    "DigitalOcean": "dop_v1_{}", "Google": "AIza{}", "Google login": "ya29.{}", "Google client": "GOCSPX-{}",
    "Stripe": "sk_live_{}", "Stripe hook": "whsec_{}", "Vault": "hvs.{}", "age": "AGE-SECRET-KEY-1{}",
    "Atlassian": "ATATT3{}", "Tailscale": "tskey-auth-{}", "JWT": "eyJhbGciOiJIUzI1NiJ9.{}.c2ln",
}  # fmt: skip
"""Tokens that are known by how they begin, wherever they stand."""
ANYWHERE = (
    "{}", "the hub refuses {} here", '{{"x": "{}"}}', "x = '{}'", "https://example.org/?x={}", "[{}]", "header: {}",
    "WARNING hub: 401 for {}, giving up", "curl -H 'X: {}' https://example.org", "a\n{}\nb",
)  # fmt: skip
NAMES = (
    "HF_TOKEN", "API_KEY", "api-key", "apikey", "password", "db_password", "passwd", "AWS_SECRET_ACCESS_KEY",
    "aws_access_key_id", "AccountKey", "SECRET", "client_secret", "private_key", "credentials", "X-Amz-Signature",
    "refresh_token", "passphrase", "SharedAccessSignature", "TWINE_PASSWORD", "UV_INDEX_PRIVATE_PASSWORD",
)  # fmt: skip
"""Names of anything: only the name tells that the value is a secret."""
BESIDE = ("{}={}", "export {}={}", '"{}": "{}"', "{} = '{}'", "{}: {}", "x;{}={};y", "https://example.org/a?{}={}&b=1")
ADDRESSES = (
    "https://user:{}@pypi.example.org/simple", "https://{}@pypi.example.org/simple", "https://{}:x@host/", "http://a%40b:{}@h:80",
    "git+https://{}@github.com/a/b", "postgresql://me:{}@db/x", "socks5h://me:{}@proxy:1080", "redis://:{}@cache:6379/0",
    "PIP_INDEX_URL=https://__token__:{}@index/simple", "proxy 'http://me:{}@10.0.0.1:3128' refused",
    "https://store.blob.core.windows.net/c/b?sv=2024&sig={}", "https://b.s3.amazonaws.com/k?X-Amz-Credential={}&X-Amz-Date=1",
    "https://b.s3.amazonaws.com/k?a=1&X-Amz-Signature={}", "https://maps.example.org/?key={}", "https://h/?code={}#x",
    "https://hooks.slack.com/services/T0/B0/{}", "https://discord.com/api/webhooks/1/{}",
)  # fmt: skip
HEADERS = (
    "Authorization: Bearer {}", "authorization: Basic {}", "Proxy-Authorization: Basic {}",
    "'Authorization': 'Token {}'",
    "x-api-key: {}", "Cookie: session={}; theme=dark", "Set-Cookie: id={}; HttpOnly", "bearer {}", "Basic {}==",
    "AWS4-HMAC-SHA256 Credential=x, Signature={}", "curl -u me:{} https://h", "curl --user me:{} https://h",
    "twine upload --password {}", "ollmlx --api-key {} list", "tool --hub-token={}", "machine h login me password {}",
    "-----BEGIN RSA PRIVATE KEY-----\n{}\nMIIE\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN OPENSSH PRIVATE KEY-----\\n{}\\n",
)  # fmt: skip
KINDS = (
    *(place.format(form.format("{0}")) for form, place in product(KNOWN.values(), ANYWHERE)),
    *(place.format(name, "{0}") for name, place in product(NAMES, BESIDE)),
    *(address.format("{0}") for address in ADDRESSES),
    *(header.format("{0}") for header in HEADERS),
    *("AKIA{0}", "aws: ASIA{0}", "DefaultEndpointsProtocol=https;AccountName=x;AccountKey={0};EndpointSuffix=y"),
    *(f"{header} and {address}" for header, address in product(HEADERS[:4], ADDRESSES[:14])),
)  # fmt: skip


def written(kind: str, secret: str) -> str:
    return kind.replace("{0}", secret).replace("{}", secret)


def test_there_are_500_kinds() -> None:
    assert len(set(KINDS)) >= 500


@hypothesis.settings(max_examples=15)
@given(st.text(LETTERS, min_size=20, max_size=40).filter(lambda text: any(map(str.isupper, text))))
def test_no_kind_of_secret_is_left_in_a_text_or_in_data(secret: str) -> None:
    left = [kind for kind in KINDS if secret in mask_text(written(kind, secret))]
    assert left == []
    tree = [{"a": [written(kind, secret)]} for kind in KINDS] + [{name: {"x": [secret]}} for name in NAMES]
    assert secret not in json.dumps(mask_tree(tree))


@pytest.mark.parametrize("user", ["me", "me:pass word"])
def test_basic_credentials_are_masked_with_and_without_their_header(user: str) -> None:
    encoded = base64.b64encode(f"{user}:x".encode()).decode()
    for text in (
        f"Authorization: Basic {encoded}",
        f"sent Basic {encoded} to h",
        json.dumps({"h": f"basic {encoded}"}),
    ):
        assert encoded.rstrip("=") not in mask_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "https://example.org/a/b?x=1", "prompt_tokens=1234 cached_tokens: 100", "basic functionality",
        "max_tokens=4096",
        "hf.co/org/name:latest", "hub:org/name@main", "a@b.example", "ENV021 keyboard: missing", "/home/me/sk/lib.py",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text: str) -> None:
    assert mask_text(text) == text


def test_neither_the_bundle_nor_the_shown_settings_hold_one(daemon: StartDaemon) -> None:
    rng = random.Random(14)
    secrets = {kind: "Q" + "".join(rng.choices(LETTERS, k=24)) for kind in KINDS}
    texts = {kind: written(kind, secret) for kind, secret in secrets.items()}
    settings = {
        "models": {"parrot": {"system": "\n".join(texts.values())}},
        "server": {"origins": [text for text in texts.values() if "://" in text]},
    }
    server = daemon(settings=settings)
    logs = Path(server.state / "logs")
    with (logs / "daemon.log").open("a", encoding="utf-8") as log:
        log.writelines(f"{text}\n" for text in texts.values())
    server.environment |= {f"PIP_X{number}": text for number, text in enumerate(texts.values())}
    file = server.folder / "bundle.zip"
    shown = server.cli("config", "show").stdout + server.cli("config", "show", "--json").stdout
    server.cli("doctor", "--bundle", str(file), "--config", str(server.config))
    with zipfile.ZipFile(file) as archive:
        held = {name: archive.read(name).decode() for name in archive.namelist()} | {"config show": shown}
    assert "PIP_X1" in held["settings.json"]
    assert [(name, kind) for name, text in held.items() for kind, secret in secrets.items() if secret in text] == []


def test_a_fault_of_the_settings_shows_none(daemon: StartDaemon) -> None:
    server = daemon()
    secret = "Q8n2IePyOZecb7uzuZHafs3nh"
    values = [written(kind, secret) for kind in (*ADDRESSES, *HEADERS) if "\n" not in kind]
    server.config.write_text(
        "[server]\nhost = 1\norigins = 3\n[aliases]\n"
        + "".join(f'"x{number}" = {json.dumps(value + " !")}\n' for number, value in enumerate(values))
        + "[storage]\nstores = "
        + json.dumps(values[0]),
        encoding="utf-8",
    )
    done = server.cli("config", "check")
    assert "CFG004" in done.stderr
    assert secret not in done.stdout + done.stderr


@pytest.mark.parametrize("before", ["http://user:{}@", "user:{}@", "https://{}@", "{}:x@"])
def test_an_invalid_address_shows_none(before: str) -> None:
    """The doctor printed the password in OLLAMA_HOST, and wrote it into `--json` and the bundle."""
    secret = "Q8n2IePyOZecb7uzuZHafs3nh"
    for after in ("127.0.0.1:1", "[::1", "host:port"):
        with pytest.raises(ConfigError) as refused:
            Address.parse(before.format(secret) + after)
        assert secret not in str(refused.value) + str(refused.value.hint)
