"""The key by which a registry knows who pushes: Ollama's own, `~/.ollama/id_ed25519`."""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

from ollmlx.errors import Unauthorized

MAX_KEY: Final = 64 << 10
NOTHING: Final = base64.b64encode(hashlib.sha256().hexdigest().encode()).decode()
"""The hash of an empty body, as it is signed."""


def key_file() -> Path:
    return Path.home() / ".ollama" / "id_ed25519"


def login_address(realm: str, challenge: Mapping[str, str]) -> str:
    """Return the address that gives a token for a challenge, with a time and a number that are used once."""
    scopes = [("scope", scope) for scope in challenge.get("scope", "").split(" ")]
    once = [("ts", str(int(time.time()))), ("nonce", secrets.token_urlsafe(16))]
    query = urlencode(sorted([("service", challenge.get("service", "")), *scopes, *once]))
    return f"{realm}{'&' if '?' in realm else '?'}{query}"


def signature(url: str, file: Path) -> str:
    """Return the header `Authorization` for a GET request, signed with the key in a file. Raises Unauthorized."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

    try:
        key = load_ssh_private_key(file.read_bytes()[:MAX_KEY], password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise TypeError("it is not of the type ed25519")
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split(b" ")[1].decode()
        signed = key.sign(f"GET,{url},{NOTHING}".encode())
    except FileNotFoundError:
        raise Unauthorized(
            f"the registry wants to know who pushes, and there is no key in {file}",
            code="NET006",
            hint=f"ssh-keygen -t ed25519 -N '' -f {file}, then tell the registry {file.name}.pub",
        ) from None
    except (OSError, ValueError, TypeError) as error:
        raise Unauthorized(f"the key in {file} cannot be used: {error}", code="NET006") from error
    return f"{public}:{base64.b64encode(signed).decode()}"
