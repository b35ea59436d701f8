"""`ollmlx doctor --model` and `--agent`: trials of a model, and of a coding agent with it."""

from __future__ import annotations

import argparse
import asyncio
import time

from ollmlx.agents.known import find_agent, find_program
from ollmlx.agents.profile import Agent, ServedModel
from ollmlx.agents.trial import TrialResult, ended_by_signals, try_agent
from ollmlx.cli.connection import connect, ensure_daemon, load
from ollmlx.cli.launch import find_served
from ollmlx.cli.terminal import note
from ollmlx.doctor.check import found
from ollmlx.doctor.daemon import DaemonClient
from ollmlx.doctor.report import CheckResult, Report
from ollmlx.doctor.selftest.subject import RequestFailed, Subject
from ollmlx.doctor.selftest.trials import self_test
from ollmlx.errors import OllmlxError
from ollmlx.errors.findings import Finding
from ollmlx.model.names import ModelName


def try_model(args: argparse.Namespace) -> Report:
    """Test a model through the daemon."""
    client = connect(args)
    name = ModelName.parse(args.model)
    ensure_daemon(client, args)
    subject = Subject(DaemonClient(client.address, client.key), name)

    try:
        return asyncio.run(self_test(subject, _progress))
    except RequestFailed as error:
        hint = f"ollmlx pull {name.short}" if error.code == "MDL002" else "ollmlx logs"
        raise OllmlxError(error.message, code=error.code, hint=hint) from error


def try_agent_with_model(args: argparse.Namespace) -> Report:
    """Let an agent do its task, and report the first step that it did not do."""
    agent = find_agent(args.agent)
    program = find_program(agent)
    client = connect(args)
    ensure_daemon(client, args)
    served = find_served(client, agent, args.model)
    folder = load(args).settings.state_folder / "agents"
    started = time.monotonic()
    with ended_by_signals():
        result = try_agent(agent, program, served, client.address, folder, _progress)
    seconds = time.monotonic() - started
    findings = (agent_finding(agent, served, result),) if result.failed else ()
    return Report((CheckResult("agent", "model", "ollmlx", findings, seconds),), seconds)


def agent_finding(agent: Agent, served: ServedModel, result: TrialResult) -> Finding:
    """Return the finding about an agent that did not finish its task."""
    title = f"{agent.title} could not do its task with {served.model}: not done: {result.failed}"
    return found(
        "RUN020",
        title,
        evidence=result.evidence,
        commands=(f"ollmlx doctor --agent {agent.name} --model OTHER", "ollmlx logs"),
        subject=served.model,
    )


def _progress(step: str, done: bool, seconds: float) -> None:
    note(f"{'✓' if done else '✗'} {step}  {seconds:.1f} s")
