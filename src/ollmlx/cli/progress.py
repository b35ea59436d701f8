"""Progress of a pull, a push or a create: bars for a person, lines for a log, JSON for a script."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ollmlx.cli import terminal
from ollmlx.cli.client import Json

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


def succeeded(record: Json) -> bool:
    """Whether an object of /api/pull, /api/push or /api/create is the last one."""
    return record.get("status") == "success"


def show_progress(steps: Iterator[Json], *, as_json: bool = False) -> None:
    """Follow the steps to their end."""
    with display(as_json=as_json) as show:
        for step in steps:
            show(step)


@contextmanager
def display(*, as_json: bool = False) -> Iterator[Callable[[Json], None]]:
    """What shows one step after the other: on standard error, or as JSON lines on standard output."""
    if as_json:
        yield lambda step: print(json.dumps(step), flush=True)
    elif terminal.has_colour(sys.stderr):
        with bars() as progress:
            yield progress.show
    else:
        yield _Lines().show


class _Lines:
    """A line for each new status."""

    def __init__(self) -> None:
        self._said = ""

    def show(self, step: Json) -> None:
        status = str(step.get("status", ""))
        if status and status != self._said:
            terminal.note(status)
            self._said = status


class Bars:
    """One line for each piece of work: a bar once its size is known, a spinner before."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._current: str | None = None

    def show(self, step: Json) -> None:
        """Take one object of the stream."""
        status, total, completed = str(step.get("status", "")), step.get("total"), step.get("completed")
        key = str(step.get("digest") or status)
        if key not in self._tasks:
            self._finish()
            self._tasks[key] = self._progress.add_task(status, total=total)
        self._current = key
        task = self._tasks[key]
        self._progress.update(task, description=status)
        if total:
            self._progress.update(task, total=total, completed=completed or 0)
        if status == "success":
            self._finish()

    def _finish(self) -> None:
        """The step before is over: without a size, its spinner becomes a full line."""
        if self._current is not None:
            task = self._tasks[self._current]
            known = next(item.total for item in self._progress.tasks if item.id == task)
            if known is None:
                self._progress.update(task, total=1, completed=1)


@contextmanager
def bars() -> Iterator[Bars]:
    """A live display on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Task as RichTask
    from rich.text import Text

    class Amount(ProgressColumn):
        """Bytes done, of all, and the speed; empty for work without a size."""

        def render(self, task: RichTask) -> Text:
            from ollmlx.text.quantities import format_size

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
    with Progress(*columns, console=Console(stderr=True), expand=True) as progress:
        yield Bars(progress)
