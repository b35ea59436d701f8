"""With `ollmlx doctor --online`: is the hub there, and does it accept the token?"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from ollmlx import Finding, OllmlxError, Severity
from ollmlx_hub.client import DEFAULT_ENDPOINT, HubClient
from ollmlx_hub.settings import HubSettings

SECONDS = 6.0


class HubCheck:
    """Asks the hub one question. `own`: the plugin's settings."""

    name = "hub"
    group = "network"
    codes: tuple[str, ...] = ("NET005", "NET006")

    def __init__(self, own: HubSettings) -> None:
        self._own = own

    async def run(self, world: Any) -> Sequence[Finding]:
        """Nothing unless the network may be used."""
        if not world.online:
            return ()
        environ = world.environ
        client = HubClient(self._own.access(environ))
        try:
            await asyncio.to_thread(client.greet, SECONDS)
        except OllmlxError as error:
            return (self._finding(error, client.access.endpoint, environ),)
        return ()

    def _finding(self, error: OllmlxError, endpoint: str, environ: Any) -> Finding:
        evidence = [f"the hub is {endpoint}, {self._where(endpoint, environ)}"]
        if error.code == "NET006":
            evidence.append(f"tokens are made at {endpoint}/settings/tokens")
            commands = ("unset HF_TOKEN", "hf auth login")
        elif endpoint != DEFAULT_ENDPOINT:
            commands = (f"curl -I {endpoint}", "unset HF_ENDPOINT")
        else:
            commands = (f"curl -I {endpoint}", "export HF_ENDPOINT=https://MIRROR")
        if error.hint:
            evidence.append(error.hint)
        return Finding(
            code=error.code or "NET005", severity=Severity.ERROR, title=error.message, evidence=tuple(evidence),
            commands=commands, subject=endpoint,
        )  # fmt: skip

    def _where(self, endpoint: str, environ: Any) -> str:
        if self._own.endpoint:
            return "by [plugins.hub] endpoint"
        return "by HF_ENDPOINT" if environ.get("HF_ENDPOINT") else "by default"
