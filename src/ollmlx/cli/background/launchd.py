"""The agent of launchd: `~/Library/LaunchAgents/io.ollmlx.daemon.plist`. Not run on a Mac yet."""

from __future__ import annotations

import os
import plistlib
import re
import time
from collections.abc import Callable
from pathlib import Path

from ollmlx.cli.background.description import Description, ServiceState
from ollmlx.cli.background.program import Run, checked
from ollmlx.errors import OllmlxError, Unsupported

LABEL = "io.ollmlx.daemon"
OUTPUT = "logs/service.out"
"""The file in the state folder that holds what the daemon prints."""
DESCRIPTORS = 8192
"""Open files; launchd's own limit is 256."""
POLL = 0.5


class Launchd:
    """launchd's domain of one person. `run` runs a program, `sleep` waits for some seconds."""

    def __init__(self, run: Run, home: Path, state: Path, sleep: Callable[[float], None] = time.sleep) -> None:
        self._run = run
        self._sleep = sleep
        self._domain = f"gui/{os.getuid()}"
        self._output = state / OUTPUT
        self.file = home / "Library" / "LaunchAgents" / f"{LABEL}.plist"

    def check(self) -> None:
        if self._run(("launchctl", "print", self._domain)).code:
            raise Unsupported("launchd has no session of yours: log in on the screen of this Mac", hint="ollmlx serve")

    def text(self, description: Description) -> bytes:
        return plistlib.dumps(
            {
                "Label": LABEL,
                "ProgramArguments": list(description.program),
                "EnvironmentVariables": dict(description.environment),
                "WorkingDirectory": str(description.folder),
                "RunAtLoad": True,
                "KeepAlive": {"SuccessfulExit": False},
                "ExitTimeOut": description.stop_seconds,
                "ProcessType": "Interactive",  # a background agent gets less of the processor and of the disk
                "Umask": 0o077,
                "SoftResourceLimits": {"NumberOfFiles": DESCRIPTORS},
                "StandardOutPath": str(self._output),
                "StandardErrorPath": str(self._output),
            }
        )

    def start(self) -> list[str]:
        self._end()
        checked(self._run, ("launchctl", "enable", self._service))  # a person may have disabled it
        checked(self._run, ("launchctl", "bootstrap", self._domain, str(self.file)), hint="ollmlx service logs")
        return ["it starts when you log in, and ends when you log out"]

    def stop(self) -> None:
        self._end()

    def restart(self) -> None:
        self.start()

    def state(self) -> ServiceState:
        printed = self._run(("launchctl", "print", self._service))
        if printed.code:
            return ServiceState(False, "not loaded")
        found = dict(re.findall(r"(?m)^\s*(state|pid|last exit code) = (.*)$", printed.out)[::-1])
        words = found.get("state", "unknown")
        if "last exit code" in found:
            words += f", last exit code: {found['last exit code']}"
        pid = found.get("pid", "")
        return ServiceState(found.get("state") == "running", words, int(pid) if pid.isdigit() else None)

    def log_command(self, lines: int, *, follow: bool) -> list[str]:
        return ["tail", "-n", str(lines), *(["-F"] if follow else []), str(self._output)]

    @property
    def _service(self) -> str:
        return f"{self._domain}/{LABEL}"

    def _end(self) -> None:
        """Let the daemon finish its answers and wait for its end: `bootout` returns before that."""
        if self._run(("launchctl", "print", self._service)).code:
            return
        self._run(("launchctl", "bootout", self._service))
        for _ in range(int(3600 / POLL)):
            if self._run(("launchctl", "print", self._service)).code:
                return
            self._sleep(POLL)
        raise OllmlxError("launchd did not end the service", hint="ollmlx service logs")
