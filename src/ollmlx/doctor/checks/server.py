"""Does the daemon answer, and is it ours?"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ollmlx import __version__
from ollmlx.doctor.check import check, found, noted, skipped
from ollmlx.doctor.context import CheckContext
from ollmlx.doctor.daemon import Silent
from ollmlx.doctor.fixes import edit
from ollmlx.doctor.lock_owner import holder
from ollmlx.doctor.ports import elsewhere, exported, restarted, stopped
from ollmlx.doctor.processes import Process
from ollmlx.errors.findings import Finding, Severity

SERVE = "ollmlx serve"
OUTPUT = "serve.out"
LAST_WORDS = 15
HOST = ("server", "host")
OLLAMA_API = "ollama_api"


@check("server", "server", "NET001", "NET002", "NET003", "NET004", "NET008", "PLG006", "SEC004")
async def server(world: CheckContext) -> list[Finding]:
    """What answers at the daemon's address."""
    if any(fault.path == HOST for fault in world.faults):
        return [skipped("NET003", "not looked at: the address of the daemon is not valid, see ollmlx doctor config")]
    where = world.address.netloc
    try:
        answer = await world.daemon.get("/api/version")
    except Silent as silence:
        return _silent(world, silence.reason)
    told = answer.body if isinstance(answer.body, dict) else {}
    if answer.status == 401:
        seen = (_who(world), "its keys: [security] api_keys of its settings, or its OLLMLX_SECURITY__API_KEYS")
        title = f"the daemon at {where} wants another API key"
        key = "export OLLAMA_API_KEY=KEY"
        return [found("SEC004", title, evidence=seen, commands=(key,), instead=restarted(world))]
    if "ollmlx" not in told:
        ours = await world.ask("/api/daemon") or {}
        return [_mute(world, ours) if "protocol" in ours else _foreign(world, told)]
    if told["ollmlx"] != __version__:
        title = f"the daemon is ollmlx {told['ollmlx']}, this command is {__version__}"
        return [found("NET004", title, evidence=(_who(world),), commands=restarted(world), severity=Severity.WARNING)]
    return await _ready(world)


def _mute(world: CheckContext, ours: Mapping[str, Any]) -> Finding:
    """Our daemon, without the routes that `ollmlx run`, `ollmlx list` and the others call."""
    origin = world.origin("plugins", "disabled")
    off = OLLAMA_API in world.settings.plugins.disabled
    return found(
        "PLG006", f"the daemon at {world.address.netloc} does not serve Ollama's API, which the other commands call",
        evidence=(_who(world), f"plugin {OLLAMA_API!r} is switched off: {origin}" if off else ""), subject=OLLAMA_API,
        commands=(*(edit(world, origin, "", None)[0] if off else ()), *restarted(world, ours)),
        severity=Severity.WARNING,
    )  # fmt: skip


def _foreign(world: CheckContext, told: Mapping[str, Any]) -> Finding:
    """Ollama gives way to its successor; any other program is left alone, and ollmlx listens elsewhere."""
    ollama = "version" in told
    what = f"Ollama {told['version']}" if ollama else "a program that is not ollmlx"
    ways = ((*stopped(world, ollama=ollama), SERVE), elsewhere(world))
    commands, instead = ways if ollama else reversed(ways)
    title = f"at {world.address.netloc} answers {what}"
    return found("NET004", title, evidence=(_who(world),), commands=commands, instead=instead)


async def _ready(world: CheckContext) -> list[Finding]:
    """Why it takes no new work."""
    told = await world.ask("/readyz") or {}
    if not told.get("problems"):
        return [noted("NET003", f"ollmlx {__version__} answers at {world.address.netloc}")]
    again = restarted(world)
    if told.get("stopping"):  # a second signal ends what it still does
        seen = ("it ends by itself when they are done; start another one then, or end them now",)
        title = f"the daemon takes no new work: {told['problems'][0]}"
        return [found("NET008", title, evidence=seen, commands=again)]
    return [
        found(
            "NET008",
            f"the daemon takes no new work: {problem}",
            commands=("ollmlx doctor storage",),
            instead=again,
        )
        for problem in told["problems"]
    ]


def _silent(world: CheckContext, reason: str) -> list[Finding]:
    address = world.address
    if world.processes.connects(address.dialled, address.port):
        title = f"{address.netloc} is in use by something that does not speak HTTP"
        return [
            found(
                "NET001", title, evidence=(_who(world), reason), commands=elsewhere(world),
                instead=(*stopped(world), SERVE),
            )
        ]  # fmt: skip
    refused = world.processes.bindable(address.host, address.port)
    if refused is not None:
        title = f"the daemon cannot listen on {address.netloc}: {refused}"
        return [found("NET001", title, evidence=(str(world.origin("server", "host")),), commands=elsewhere(world))]
    if (daemon := holder(world)) is not None:
        return [_elsewhere(world, daemon)]
    title = f"no daemon answers at {address.netloc}"
    return [found("NET003", title, evidence=_last_start(world), commands=(SERVE,))]


def _last_start(world: CheckContext) -> tuple[str, ...]:
    """Why the last daemon that was started in the background ended, where it said so."""
    try:
        lines = (world.settings.state_folder / OUTPUT).read_text("utf-8", "replace").splitlines()
    except OSError:
        return ()
    said = [line for line in lines[-LAST_WORDS:] if line.startswith("Error: ")]
    return (f"the last one that was started in the background said: {said[-1]}",) if said else ()


def _elsewhere(world: CheckContext, daemon: Process) -> Finding:
    """A daemon with our state folder, which keeps a second one from starting, listens at another address."""
    places = world.processes.listens(daemon.pid)
    title = f"the daemon of the state folder {world.settings.state_folder} listens elsewhere, or not yet"
    seen = (f"nobody answers at {world.address.netloc}", str(daemon), *(f"it listens on {place}" for place in places))
    again = (f"kill {daemon.pid}", SERVE)
    ways = ((exported(world, ("server", "host"), places[0]),), again) if places else (again, ())
    return found("NET002", title, evidence=seen, commands=ways[0], instead=ways[1], severity=Severity.WARNING)


def _who(world: CheckContext) -> str:
    process = world.processes.listener(world.address.port)
    return f"listening: {process}" if process else ""


@check("owner", "server", "NET009")
def owner(world: CheckContext) -> Iterator[Finding]:
    """Whether the daemon runs as the user who asks."""
    process = world.processes.listener(world.address.port)
    if process is not None and process.uid is not None and process.uid != world.user:
        yield found("NET009", f"the daemon runs as the user {process.user}", evidence=(str(process),),
                    commands=elsewhere(world), instead=restarted(world))  # fmt: skip


@check("folders", "storage", "STO010")
async def folders(world: CheckContext) -> list[Finding]:
    """Whether the running daemon looks for models where this command does."""
    told = await world.ask("/api/daemon") or {}
    theirs, ours = told.get("models_folder"), world.settings.models_folder
    if not world.knows("storage", "models") or not isinstance(theirs, str) or _same(Path(theirs), ours):
        return []
    return [
        found(
            "STO010", f"the running daemon keeps its models in {theirs}, these settings say {ours}",
            evidence=(f"daemon: pid {told.get('pid')}", f"here: {world.origin('storage', 'models')}"),
            commands=(exported(world, ("storage", "models"), shlex.quote(theirs)),), instead=restarted(world, told),
            subject=theirs,
        )
    ]  # fmt: skip


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()
