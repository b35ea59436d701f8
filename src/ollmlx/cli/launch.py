"""`ollmlx launch`: start a coding agent that uses a model of this daemon."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

from ollmlx.agents.known import AGENTS, find_agent, find_program
from ollmlx.agents.profile import LEAST_CONTEXT, Agent, ServedModel, Setup
from ollmlx.cli.client import Client, Json
from ollmlx.cli.connection import connect, ensure_daemon, load
from ollmlx.cli.formatting import table
from ollmlx.cli.run import show_or_pull
from ollmlx.cli.terminal import note, say, width
from ollmlx.errors import NotFound, OllmlxError, StorageError, Unsupported

PASSES_ON = True
"""Arguments after `--` belong to another program, and `--config` is a flag of this verb."""

DESCRIPTION = """Start a coding agent with a model of this daemon. The agent's own settings stay as they are: what is
set holds for this start only.

  ollmlx launch                          list the agents, and how to install them
  ollmlx launch claude --model NAME      start one
  ollmlx launch codex -- exec "Fix it"   what stands after -- is passed on
  ollmlx launch claude --config          print what is set, and do not start it
  ollmlx launch claude --restore         remove the files that ollmlx wrote for it

Exit status: the agent's."""


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.add_argument("agent", metavar="AGENT", nargs="?", help=", ".join(AGENTS))
    parser.add_argument("--model", metavar="NAME", help="the model; default: a loaded one, or the newest, with tools")
    parser.add_argument("--config", dest="only_show", action="store_true", help="print what is set; start nothing")
    parser.add_argument("--restore", action="store_true", help="remove the files that ollmlx wrote for the agent")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(passed_on=[])


def run_launch(args: argparse.Namespace) -> int:
    if args.agent is None:
        return _list(args)
    agent = find_agent(args.agent)
    folder = load(args).settings.state_folder / "agents" / agent.name
    if args.restore:
        return _restore(agent, folder, args)
    program = agent.program if args.only_show else find_program(agent)
    client = connect(args)
    ensure_daemon(client, args)
    served = find_served(client, agent, args.model)
    setup = agent.setup(served, folder)
    write(setup)
    if args.only_show:
        say(json.dumps(_described(agent, served, setup), indent=2) if args.json else setup.as_text(program))
        return 0
    raise start([program, *setup.arguments, *args.passed_on], setup)


def _list(args: argparse.Namespace) -> int:
    found = {name: shutil.which(agent.program) for name, agent in AGENTS.items()}
    if args.json:
        rows = [
            {"name": a.name, "title": a.title, "path": found[a.name], "install": a.install} for a in AGENTS.values()
        ]
        say(json.dumps({"agents": rows}, indent=2))
        return 0
    cells = [(a.name, a.title, found[a.name] or f"not installed: {a.install}") for a in AGENTS.values()]
    say(table(("NAME", "AGENT", "PROGRAM"), cells, width(sys.stdout)))
    return 0


def _restore(agent: Agent, folder: Path, args: argparse.Namespace) -> int:
    removed = sorted(str(path) for path in folder.rglob("*") if path.is_file())
    shutil.rmtree(folder, ignore_errors=True)
    if args.json:
        say(json.dumps({"agent": agent.name, "removed": removed}))
    else:
        say("\n".join(f"removed {path}" for path in removed) or f"nothing to undo for {agent.title}")
    return 0


def find_served(client: Client, agent: Agent, model: str | None) -> ServedModel:
    """Return the daemon with a model that can do the agent's work, loaded. Warns of a short context.

    Raises OllmlxError when the model cannot be loaded, and Unsupported when it has no tools.
    """
    name = model or _suggested(client, agent)
    shown = show_or_pull(client, name)
    capabilities = frozenset(shown.get("capabilities", ()))
    if agent.needs_tools and "tools" not in capabilities:
        raise Unsupported(
            f"{agent.title} works with tools, and {name} has none",
            hint="choose another model: ollmlx launch lists agents, ollmlx list the models",
        )
    note(f"Loading {name} ...")
    client.post("/api/generate", {"model": name, "stream": False})
    context = _context(client, name, shown)
    if context < LEAST_CONTEXT:
        note(
            f"warning: {name} has a context of {context} tokens here; {agent.title} needs {LEAST_CONTEXT} to work\n"
            f"  hint: OLLAMA_CONTEXT_LENGTH={LEAST_CONTEXT} ollmlx serve, or a model with a longer context"
        )
    return ServedModel(client.address.url, name, context, capabilities, client.key)


def _suggested(client: Client, agent: Agent) -> str:
    """Return a loaded model with tools, or the newest one."""
    loaded = [model["name"] for model in client.get("/api/ps")["models"]]
    installed: list[Json] = client.get("/api/tags")["models"]
    fit = [model["name"] for model in installed if not agent.needs_tools or "tools" in model.get("capabilities", ())]
    if not fit:
        raise NotFound("no installed model has tools", hint=f"ollmlx launch {agent.name} --model NAME pulls one")
    return str(next((name for name in loaded if name in fit), fit[0]))


def _context(client: Client, name: str, shown: Json) -> int:
    """Return the context that the model has here; it may be shorter than the model's own."""
    try:
        return int(client.get(f"/v1/models/{name}")["context_length"])
    except NotFound:  # OpenAI's routes are switched off
        info = shown.get("model_info", {})
        return next((int(value) for key, value in info.items() if key.endswith(".context_length")), 0)


def write(setup: Setup) -> None:
    """Write a setup's files. Raises StorageError."""
    try:
        setup.write()
    except OSError as error:
        raise StorageError(f"cannot write {error.filename}: {error.strerror}", code="STO002") from error


def _described(agent: Agent, served: ServedModel, setup: Setup) -> Json:
    model = {"model": served.model, "context": served.context, "capabilities": sorted(served.capabilities)}
    return {"agent": agent.name, "program": agent.program, "url": served.url, **model, **setup.as_json()}


def start(command: list[str], setup: Setup) -> OllmlxError:
    """Become the agent: the terminal, Ctrl-C and the exit status are its own. Returns only the error if it cannot."""
    sys.stdout.flush()
    try:
        os.execve(command[0], command, {**os.environ, **setup.environment})  # noqa: S606 - a path of PATH, no shell
    except OSError as error:
        return OllmlxError(f"cannot start {command[0]}: {error.strerror}")
