"""A time limit for a stranger's code that runs in this process and may never return."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")


class DeadlinePassed(Exception):
    """It is still running, and nobody waits for it any more."""


def within(seconds: float, work: Callable[[], Answer], *, name: str) -> Answer:
    """What `work` answers or raises; SystemExit and the like as RuntimeError. Raises DeadlinePassed after that time.

    It runs in a thread called `name`, which cannot be stopped, only left behind: what it does later must not count.
    """
    answers: list[Answer] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again below, where somebody waits
            errors.append(error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    thread.join(min(seconds, threading.TIMEOUT_MAX))
    if errors:
        error = errors[0]
        if not isinstance(error, Exception):  # it would end this program; a real Ctrl-C never arrives in a thread
            raise RuntimeError(f"{type(error).__name__}: {error}") from error
        raise error
    if not answers:
        raise DeadlinePassed
    return answers[0]
