"""What a check reports: data, with copyable commands, under a stable code."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class Severity(StrEnum):
    """Only `error` fails the doctor. Two are notes, whose title is shown without a code: `ok`, of what is there and
    well, and `skipped`, of what could not be looked at.
    """

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"
    OK = "ok"
    SKIPPED = "skipped"


class Finding(BaseModel):
    """One thing a check found.

    `title`: one line that states the problem, never the fix. `evidence`: what was seen, a line each.
    `commands`: what to type to fix it, in order. `instead`: another way out, for who does not want the first.
    `subject`: the model, plugin, file or runner it is about.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    code: str
    severity: Severity
    title: str
    evidence: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    instead: tuple[str, ...] = ()
    subject: str = ""
