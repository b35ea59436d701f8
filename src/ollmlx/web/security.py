"""Which requests may be served: checks of the Host header, the origin of a web page and the API key; CORS headers.

Pure: the middleware applies the checks before it reads any of the body.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import socket
from collections.abc import Iterable
from contextlib import suppress
from urllib.parse import urlsplit

from ollmlx.errors import Forbidden, Unauthorized
from ollmlx.settings import Settings
from ollmlx.text.addresses import is_loopback
from ollmlx.web.server.sockets import served_address

OPEN_PATHS = frozenset({"/", "/livez", "/readyz"})
"""Served without an API key: monitors send none, and the responses say nothing of models."""

LOCAL_NAMES = frozenset({"localhost"})
"""Names that no foreign name server can give out. `host.docker.internal` is not among them: where no container engine
defines it, the network's name server may. Who calls from containers adds it to `[server] hosts`."""

LOCAL_ORIGINS = (
    r"https?://(localhost|127\.0\.0\.1|0\.0\.0\.0|\[::1\])(:[^\r\n]*)?",
    r"(app|file|tauri|vscode-webview|vscode-file)://[^\r\n]*",
)
"""Regular expressions of the origins of pages on this machine."""

HOME_ZONES = (".local", ".lan", ".internal")
"""Ends of names that no public name server gives out. They are names of this machine where it serves a network."""
CONTAINER_ZONE = ".docker.internal"
"""Names that only a container engine may define; see `LOCAL_NAMES`."""

CORS_MAX_AGE = b"43200"  # seconds for which a browser may remember a preflight
CORS_METHODS = b"GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
CORS_REQUEST_HEADERS = (
    "authorization, content-type, user-agent, accept, x-requested-with, x-request-id, x-priority, x-api-key, "
    "anthropic-version, anthropic-beta, anthropic-dangerous-direct-browser-access, openai-beta"
)
CORS_EXPOSED = b"X-Request-ID, Retry-After, X-Ollmlx-Queue-Ms, X-Ollmlx-Load-Ms, X-Ollmlx-Dropped-Tokens"

Headers = list[tuple[bytes, bytes]]
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._\-]+)(?::[0-9]{1,5})?")


class Policy:
    """The security settings, for the address that the daemon is bound to. Raises ConfigError for an invalid address.

    `machine`: the name of this machine.
    """

    def __init__(self, settings: Settings, machine: str | None = None) -> None:
        server, security = settings.server, settings.security
        bound = served_address(server.host)
        self._local = is_loopback(bound.host)
        self._allow_no_auth = security.allow_no_auth
        plain = [hashlib.sha256(key.encode()).digest() for key in security.api_keys]
        self._keys = [(key.digest, name) for name, key in security.keys.items()]
        self._keys += [(digest, f"key-{digest.hex()[:8]}") for digest in plain]
        origins = (re.escape(origin).replace(r"\*", "[^\r\n]*") for origin in server.origins)
        self._origins = re.compile("|".join((*LOCAL_ORIGINS, *origins)), re.IGNORECASE)
        self._names = LOCAL_NAMES | {name.lower() for name in (bound.host, *server.hosts)}
        self._serves_network = not self._local and bool(self._keys or security.allow_no_auth)
        if self._serves_network:
            name = (socket.gethostname() if machine is None else machine).lower().rstrip(".")
            self._names |= {name, name.partition(".")[0]} - {""}

    def check_host(self, values: list[str]) -> None:
        """Raise Forbidden unless there is exactly one Host header and it names this machine.

        This refuses DNS rebinding: a foreign page whose name resolves to this machine sends its own name here.
        """
        match = _HOST.fullmatch(values[0]) if len(values) == 1 else None
        if match is not None:
            name = match[1].strip("[]").lower()
            if name in self._names or (self._serves_network and _is_home_name(name)):
                return
            with suppress(ValueError):
                address = ipaddress.ip_address(name.partition("%")[0])
                # DNS rebinding needs a name, so a literal address is safe where the daemon listens on it.
                if address.is_loopback or not self._local:
                    return
        shown = repr(values[0][:100]) if values else "(none)"
        name = match[1].strip("[]").lower() if match is not None else "NAME"
        raise Forbidden(
            f"Host header {shown} is not allowed: if it is a name of this machine, set"
            f" OLLMLX_SERVER__HOSTS={name[:100]} for the daemon, or hosts in [server] of ollmlx.toml",
            code="SEC002",
        )

    def check_origin(self, origin: str, host: str) -> None:
        """Raise Forbidden for a request from a web page whose origin is neither local nor allowed by the settings."""
        if self._same_origin(origin, host) or self._origins.fullmatch(origin):
            return
        raise Forbidden(
            f"origin {origin[:200]!r} is not allowed",
            code="SEC003",
            hint="add it to origins in [server] of ollmlx.toml, or to OLLAMA_ORIGINS",
        )

    def check_key(self, authorization: Iterable[str], api_keys: Iterable[str], peer: str) -> str:
        """Return the name of a valid key, or the peer when no key is needed. Raises Unauthorized.

        A key of `api_keys` has no name; its fingerprint is one.

        Keys are sent in headers `Authorization: Bearer KEY` and, as Anthropic's clients do, `x-api-key: KEY`. Servers
        decode headers as Latin-1; keys are UTF-8.
        """
        if not self._keys:
            if not self._local and not self._allow_no_auth and not is_loopback(peer):
                raise Unauthorized(
                    "this server answers other machines only with an API key, and none is configured: set"
                    " OLLMLX_SECURITY__API_KEYS for the daemon, or api_keys in [security] of ollmlx.toml",
                    code="SEC001",
                    hint="ollmlx serve --lan sets it up; OLLMLX_SECURITY__ALLOW_NO_AUTH=true answers everybody",
                )
            return peer
        bearers = (value[7:] for value in authorization if value[:7].lower() == "bearer ")
        for key in (*bearers, *api_keys):
            digest = hashlib.sha256(key.strip().encode("latin-1")).digest()
            # All keys are compared, so that the time taken reveals nothing.
            found = [name for known, name in self._keys if hmac.compare_digest(digest, known)]
            if found:
                return found[0]
        raise Unauthorized(
            "unauthorized: a valid API key is needed, as `Authorization: Bearer KEY`: set OLLAMA_API_KEY,"
            " OPENAI_API_KEY or ANTHROPIC_API_KEY for the client",
            code="SEC004",
        )

    def _same_origin(self, origin: str, host: str) -> bool:
        try:
            return urlsplit(origin).netloc.lower() == host.lower() and origin.startswith(("http://", "https://"))
        except ValueError:
            return False


def _is_home_name(name: str) -> bool:
    return name.endswith(HOME_ZONES) and not f".{name}".endswith(CONTAINER_ZONE)


def cors_headers(origin: str) -> Headers:
    """Return the headers of every response to a page of an allowed origin."""
    return [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", CORS_EXPOSED),
        (b"vary", b"Origin"),
    ]


def preflight_headers(requested: str, private_network: bool) -> Headers:
    """Return the headers of the response to a preflight, besides `cors_headers`.

    requested: the header names that the page wants to send, separated by commas. Those of OpenAI's client are allowed.
    """
    names = [name.strip().lower() for name in requested.split(",")]
    extra = [name for name in names if name.startswith("x-stainless-") and name.replace("-", "").isalnum()]
    headers = [
        (b"access-control-allow-methods", CORS_METHODS),
        (b"access-control-allow-headers", ", ".join([CORS_REQUEST_HEADERS, *extra]).encode()),
        (b"access-control-max-age", CORS_MAX_AGE),
    ]
    if private_network:
        headers.append((b"access-control-allow-private-network", b"true"))
    return headers
