"""Do calls for this machine stay on it?"""

from __future__ import annotations

from collections.abc import Iterator

from ollmlx.doctor.check import check, found
from ollmlx.doctor.context import CheckContext
from ollmlx.errors.findings import Finding

PROXIES = ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
SPARING = ("NO_PROXY", "no_proxy")
LOCAL = ("127.0.0.1", "localhost")
"""How clients call a daemon on their machine."""


@check("proxy", "network", "NET007")
def proxy(world: CheckContext) -> Iterator[Finding]:
    """Variables that send local calls to a proxy."""
    names = [name for name in PROXIES if world.environ.get(name)]
    lists = {name: text for name in SPARING if (text := world.environ.get(name))}
    if not names or (lists and all(_spares(text) for text in lists.values())):
        return
    what = " and ".join(f"{name}={text}" for name, text in lists.items()) or "NO_PROXY is not set"
    told = (what, "clients that obey them send calls for the daemon to the proxy")
    yield found(
        "NET007", f"{names[0]} is set and NO_PROXY does not name this machine", evidence=told,
        commands=[f"export {name}={_extended(lists.get(name, ''))}" for name in lists or SPARING[:1]],
    )  # fmt: skip


def _entries(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _spares(text: str) -> bool:
    return "*" in _entries(text) or set(LOCAL) <= set(_entries(text))


def _extended(text: str) -> str:
    return ",".join(dict.fromkeys([*_entries(text), *LOCAL]))
