"""Findings: the reports of checks, with commands that fix the problem, and every finding code.

A code is never reused. Each has a page in `diagnostics/`.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from itertools import takewhile
from pathlib import Path
from typing import Final, Self

from pydantic import BaseModel, ConfigDict, InstanceOf


class Severity(StrEnum):
    """The severity of a finding. Only `error` makes the doctor fail.

    Two are notes, whose title is shown without a code: `ok` for something that works, and `skipped` for something that
    could not be examined.
    """

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"
    OK = "ok"
    SKIPPED = "skipped"


class SafeCommand(str):
    """A command that loses nothing and can be undone: `ollmlx doctor --fix` may run it.

    `asks`: it changes what a person may have meant, so it is never run unasked. `changes`: the file or folder of which
    a copy is kept first.
    """

    __slots__ = ("asks", "changes")
    asks: bool
    changes: Path | None

    def __new__(cls, text: str, *, asks: bool = False, changes: Path | None = None) -> Self:
        command = super().__new__(cls, text)
        command.asks, command.changes = asks, changes
        return command

    def rewritten(self, text: str) -> SafeCommand:
        """Return the same command in other words."""
        return SafeCommand(text, asks=self.asks, changes=self.changes)


class Finding(BaseModel):
    """One problem that a check found.

    `title`: one line that states the problem, never the fix. `evidence`: observations, a line each. `commands`: the
    commands that fix the problem, in order; those that the doctor may run itself are SafeCommands. `instead`: commands
    of another solution. `subject`: the model, plugin, file or runner.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    code: str
    severity: Severity
    title: str
    evidence: tuple[str, ...] = ()
    commands: tuple[InstanceOf[str], ...] = ()
    instead: tuple[InstanceOf[str], ...] = ()
    subject: str = ""

    @classmethod
    def of(
        cls,
        code: str,
        title: str,
        *,
        evidence: Iterable[str] = (),
        commands: Iterable[str] = (),
        instead: Iterable[str] = (),
        subject: str = "",
        severity: Severity | None = None,
    ) -> Finding:
        """Return a finding with the severity of its code, which is an error for a plugin's own code, or the given one.

        Empty evidence is left out.
        """
        return cls(
            code=code,
            severity=severity or Severity(CODES[code][1] if code in CODES else "error"),
            title=title,
            evidence=tuple(line for line in evidence if line),
            commands=tuple(commands),
            instead=tuple(instead),
            subject=subject,
        )

    @property
    def safe(self) -> tuple[SafeCommand, ...]:
        """The commands that the doctor may run: those before the first that only a person should run."""
        return tuple(takewhile(lambda one: isinstance(one, SafeCommand), self.commands))  # type: ignore[arg-type]


CODES: Final[dict[str, tuple[str, str]]] = {
    "CFG001": ("the settings file cannot be read", "error"),
    "CFG003": ("a setting is unknown", "error"),
    "CFG004": ("the value of a setting cannot be used", "error"),
    "CFG005": ("one setting hides another, or a model", "info"),
    "CFG008": ("a plugin does not accept its settings", "error"),
    "CFG009": ("the settings name a model that is not installed", "warning"),
    "CFG013": ("a settings file of the working directory is not trusted", "warning"),
    "DOC001": ("a check of the doctor crashed", "error"),
    "DOC002": ("a check of the doctor was not finished", "warning"),
    "ENV001": ("MLX cannot be used on this machine", "error"),
    "ENV003": ("memory for models is short", "warning"),
    "ENV004": ("a limit of this process is low", "warning"),
    "ENV005": ("MLX has no build for this Python or this macOS", "error"),
    "ENV007": ("models run slower than this machine allows", "warning"),
    "ENV008": ("the NVIDIA driver is missing or too old", "error"),
    "ENV011": ("packages do not fit together, or others are in the way", "error"),
    "ENV012": ("the clock of this machine is wrong", "warning"),
    "MDL001": ("a model name is malformed", "error"),
    "MDL002": ("the model is not installed", "error"),
    "MDL003": ("a model's files are damaged or incomplete", "error"),
    "MDL004": ("the installed mlx-lm does not know this architecture", "error"),
    "MDL005": ("no backend can run this model", "error"),
    "MDL006": ("a model file could not be imported", "error"),
    "MDL007": ("an adapter, draft or projector does not fit its model", "error"),
    "MDL010": ("a model has no chat template", "info"),
    "NET001": ("the daemon cannot listen at its address", "error"),
    "NET002": ("another daemon uses the state folder", "error"),
    "NET003": ("the daemon is not running", "info"),
    "NET004": ("another program or daemon answers than these settings expect", "error"),
    "NET005": ("the hub cannot be reached", "error"),
    "NET006": ("the hub requires permission for this model", "error"),
    "NET007": ("a proxy or a name leads clients elsewhere", "warning"),
    "NET008": ("the daemon refuses new requests", "error"),
    "PLG001": ("a plugin could not be loaded", "error"),
    "PLG003": ("two plugins use the same name", "error"),
    "PLG004": ("a plugin is written for another version", "error"),
    "PLG005": ("a plugin breaks a rule of its hooks", "error"),
    "PLG006": ("a plugin that is needed is missing or off", "error"),
    "PLG008": ("a plugin fails while it is used", "error"),
    "RUN001": ("a runner could not be started", "error"),
    "RUN002": ("a runner exited unexpectedly", "error"),
    "RUN003": ("a loaded model cannot generate a token", "error"),
    "RUN004": ("a runner makes no progress", "error"),
    "RUN005": ("a model does not fit into memory", "error"),
    "RUN006": ("a model failed too often", "error"),
    "RUN007": ("a runner was left behind by an earlier daemon", "warning"),
    "RUN008": ("a runner uses another protocol version", "error"),
    "RUN010": ("a model fails its self-test", "error"),
    "RUN017": ("a model uses more memory than was reserved for it", "warning"),
    "RUN018": ("a client changes the beginning of its prompts", "warning"),
    "RUN020": ("a coding agent could not do its task with a model", "error"),
    "SEC001": ("other machines can reach the daemon without an API key", "error"),
    "SEC002": ("the Host header of a request is not allowed", "error"),
    "SEC003": ("the origin of a web page is not allowed", "error"),
    "SEC004": ("the API key is missing or wrong", "error"),
    "SEC005": ("a model wants to run its own code", "error"),
    "SEC006": ("any web page may call the daemon", "warning"),
    "SEC007": ("other users of this machine can read secrets", "warning"),
    "SEC008": ("an API key is short", "warning"),
    "SEC009": ("a runner is not confined", "warning"),
    "STO001": ("the models folder does not exist yet", "info"),
    "STO002": ("the models or the state folder cannot be used", "error"),
    "STO003": ("the disk is full or nearly full", "error"),
    "STO004": ("a file could not be read or written", "error"),
    "STO006": ("an interrupted pull left files behind", "info"),
    "STO007": ("the names of models and of their folders disagree", "warning"),
    "STO012": ("pip could not download the package", "error"),
    "STO013": ("a downloaded file is not the expected one", "error"),
}
"""Code -> (title, severity: error, warning or info)."""

RETIRED: Final[dict[str, str]] = {
    "CFG002": "CFG001",
    "CFG006": "CFG004",
    "CFG007": "CFG003",
    "CFG010": "CFG004",
    "CFG011": "CFG004",
    "CFG012": "CFG003",
    "DOC003": "DOC002",
    "ENV002": "ENV007",
    "ENV006": "ENV005",
    "ENV009": "ENV003",
    "ENV010": "ENV003",
    "ENV013": "ENV005",
    "ENV014": "ENV003",
    "ENV024": "ENV007",
    "MDL008": "MDL003",
    "MDL009": "MDL003",
    "NET009": "NET004",
    "PLG002": "PLG005",
    "PLG007": "PLG006",
    "RUN011": "RUN010",
    "RUN012": "RUN010",
    "RUN013": "RUN010",
    "RUN014": "RUN010",
    "RUN015": "RUN010",
    "RUN016": "RUN010",
    "STO005": "STO003",
    "STO008": "STO007",
    "STO009": "STO002",
    "STO010": "NET004",
    "STO020": "MDL003",
    "STO022": "STO007",
}
"""Old code -> the code that replaced it. A retired code is never reported and never used again."""
