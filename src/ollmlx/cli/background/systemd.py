"""The user service of systemd: `~/.config/systemd/user/ollmlx.service`, and the commands that control it."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from pathlib import Path

from ollmlx import __version__
from ollmlx.cli.background.description import Description, ServiceState
from ollmlx.cli.background.program import Run, checked
from ollmlx.errors import ConfigError, Unsupported

UNIT = "ollmlx.service"
SYSTEMCTL = ("systemctl", "--user")
PROPERTIES = ("LoadState", "UnitFileState", "ActiveState", "SubState", "Result", "MainPID", "NRestarts")
_TEMPLATE = """\
# Written by `ollmlx service install` (ollmlx {version}), which writes it anew.
[Unit]
Description=ollmlx, a model server
StartLimitIntervalSec=300
StartLimitBurst=5

[Service]
Type=notify
ExecStart={program}
ExecReload=/bin/kill -HUP $MAINPID
WorkingDirectory={folder}
{environment}
UMask=0077
Restart=on-failure
RestartSec=2
# Unusable settings are still unusable two seconds later.
RestartPreventExitStatus=2
# A runner that the kernel ends for its memory is the daemon's to replace.
OOMPolicy=continue
# The daemon stops its runners. Only what is left when it has exited is killed.
KillMode=mixed
TimeoutStopSec={stop}

[Install]
WantedBy=default.target
"""


class Systemd:
    """systemd's manager of one person. `run` runs a program."""

    def __init__(self, run: Run, home: Path, environ: Mapping[str, str]) -> None:
        self._run = run
        self.file = Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "systemd" / "user" / UNIT

    def check(self) -> None:
        if self._run((*SYSTEMCTL, "show-environment")).code:
            reason = "no systemd of your session answers (in a container, or in a shell of su or sudo, there is none)"
            raise Unsupported(reason, hint="ollmlx serve")

    def text(self, description: Description) -> bytes:
        return _TEMPLATE.format(
            version=__version__,
            program=" ".join(_quoted(word).replace("$", "$$") for word in description.program),
            folder=_escaped(str(description.folder)),
            environment="\n".join(
                f"Environment={_quoted(f'{name}={value}')}" for name, value in description.environment.items()
            ),
            stop=description.stop_seconds,
        ).encode()

    def start(self) -> list[str]:
        self._systemctl("daemon-reload")
        self._systemctl("enable", UNIT)
        self._systemctl("restart", UNIT)  # waits until the daemon says that it is ready
        user = getpass.getuser()
        if self._run(("loginctl", "enable-linger", user)).code:
            return [f"it stops when you log out, until this is allowed: sudo loginctl enable-linger {user}"]
        return []

    def stop(self) -> None:
        self._systemctl("disable", "--now", UNIT)

    def restart(self) -> None:
        self._systemctl("daemon-reload")
        self._systemctl("restart", UNIT)

    def state(self) -> ServiceState:
        shown = self._systemctl("show", UNIT, f"--property={','.join(PROPERTIES)}")
        found = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
        words = f"{found.get('ActiveState', 'unknown')} ({found.get('SubState', '')}), {found.get('UnitFileState')}"
        if found.get("Result", "success") != "success":
            words += f", last result: {found['Result']}"
        if found.get("NRestarts", "0") != "0":
            words += f", restarted {found['NRestarts']} times"
        lingers = self._run(("loginctl", "show-user", getpass.getuser(), "--property=Linger", "--value"))
        if not lingers.code:
            words += ", goes on after logout" if lingers.out.strip() == "yes" else ", ends at logout"
        pid = int(found.get("MainPID", "0"))
        return ServiceState(found.get("ActiveState") == "active", words, pid or None)

    def log_command(self, lines: int, *, follow: bool) -> list[str]:
        command = ["journalctl", "--user", "--unit", UNIT, "--lines", str(lines), "--no-pager"]
        return [*command, "--follow"] if follow else command

    def _systemctl(self, *words: str) -> str:
        return checked(self._run, (*SYSTEMCTL, *words), hint="ollmlx service logs")


def _quoted(text: str) -> str:
    escaped = _escaped(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _escaped(text: str) -> str:
    """Return a text in which systemd replaces nothing. Raises ConfigError for one with a line break."""
    if any(ord(sign) < 32 for sign in text):
        raise ConfigError(f"{text[:60]!r} has a control character, which a unit of systemd cannot hold")
    return text.replace("%", "%%")
