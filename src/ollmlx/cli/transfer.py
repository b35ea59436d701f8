"""The verbs that move models between this machine and a hub: pull and push, and the progress that they show."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ollmlx.cli import terminal
from ollmlx.cli.client import Client, Json
from ollmlx.cli.connection import connect, ensure_daemon
from ollmlx.cli.formatting import table
from ollmlx.cli.terminal import say
from ollmlx.text.controls import escape_line
from ollmlx.text.quantities import format_size

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

ShowProgress = Callable[[Json], None]


def add_pull_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = """Download a model to this machine. An interrupted download goes on where it stopped.

  ollmlx pull qwen3:8b                                  a name of Ollama's library
  ollmlx pull mlx-community/Llama-3.2-1B-Instruct-4bit  a repository of the Hugging Face hub
  ollmlx pull hf.co/bartowski/Qwen_Qwen3-4B-GGUF:Q4_K_M  one GGUF file of such a repository
  ollmlx pull registry.example.org/me/mine              a model of another registry"""
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--insecure", action="store_true", help="use plain HTTP for the registry, without TLS")
    parser.add_argument(
        "--backend",
        metavar="NAME",
        default="",
        help="pull it for this backend: llamacpp keeps a GGUF file as it is, mlx imports it",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only print what would be pulled, its size, and whether it fits here"
    )
    parser.add_argument("--json", action="store_true", help="print progress as JSON lines")


def run_pull(args: argparse.Namespace) -> int:
    client = connect(args)
    ensure_daemon(client, args)
    if args.dry_run:
        return _dry_run(client, args)
    pull(client, args.model, insecure=args.insecure, backend=args.backend, as_json=args.json)
    return 0


def pull(client: Client, model: str, *, insecure: bool = False, backend: str = "", as_json: bool = False) -> None:
    """Pull a model through the daemon and show the progress."""
    body = {"model": model, "insecure": insecure, **({"backend": backend} if backend else {})}
    _transfer(client, "/api/pull", body, as_json=as_json)


def _dry_run(client: Client, args: argparse.Namespace) -> int:
    """Print what a pull would take. Returns 1 when no source has a model that runs here."""
    answer = client.post("/api/pull", {"model": args.model, "insecure": args.insecure, "dry_run": True})
    found = [each for each in answer["candidates"] if each["origin"]]
    if args.json:
        say(json.dumps(answer, indent=2))
    elif found:
        say(_candidates_table(found))
    for each in answer["candidates"]:
        if each["error"]:
            terminal.note(f"{each['origin'] or each['source']}: {each['error']}")
    return 0 if any(not each["error"] for each in found) else 1


def _candidates_table(found: list[Json]) -> str:
    """Return the candidates in the order of a pull, which takes the first one that runs here."""
    rows = [
        (
            each["origin"],
            format_size(each["size"]),
            each["backend"] or "-",
            f"{each['context_length']:,} of {each['model_context']:,}" if each["context_length"] else "-",
            format_size(each["memory"]) if each["memory"] else "-",
            {True: "yes", False: "no", None: "?"}[each["fits"]],
        )
        for each in found
    ]
    return table(("MODEL", "DOWNLOAD", "ENGINE", "CONTEXT", "MEMORY", "FITS"), rows, terminal.width(sys.stdout))


def add_push_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = """Upload a model under its name; ollmlx cp gives it the name that it needs.

  ollmlx push me/mine                        an MLX model: to the Hugging Face hub, with HF_TOKEN;
                                             one of Ollama's store: to registry.ollama.ai
  ollmlx push registry.example.org/me/mine   to another registry

Registries know you by Ollama's key, ~/.ollama/id_ed25519.

The daemon needs push = true in [security] of ollmlx.toml."""
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--insecure", action="store_true", help="allow a registry without a valid certificate")
    parser.add_argument("--json", action="store_true", help="print progress as JSON lines")


def run_push(args: argparse.Namespace) -> int:
    _transfer(connect(args), "/api/push", {"model": args.model, "insecure": args.insecure}, as_json=args.json)
    return 0


def _transfer(client: Client, path: str, body: Json, *, as_json: bool) -> None:
    with progress(as_json=as_json) as show:
        for step in client.stream(path, {**body, "stream": True}, ended=succeeded):
            show(step)


def succeeded(record: Json) -> bool:
    """Return True for the last object of /api/pull, /api/push or /api/create."""
    return record.get("status") == "success"


@contextmanager
def progress(*, as_json: bool = False) -> Iterator[ShowProgress]:
    """Yield a function that shows one step: as a bar or a line on standard error, or as JSON on standard output."""
    if as_json:
        yield lambda step: print(json.dumps(step), flush=True)
    elif terminal.has_colour(sys.stderr):
        with _bars() as bars:
            yield bars.show
    else:
        shown = [""]

        def show(step: Json) -> None:
            if (status := str(step.get("status", ""))) not in ("", shown[-1]):
                terminal.note(status)
                shown.append(status)

        yield show


class ProgressBars:
    """A line for each file or step: a spinner, and a bar once the size is known."""

    def __init__(self, live: Progress) -> None:
        self._live = live
        self._tasks: dict[str, TaskID] = {}
        self._current: str | None = None

    def show(self, step: Json) -> None:
        """Show one object of the stream."""
        status, total, completed = escape_line(str(step.get("status", ""))), step.get("total"), step.get("completed")
        key = str(step.get("digest") or status)
        if key not in self._tasks:
            self._finish()
            self._tasks[key] = self._live.add_task(status, total=total)
        self._current = key
        task = self._tasks[key]
        self._live.update(task, description=status)
        if total:
            self._live.update(task, total=total, completed=completed or 0)
        if status == "success":
            self._finish()

    def _finish(self) -> None:
        """Mark the last step as done if it has no size."""
        if self._current is not None:
            task = self._tasks[self._current]
            known = next(item.total for item in self._live.tasks if item.id == task)
            if known is None:
                self._live.update(task, total=1, completed=1)


@contextmanager
def _bars() -> Iterator[ProgressBars]:
    from rich.console import Console  # imported when used: it costs start-up time
    from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Task as RichTask
    from rich.text import Text

    class Amount(ProgressColumn):
        """The bytes done, all bytes, and the speed; empty for a step without a size."""

        def render(self, task: RichTask) -> Text:
            if not task.total or task.total == 1:
                return Text("")
            speed = f"  {format_size(task.speed)}/s" if task.speed and not task.finished else ""
            return Text(f"{format_size(task.completed)}/{format_size(task.total)}{speed}")

    columns = (
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        Amount(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True), expand=True) as live:
        yield ProgressBars(live)
