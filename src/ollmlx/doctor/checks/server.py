"""Does the daemon answer, is it ours, and who else can reach it?"""

from __future__ import annotations

from collections.abc import Sequence

from ollmlx import __version__
from ollmlx.doctor.world import World
from ollmlx.findings import Finding, Severity

_PROXIES = ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
_LOCAL = ("127.0.0.1", "localhost", "*")


class ServerCheck:
    """What answers at the daemon's address."""

    name = "server"
    group = "server"
    codes = ("NET003", "NET004")

    async def run(self, world: World) -> Sequence[Finding]:
        where = world.address.netloc
        answer = await world.get("/api/version")
        if answer is None:
            if await world.listens():
                return [self._foreign(where, "something that does not speak HTTP")]
            return [
                Finding(
                    code="NET003",
                    severity=Severity.INFO,
                    title=f"no daemon answers at {where}",
                    commands=("ollmlx serve",),
                )
            ]
        version = answer.get("ollmlx") if isinstance(answer, dict) else None
        if version == __version__:
            return []
        if version is not None:
            return [self._foreign(where, f"ollmlx {version}, and this command line is {__version__}")]
        is_ollama = isinstance(answer, dict) and "version" in answer
        return [self._foreign(where, f"Ollama {answer['version']}" if is_ollama else "a program that is not ollmlx")]

    def _foreign(self, where: str, what: str) -> Finding:
        return Finding(
            code="NET004",
            severity=Severity.WARNING,
            title=f"at {where} answers {what}",
            commands=("OLLAMA_HOST=127.0.0.1:11435 ollmlx serve",),
        )


class ExposureCheck:
    """An address beyond this machine needs a key."""

    name = "exposure"
    group = "server"
    codes = ("SEC001",)

    async def run(self, world: World) -> Sequence[Finding]:
        address, security = world.address, world.settings.security
        wide = address.host in ("0.0.0.0", "::") or not address.is_local  # noqa: S104 - recognised, not bound
        if not wide or security.api_keys:
            return []
        return [
            Finding(
                code="SEC001",
                severity=Severity.ERROR if security.allow_no_auth else Severity.WARNING,
                title=f"{address.netloc} is reachable from other machines and no API key is set",
                evidence=("calls are answered without a key",) if security.allow_no_auth else (),
                commands=("OLLAMA_HOST=127.0.0.1:11434 ollmlx serve",),
            )
        ]


class ProxyCheck:
    """Variables that send local calls to a proxy."""

    name = "proxy"
    group = "server"
    codes = ("NET007",)

    async def run(self, world: World) -> Sequence[Finding]:
        names = [name for name in _PROXIES if world.environ.get(name)]
        spared = (world.environ.get("NO_PROXY") or world.environ.get("no_proxy") or "").split(",")
        if not names or any(part.strip() in _LOCAL for part in spared):
            return []
        return [
            Finding(
                code="NET007",
                severity=Severity.WARNING,
                title=f"{names[0]} is set and NO_PROXY does not name this machine",
                evidence=("clients that obey it send calls for the daemon to the proxy",),
                commands=("export NO_PROXY=127.0.0.1,localhost",),
            )
        ]
