"""Request ids: taken over when a client sends a sane one, made otherwise. Pure."""

from __future__ import annotations

import re
import secrets

HEADER = "x-request-id"

_SANE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=@-]{0,127}")


def request_id(sent: str | None) -> str:
    """The id of a request: the client's own, when it can stand in a log line as it is, or a new one."""
    if sent is not None and _SANE.fullmatch(sent):
        return sent
    return f"req-{secrets.token_hex(8)}"
