"""Checks of the server: what answers at the daemon's address, with which models folder, which proxy is set, and
whether other machines, web pages and users can reach the daemon or read its secrets.
"""

from __future__ import annotations

import asyncio
import shlex
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ollmlx import __version__
from ollmlx.doctor.check import check, found, noted, skipped
from ollmlx.doctor.checks.runners import SUSPENDED
from ollmlx.doctor.context import CheckContext
from ollmlx.doctor.daemon import NoReply
from ollmlx.doctor.fixes import (
    SERVE,
    Fixes,
    edit_settings,
    export_setting,
    listen_elsewhere,
    private,
    restart_daemon,
    stop_listener,
)
from ollmlx.doctor.machine import LOCK, Process
from ollmlx.errors import ConfigError
from ollmlx.errors.findings import Finding, SafeCommand, Severity
from ollmlx.text.addresses import DEFAULT_HOST, Address, is_loopback

HOST = ("server", "host")
OLLAMA_API = "ollama_api"
PROXIES = ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
EXCEPTIONS = ("NO_PROXY", "no_proxy")
LOCAL = ("127.0.0.1", "localhost")
"""The names under which clients call a daemon on their own machine."""
SHORTEST_KEY = 16
BLOCKED = "waits for a disk or a device, and cannot be ended before"
NEW_KEY = SafeCommand("export OLLMLX_SECURITY__API_KEYS=$(openssl rand -hex 24)")


@check("server", "server", "NET001", "NET002", "NET003", "NET004", "NET008", "PLG006", "SEC004")
async def server(context: CheckContext) -> list[Finding]:
    """Examine what answers at the daemon's address."""
    if any(fault.path == HOST for fault in context.faults):
        return [skipped("NET003", "skipped: the address of the daemon is not valid; see ollmlx doctor config")]
    address = context.address.netloc
    asking = asyncio.ensure_future(context.daemon.get("/api/version"))
    process = await asyncio.to_thread(context.processes.listener, context.address.port)
    if process is not None and process.is_ollmlx and process.status in SUSPENDED:  # it cannot answer: do not wait
        asking.cancel()
        with suppress(NoReply, asyncio.CancelledError):
            await asking
        return [_silent_daemon(context, process, "a signal or a debugger stopped it")]
    try:
        answer = await asking
    except NoReply as silence:
        return [await asyncio.to_thread(_no_answer, context, str(silence))]
    version = answer.body if isinstance(answer.body, dict) else {}
    if answer.status == 401:
        keys = "its keys are [security] api_keys of its settings, or its variable OLLMLX_SECURITY__API_KEYS"
        title = f"the daemon at {address} wants another API key"
        export = ("export OLLAMA_API_KEY=KEY",)
        return [found("SEC004", title, evidence=(_listener(context), keys), commands=export,
                      instead=restart_daemon(context))]  # fmt: skip
    if "ollmlx" not in version:
        status = await context.ask("/api/daemon") or {}
        process = context.processes.listener(context.address.port)
        ours = "protocol" in status or (process is not None and process.is_ollmlx)
        return [_without_ollama_api(context, status) if ours else _other_program(context, version)]
    if version["ollmlx"] != __version__:
        title = f"the daemon is ollmlx {version['ollmlx']}, this command is {__version__}"
        return [found("NET004", title, evidence=(_listener(context),), commands=restart_daemon(context),
                      severity=Severity.WARNING)]  # fmt: skip
    return await _readiness(context)


def _without_ollama_api(context: CheckContext, status: Mapping[str, Any]) -> Finding:
    """Report a daemon of ours without the routes that `ollmlx run`, `ollmlx list` and other commands call."""
    origin = context.origin("plugins", "disabled")
    off = OLLAMA_API in context.settings.plugins.disabled
    return found(
        "PLG006", f"the daemon at {context.address.netloc} does not serve Ollama's API, which the other commands call",
        evidence=(_listener(context), f"plugin {OLLAMA_API!r} is switched off: {origin}" if off else ""),
        commands=(*(edit_settings(context, origin)[0] if off else ()), *restart_daemon(context, status)),
        subject=OLLAMA_API, severity=Severity.WARNING,
    )  # fmt: skip


def _other_program(context: CheckContext, version: Mapping[str, Any]) -> Finding:
    """Report Ollama, which is to be stopped, or another program, beside which ollmlx is to listen elsewhere."""
    ollama = "version" in version
    program = f"Ollama {version['version']}" if ollama else "a program that is not ollmlx"
    fixes = ((*stop_listener(context, ollama=ollama), SERVE), listen_elsewhere(context))
    commands, instead = fixes if ollama else reversed(fixes)
    title = f"{program} answers at {context.address.netloc}"
    return found("NET004", title, evidence=(_listener(context),), commands=commands, instead=instead)


async def _readiness(context: CheckContext) -> list[Finding]:
    """Report the reasons why the daemon refuses new requests."""
    status = await context.ask("/readyz") or {}
    if not status.get("problems"):
        return [noted("NET003", f"ollmlx {__version__} answers at {context.address.netloc}")]
    restart = restart_daemon(context)
    if status.get("stopping"):  # a second signal ends the requests that still run
        hint = ("it stops by itself when they have ended; start another daemon then, or stop it now",)
        title = f"the daemon refuses new requests: {status['problems'][0]}"
        return [found("NET008", title, evidence=hint, commands=restart)]
    titles = [f"the daemon refuses new requests: {problem}" for problem in status["problems"]]
    return [found("NET008", title, commands=("ollmlx doctor storage",), instead=restart) for title in titles]


def _no_answer(context: CheckContext, reason: str) -> Finding:
    address = context.address
    if context.processes.connects(address.dialled, address.port):
        process = context.processes.listener(address.port)
        if process is not None and process.is_ollmlx:
            return _silent_daemon(context, process, reason)
        silent = "does not answer" if reason.startswith("no answer within") else "does not speak HTTP"
        title = f"{address.netloc} is in use by a program that {silent}"
        hidden = "the system hides which one: it is another user's, a container's, or left of one that was killed"
        evidence = (_listener(context) or hidden, reason)
        return found("NET001", title, evidence=evidence, commands=listen_elsewhere(context),
                     instead=(*stop_listener(context), SERVE))  # fmt: skip
    refusal = context.processes.bindable(address.host, address.port)
    if refusal is not None and not context.processes.is_here(address.host):
        return _far_away(context, reason)
    if refusal is not None:
        title, origin = f"the daemon cannot listen on {address.netloc}: {refusal}", str(context.origin(*HOST))
        return found("NET001", title, evidence=(origin,), commands=listen_elsewhere(context))
    if (daemon := context.processes.lock_owner(context.settings.state_folder)) is not None:
        return _other_address(context, daemon)
    title = f"no daemon answers at {address.netloc}"
    return found("NET003", title, evidence=_last_start(context), commands=(SERVE,))


def _silent_daemon(context: CheckContext, process: Process, reason: str) -> Finding:
    """Report a daemon of ours that accepts connections and does not answer: it is suspended, or too busy."""
    suspended = process.status in SUSPENDED
    state = BLOCKED if process.status == "disk-sleep" else "is suspended" if suspended else "does not answer"
    title = f"the daemon at {context.address.netloc} {state}"
    restart = (f"kill -9 {process.pid}", SERVE)
    wake = (SafeCommand(f"kill -CONT {process.pid}", asks=True),)
    return found(
        "NET008", title, evidence=(_listener(context), reason, *context.processes.vitals(process.pid, 0.3).told()),
        commands=wake if suspended else ("ollmlx logs",),
        instead=restart, severity=Severity.ERROR,
    )  # fmt: skip


def _far_away(context: CheckContext, reason: str) -> Finding:
    """Report an address that is not one of this machine, so no daemon can listen on it here."""
    origin = context.origin(*HOST)
    commands, instead = edit_settings(context, origin)
    return found(
        "NET003", f"no daemon answers at {context.address.netloc}, which is no address of this machine",
        evidence=(str(origin), reason), severity=Severity.ERROR, instead=instead,
        commands=(*(commands or (export_setting(context, HOST, DEFAULT_HOST),)), SERVE),
    )  # fmt: skip


def _last_start(context: CheckContext) -> tuple[str, ...]:
    """Return the error with which the last daemon in the background ended, if it printed one."""
    try:
        lines = (context.settings.state_folder / "serve.out").read_text("utf-8", "replace").splitlines()
    except OSError:
        return ()
    errors = [line for line in lines[-15:] if line.startswith("Error: ")]
    return (f"the last daemon that was started in the background printed: {errors[-1]}",) if errors else ()


def _other_address(context: CheckContext, daemon: Process) -> Finding:
    """Report a daemon that uses this state folder at another address; it keeps a second one from starting."""
    addresses = context.processes.listens(daemon.pid)
    title = f"the daemon of the state folder {context.settings.state_folder} listens elsewhere, or not yet"
    evidence = (
        f"no daemon answers at {context.address.netloc}", str(daemon), *(f"it listens on {one}" for one in addresses)
    )  # fmt: skip
    restart = (f"kill {daemon.pid}", SERVE)
    fixes: Fixes = ((export_setting(context, HOST, addresses[0]),), restart) if addresses else (restart, ())
    return found("NET002", title, evidence=evidence, commands=fixes[0], instead=fixes[1], severity=Severity.WARNING)


def _listener(context: CheckContext) -> str:
    process = context.processes.listener(context.address.port)
    return f"listening: {process}" if process else ""


@check("owner", "server", "NET004")
async def owner(context: CheckContext) -> list[Finding]:
    """Report a daemon that runs as another user."""
    process = context.processes.listener(context.address.port)
    if (
        process is None
        or process.uid in (None, context.user)
        or "ollmlx" not in (await context.ask("/api/version") or {})
    ):
        return []
    return [found("NET004", f"the daemon runs as the user {process.user}", evidence=(str(process),),
                  commands=listen_elsewhere(context), instead=restart_daemon(context),
                  severity=Severity.WARNING)]  # fmt: skip


@check("folders", "storage", "NET004")
async def folders(context: CheckContext) -> list[Finding]:
    """Report a running daemon whose models folder is not the one of these settings."""
    status = await context.ask("/api/daemon") or {}
    theirs, ours = status.get("models_folder"), context.settings.models_folder
    if not context.is_reliable("storage", "models") or not isinstance(theirs, str) or _is_same(Path(theirs), ours):
        return []
    if context.daemon_process(status) is None:  # a container has folders of its own
        return []
    return [
        found(
            "NET004", f"the running daemon keeps its models in {theirs}, these settings say {ours}", subject=theirs,
            severity=Severity.WARNING,
            evidence=(f"daemon: pid {status.get('pid')}", f"these settings: {context.origin('storage', 'models')}"),
            commands=(export_setting(context, ("storage", "models"), shlex.quote(theirs)),),
            instead=restart_daemon(context, status),
        )
    ]  # fmt: skip


def _is_same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


@check("proxy", "network", "NET007")
def proxy(context: CheckContext) -> Iterator[Finding]:
    """Report variables that send requests for this machine to a proxy."""
    names = [name for name in PROXIES if context.environ.get(name)]
    lists = {name: text.replace(" ", "").split(",") for name in EXCEPTIONS if (text := context.environ.get(name))}
    if not names or (lists and all("*" in hosts or set(LOCAL) <= set(hosts) for hosts in lists.values())):
        return
    exceptions = " and ".join(f"{name}={','.join(hosts)}" for name, hosts in lists.items()) or "NO_PROXY is not set"
    extended = {name: ",".join(dict.fromkeys([*hosts, *LOCAL])) for name, hosts in (lists or {"NO_PROXY": []}).items()}
    yield found(
        "NET007", f"{names[0]} is set and NO_PROXY does not name this machine",
        evidence=(exceptions, "clients that use these variables send requests for the daemon to the proxy"),
        commands=[SafeCommand(f"export {name}={hosts}") for name, hosts in extended.items()],
    )  # fmt: skip


@check("proxies", "network", "NET007")
def proxies(context: CheckContext) -> Iterator[Finding]:
    """Report proxies on this machine that are the daemon itself, or that do not run: every download fails."""
    seen: dict[str, str] = {}
    for name in (*PROXIES, "HTTPS_PROXY", "https_proxy"):
        text = context.environ.get(name, "")
        url = urlsplit(text if "://" in text else f"http://{text}")
        with suppress(ValueError):  # a port that is none
            if not url.hostname or url.port is None or not is_loopback(url.hostname) or text in seen:
                continue
            seen[text] = name
            if url.port == context.address.port and context.processes.is_here(context.address.host):
                title = f"{name} names the daemon itself as a proxy"
            elif not context.processes.connects(url.hostname, url.port):
                title = f"{name} names the proxy {url.hostname}:{url.port}, and no program answers there"
            else:
                continue
            yield found(
                "NET007", title, subject=name, evidence=(name,), commands=(SafeCommand(f"unset {name}", asks=True),)
            )


@check("localhost", "network", "NET007")
def localhost(context: CheckContext) -> Iterator[Finding]:
    """Report a name `localhost` that does not lead to the daemon: most clients use it."""
    if context.address.host != DEFAULT_HOST:
        return
    addresses = context.processes.addresses("localhost")
    if addresses is None or any(is_loopback(address) and ":" not in address for address in addresses):
        return
    where = f"means {', '.join(addresses)} only" if addresses else "is not known"
    yield found(
        "NET007", f"the name localhost {where}, and the daemon listens at {DEFAULT_HOST}", subject="localhost",
        evidence=("/etc/hosts",), commands=("echo '127.0.0.1 localhost' | sudo tee -a /etc/hosts",),
        severity=Severity.WARNING,
    )  # fmt: skip


@check("lock", "server", "NET002")
async def lock(context: CheckContext) -> list[Finding]:
    """Report a daemon whose state folder was removed or replaced while it runs."""
    status = await context.ask("/api/daemon") or {}
    process, folder = context.daemon_process(status), status.get("state_folder")
    if process is None or not isinstance(folder, str) or folder != str(context.settings.state_folder):
        return []
    pid = process.pid
    try:
        held = (Path(folder) / LOCK).read_text(encoding="ascii").strip() == str(pid)
    except FileNotFoundError:
        held = False
    except (OSError, UnicodeError):
        return []
    title = f"the state folder {folder} was removed or replaced while the daemon runs"
    why = "logs and records of runners go to a folder that is gone; another daemon could start beside this one"
    return [] if held else [found("NET002", title, evidence=(f"daemon: pid {pid}", why),
                                  commands=restart_daemon(context, status))]  # fmt: skip


@check("exposure", "server", "SEC001", "SEC006")
async def exposure(context: CheckContext) -> list[Finding]:
    """Report an address that other machines reach without a key, and origins that let in every web page.

    What the running daemon says of itself counts more than the settings.
    """
    findings = []
    security, status = context.settings.security, await context.ask("/api/daemon") or {}
    running = _address(status.get("address"))
    host = context.address.host
    open_in_settings = not is_loopback(host) and not security.has_keys and context.processes.is_here(host)
    open_now = running is not None and not is_loopback(running.host) and status.get("api_keys") is False
    if open_now if running is not None else open_in_settings:
        address = running or context.address
        answers = status.get("allow_no_auth") if running is not None else security.allow_no_auth
        restart = restart_daemon(context, status) if running is not None else ()
        local = export_setting(context, ("server", "host"), f"127.0.0.1:{address.port}")
        findings.append(
            found(
                "SEC001", f"{address.netloc} is reachable from other machines, and there is no API key",
                evidence=("requests from other machines are " + ("answered" if answers else "refused"),),
                severity=Severity.ERROR if answers else Severity.WARNING,
                commands=(NEW_KEY, *restart) if open_in_settings else restart, instead=(local, *restart),
            )
        )  # fmt: skip
    if "*" in context.settings.server.origins:
        origin = context.origin("server", "origins")
        commands, _ = edit_settings(context, origin)
        title = "[server] origins lets any web page call the daemon"
        findings.append(found("SEC006", title, evidence=(str(origin),), commands=(*commands, "ollmlx config check")))
    return findings


@check("secrets", "server", "SEC007", "SEC008")
def secrets(context: CheckContext) -> Iterator[Finding]:
    """Report short keys, and files with keys, logs or prompts that other users of this machine can read."""
    security = context.settings.security
    keys: list[tuple[tuple[str, ...], str]] = [(("security", "api_keys"), key) for key in security.api_keys]
    keys += [(("security", "keys", name), one.key) for name, one in security.keys.items() if one.key]
    for path in dict.fromkeys(path for path, key in keys if len(key) < SHORTEST_KEY):
        origin = context.origin(*path)
        edit = ("openssl rand -hex 24", *edit_settings(context, origin)[0])
        title = f"an API key has fewer than {SHORTEST_KEY} characters"
        yield found("SEC008", title, evidence=(str(origin),), commands=edit if origin.kind == "file" else (NEW_KEY,))
    for file in context.loaded.files if context.loaded and security.has_keys else ():
        with suppress(OSError):
            mode = stat.S_IMODE(file.stat().st_mode)
            if mode & 0o077:
                title = f"{file} holds API keys and can be read by other users"
                yield found("SEC007", title, evidence=(f"mode {mode:o}",), commands=private(context, file))
    state = context.settings.state_folder
    with suppress(OSError):
        mode = stat.S_IMODE(state.stat().st_mode)
        if mode & 0o077 and state.is_dir() and context.is_reliable("storage", "state"):
            title = f"other users can read the state folder {state}"
            yield found("SEC007", title, evidence=(f"mode {mode:o}",), commands=private(context, state))


def _address(text: object) -> Address | None:
    """Parse the address that a daemon reports; None if it reports none."""
    with suppress(ConfigError):
        return Address.parse(text) if isinstance(text, str) else None
    return None
