"""`ollmlx service`: the daemon as a service that starts by itself, under systemd or launchd."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from ollmlx import __version__
from ollmlx.cli.background.description import Description, Manager, describe_service
from ollmlx.cli.background.launchd import Launchd
from ollmlx.cli.background.program import Run, run_program, show_program
from ollmlx.cli.background.systemd import Systemd
from ollmlx.cli.client import NotRunning
from ollmlx.cli.connection import connect, load
from ollmlx.cli.doctor import report_of, show_first_finding
from ollmlx.cli.terminal import note, say, width
from ollmlx.errors import Conflict, NotFound, OllmlxError, StorageError, Unsupported
from ollmlx.settings.files import FILE_NAME, find_file, private_file, working_folder

DESCRIPTION = """Keep a daemon running: it starts at login or boot, and again when it fails.

  ollmlx service install     write the service's file, start it now and from then on
  ollmlx service status      print its state, the daemon's, and what ollmlx doctor finds
  ollmlx service restart     let running answers finish, then start the installed version
  ollmlx service logs        print what the daemon wrote, and what the service manager says
  ollmlx service uninstall   stop it and remove its file

The variables OLLMLX_*, OLLAMA_* and HF_* of this shell are written into the file, secrets excepted. docs/service.md"""


def add_service_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.add_argument("action", choices=("install", "uninstall", "status", "logs", "restart"))
    parser.add_argument("--lan", action="store_true", help="install: serve the machines of this network, with a key")
    parser.add_argument("--print", action="store_true", dest="only_print", help="install: print the file, write none")
    parser.add_argument("-n", "--lines", metavar="N", type=int, default=100, help="logs: the last N lines")
    parser.add_argument("-f", "--follow", action="store_true", help="logs: continue to print new lines until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="status: print JSON")


def run_service(args: argparse.Namespace) -> int:
    state = load(args).settings.state_folder
    manager = find_manager(sys.platform, run_program, Path.home(), os.environ, state)
    if args.only_print:
        say(manager.text(described(args)).decode().rstrip("\n"))
        return 0
    manager.check()
    if args.action == "install":
        return _install(args, manager)
    if not manager.file.is_file():
        raise NotFound("the service is not installed", hint="ollmlx service install")
    if args.action == "logs":
        return show_program(manager.log_command(args.lines, follow=args.follow))
    if args.action == "status":
        return _status(args, manager)
    if args.action == "restart":
        manager.restart()
        note(f"restarted: ollmlx {__version__}")
        return 0
    manager.stop()
    manager.file.unlink()
    note(f"stopped, and removed {manager.file}")
    return 0


def find_manager(platform: str, run: Run, home: Path, environ: Mapping[str, str], state: Path) -> Manager:
    """Return the service manager of this kind of machine. Raises Unsupported where none is known."""
    if platform == "darwin":
        return Launchd(run, home, state)
    if platform.startswith("linux"):
        return Systemd(run, home, environ)
    raise Unsupported(f"there is no service manager that ollmlx knows on {platform}", hint="ollmlx serve")


def described(args: argparse.Namespace) -> Description:
    """Return the description of the service that this command line asks for."""
    settings = load(args).settings
    arguments = [
        *(["--config", str(Path(args.config).expanduser().absolute())] if args.config else []),
        *(["--host", args.host] if args.host else []),
        *(["--lan"] if args.lan else []),
    ]
    return describe_service(arguments, os.environ, settings.state_folder, settings.server.drain_timeout)


def _install(args: argparse.Namespace, manager: Manager) -> int:
    description = described(args)
    text = manager.text(description)
    _tell_what_is_left_out(args, description)
    if not (manager.file.is_file() and manager.state().running):
        _refuse_beside_another(args)
    private_file(description.folder, "logs/service.out")
    try:
        manager.file.parent.mkdir(parents=True, exist_ok=True)
        manager.file.write_bytes(text)
    except OSError as error:
        raise StorageError(f"cannot write {manager.file}: {error.strerror}") from error
    try:
        for line in manager.start():
            note(line)
    except OllmlxError:
        show_first_finding(args.config)
        raise
    note(f"wrote {manager.file}; the daemon runs, and starts by itself from now on")
    return 0


def _tell_what_is_left_out(args: argparse.Namespace, description: Description) -> None:
    if description.left_out:
        own = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config") / "ollmlx" / FILE_NAME
        note(
            f"not written, because it is secret: {', '.join(description.left_out)}. Keys belong into {own}"
            ", a token of the hub into `hf auth login`."
        )
    found = find_file(Path(args.config) if args.config else None, os.environ, working_folder())
    if found is not None and found.found:
        note(f"the service does not read {found.path}; --config {found.path} makes it")


def _refuse_beside_another(args: argparse.Namespace) -> None:
    """Raise Conflict when a daemon answers that is not the service: both would need the same address."""
    client = connect(args)
    if not client.alive():
        return
    try:
        stop = f"kill {client.get('/api/daemon')['pid']}"
    except (OllmlxError, KeyError, TypeError):
        stop = "ollmlx doctor server"
    raise Conflict(f"a daemon that is not the service answers at {client.address}", code="NET001", hint=stop)


def _status(args: argparse.Namespace, manager: Manager) -> int:
    service = manager.state()
    try:
        daemon = connect(args).get("/api/version")
    except NotRunning:
        daemon = None
    done = report_of(args)
    healthy = service.running and daemon is not None and not done.failed
    if args.json:
        found = {"file": str(manager.file), "running": service.running, "state": service.words, "pid": service.pid}
        say(json.dumps({"service": found, "daemon": daemon, "doctor": done.as_json()}, indent=2))
        return 0 if healthy else 1
    say(f"service  {service.words}  {manager.file}")
    say(f"daemon   {_daemon_line(daemon)}")
    say(done.as_text(width(sys.stdout)))
    return 0 if healthy else 1


def _daemon_line(daemon: dict[str, str] | None) -> str:
    if daemon is None:
        return "does not answer; ollmlx service logs"
    running = daemon.get("ollmlx")
    if running is None:
        return "another program answers at this address; ollmlx doctor server"
    if running != __version__:
        return f"ollmlx {running} runs and {__version__} is installed; ollmlx service restart"
    return f"ollmlx {running} answers"
