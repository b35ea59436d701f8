"""The facts that a service manager needs: program, environment, time to stop. None of them is secret."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ollmlx.errors.secrets import is_secret_key, mask_text

PASSED_ON = re.compile(
    r"(OLLMLX|OLLAMA|HF|OTEL)_\w+|XDG_(CONFIG|CACHE)_HOME|(HTTPS?|ALL|NO)_PROXY|SSL_CERT_(FILE|DIR)", re.IGNORECASE
)
"""Variables that change what the daemon does."""
PATHS = frozenset({"OLLMLX_CONFIG", "OLLMLX_STORAGE__MODELS", "OLLMLX_STORAGE__STATE", "OLLAMA_MODELS", "HF_HOME"})
"""Variables that are made absolute: a service has another working directory."""
CLIENTS_ONLY = frozenset({"OLLAMA_API_KEY"})
SECRETS = "OLLMLX_SECURITY__KEYS"
"""The beginning of the variables of named keys."""
HEADERS = "_HEADERS"
"""The end of the variables of OpenTelemetry that hold a collector's keys."""
NEUTRAL_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
"""The same for every person and every shell: what a terminal adds to PATH is gone after an update."""
STOP_SECONDS = 25
"""Seconds besides `drain_timeout` after which a daemon that does not stop is killed: its own deadline is shorter."""


@dataclass(frozen=True)
class Description:
    """The one template from which the files of both service managers are written."""

    program: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path
    """The working directory: the state folder, in which nobody keeps a settings file."""
    stop_seconds: int
    left_out: tuple[str, ...] = ()
    """Variables that hold secrets, and are not written."""


@dataclass(frozen=True)
class ServiceState:
    """A service as its manager sees it. `words`: in the manager's own terms."""

    running: bool
    words: str
    pid: int | None = None


class Manager(Protocol):
    """A service manager of one person: systemd or launchd. Methods raise OllmlxError with the manager's words."""

    file: Path

    def check(self) -> None:
        """Raise Unsupported when the manager does not answer."""

    def text(self, description: Description) -> bytes:
        """Return the service's file."""

    def start(self) -> list[str]:
        """Start the service now and at each login or boot; return what is left for the person to do."""

    def stop(self) -> None:
        """Stop it, and do not start it any more."""

    def restart(self) -> None:
        """Let running answers finish, then start the installed version."""

    def state(self) -> ServiceState:
        """Return the state of the installed service."""

    def log_command(self, lines: int, *, follow: bool) -> list[str]:
        """Return the program that prints what the daemon wrote, and what the manager says of it."""


def describe_service(
    arguments: list[str], environ: Mapping[str, str], state: Path, drain: float, program: str | None = None
) -> Description:
    """Return the description of `ollmlx serve` with these arguments and the variables that matter."""
    chosen = {name: value for name, value in environ.items() if PASSED_ON.fullmatch(name) and value.strip()}
    secret = sorted(name for name, value in chosen.items() if _is_secret(name, value))
    kept = {name: _absolute(name, value) for name, value in sorted(chosen.items()) if name not in secret}
    return Description(
        (*(own_program() if program is None else (program,)), "serve", *arguments),
        {"PATH": NEUTRAL_PATH, **kept},
        state,
        int(max(0.0, min(drain, 3600.0))) + STOP_SECONDS,
        tuple(name for name in secret if name not in CLIENTS_ONLY),
    )


def own_program() -> tuple[str, ...]:
    """Return the command of this installation by the path that updates keep: a script is a link where tools install."""
    script = Path(sys.argv[0])
    if script.name == "ollmlx" and script.is_file():
        return (str(script.absolute()),)
    return (sys.executable, "-P", "-m", "ollmlx")


def _is_secret(name: str, value: str) -> bool:
    by_name = is_secret_key(name) or name.upper().startswith(SECRETS) or name.upper().endswith(HEADERS)
    return by_name or mask_text(value) != value


def _absolute(name: str, value: str) -> str:
    return str(Path(value).expanduser().absolute()) if name in PATHS else value
