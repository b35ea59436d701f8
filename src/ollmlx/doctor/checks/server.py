"""Does the daemon answer, and is it ours?"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from ollmlx import __version__
from ollmlx.doctor.check import check, found
from ollmlx.doctor.daemon import Silent
from ollmlx.doctor.world import World
from ollmlx.findings import Finding

PROXIES = ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
LOCAL = ("127.0.0.1", "localhost", "*")
ELSEWHERE = "OLLAMA_HOST=127.0.0.1:11435 ollmlx serve"


@check("server", "server", "NET001", "NET003", "NET004", "NET008", "SEC004")
async def server(world: World) -> list[Finding]:
    """What answers at the daemon's address."""
    where = world.address.netloc
    try:
        answer = await world.daemon.get("/api/version")
    except Silent as silence:
        return _silent(world, silence.reason)
    told = answer.body if isinstance(answer.body, dict) else {}
    if answer.status == 401:
        return [
            found("SEC004", f"the daemon at {where} wants another API key", commands=("export OLLAMA_API_KEY=KEY",))
        ]
    if "ollmlx" not in told:
        what = f"Ollama {told['version']}" if "version" in told else "a program that is not ollmlx"
        return [found("NET004", f"at {where} answers {what}", evidence=(_who(world),), commands=(ELSEWHERE,))]
    if told["ollmlx"] != __version__:
        title = f"the daemon is ollmlx {told['ollmlx']}, this command is {__version__}"
        return [found("NET004", title, evidence=(_who(world),), commands=("ollmlx serve",))]
    return await _ready(world)


async def _ready(world: World) -> list[Finding]:
    """Why it takes no new work."""
    told = await world.ask("/readyz") or {}
    return [
        found("NET008", f"the daemon takes no new work: {problem}", commands=("ollmlx logs",))
        for problem in told.get("problems", ())
    ]


def _silent(world: World, reason: str) -> list[Finding]:
    address = world.address
    if world.processes.connects(address.dialled, address.port):
        title = f"{address.netloc} is in use by something that does not speak HTTP"
        return [found("NET001", title, evidence=(_who(world), reason), commands=(ELSEWHERE,))]
    refused = world.processes.bindable(address.host, address.port)
    if refused is not None:
        title = f"the daemon cannot listen on {address.netloc}: {refused}"
        return [found("NET001", title, commands=(ELSEWHERE,))]
    return [found("NET003", f"no daemon answers at {address.netloc}", commands=("ollmlx serve",))]


def _who(world: World) -> str:
    process = world.processes.listener(world.address.port)
    return f"listening: {process}" if process else ""


@check("owner", "server", "NET009")
def owner(world: World) -> Iterator[Finding]:
    """Whether the daemon runs as the user who asks."""
    process = world.processes.listener(world.address.port)
    if process is not None and process.uid is not None and process.uid != world.user:
        yield found("NET009", f"the daemon runs as the user {process.user}", evidence=(str(process),),
                    commands=(ELSEWHERE,))  # fmt: skip


@check("folders", "storage", "STO010")
async def folders(world: World) -> list[Finding]:
    """Whether the running daemon looks for models where this command does."""
    told = await world.ask("/api/daemon") or {}
    theirs, ours = told.get("models_folder"), world.settings.models_folder
    if world.loaded is None or not isinstance(theirs, str) or _same(Path(theirs), ours):
        return []
    return [
        found(
            "STO010", f"the running daemon keeps its models in {theirs}, these settings say {ours}",
            evidence=(f"daemon: pid {told.get('pid')}", f"here: {_origin(world)}"),
            commands=("ollmlx config show", f"OLLAMA_MODELS={shlex.quote(theirs)} ollmlx doctor storage"),
            subject=theirs,
        )
    ]  # fmt: skip


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _origin(world: World) -> str:
    return str(world.loaded.origin(("storage", "models"))) if world.loaded else "default"


@check("proxy", "network", "NET007")
def proxy(world: World) -> Iterator[Finding]:
    """Variables that send local calls to a proxy."""
    names = [name for name in PROXIES if world.environ.get(name)]
    spared = (world.environ.get("NO_PROXY") or world.environ.get("no_proxy") or "").split(",")
    if names and not any(part.strip() in LOCAL for part in spared):
        yield found(
            "NET007", f"{names[0]} is set and NO_PROXY does not name this machine",
            evidence=("clients that obey it send calls for the daemon to the proxy",),
            commands=("export NO_PROXY=127.0.0.1,localhost",),
        )  # fmt: skip
