"""`ollmlx doctor --bundle FILE.zip`: a report to send to a person who helps.

It holds versions, settings, plugins, findings and logs. Secrets are masked; prompts and answers are left out.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import platform
import re
import sys
import zipfile
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from ollmlx import __version__
from ollmlx.doctor.context import CheckContext
from ollmlx.doctor.report import Report
from ollmlx.errors import Conflict, StorageError
from ollmlx.errors.secrets import MASK, is_secret_key, mask_text, mask_tree
from ollmlx.plugin.loader import is_hidden
from ollmlx.settings.report import effective

LOG_LINES = 2000
VARIABLES = re.compile(r"(OLLMLX|OLLAMA|HF|HUGGING|MLX|PIP|PYTHON|SSL|REQUESTS|CUDA)_?|.*_PROXY$|.*_proxy$|PATH$|LANG$")
CONVERSATION = re.compile(
    r"""\b(?:generate|embed|tokenize)\ \{.*|\{?"(?:prompt|messages|content|input|inputs|response|text|system)"\s*:.*
        |\b(?:system|template)\s*=.*""",
    re.VERBOSE,
)
"""The rest of a line that may hold prompts or answers."""

LEFT_OUT = "(left out: prompts and answers)"


def write(file: Path, context: CheckContext, report: Report) -> list[str]:
    """Write the zip file and return the names in it. Raises Conflict if the file exists, StorageError if it cannot."""
    clean = Redaction(context)
    parts: dict[str, str] = {
        "report.txt": clean.text(report.as_text()),
        "report.json": clean.json(report.as_json()),
        "versions.json": clean.json(versions(context)),
        "settings.json": clean.json(settings(context)),
        "plugins.json": clean.json([plugin.as_json() for plugin in context.plugins.loaded]),
        "daemon.json": clean.json(asyncio.run(context.ask("/api/daemon"))),
        "daemon.log": clean.text("\n".join(recent(context.settings.state_folder / "logs"))),
        "serve.out": clean.text("\n".join(_tail(context.settings.state_folder / "serve.out"))),
    }
    kept = {name: content for name, content in parts.items() if content.strip()}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in kept.items():
            archive.writestr(name, content.encode("utf-8", "backslashreplace"))  # a path may be no UTF-8
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
            try:
                target.write(packed.getvalue())
                target.flush()
            except OSError:  # no half of an archive is left behind
                file.unlink(missing_ok=True)
                raise
    except FileExistsError:
        raise Conflict(f"{file} exists", hint="choose another name") from None
    except OSError as error:
        raise StorageError(f"cannot write {file}: {error.strerror}", code="STO004") from error
    return list(kept)


def versions(context: CheckContext) -> dict[str, Any]:
    """Return the versions of ollmlx, Python and every package, and the machine as the checks see it."""
    machine = {name: value for name, value in vars(context.machine).items() if not callable(value)}
    return {
        "ollmlx": __version__,
        "python": sys.version,
        "executable": sys.executable,
        "platform": platform.platform(),
        "machine": machine,
        "packages": dict(sorted((one.metadata["Name"], one.version) for one in distributions())),
    }


def settings(context: CheckContext) -> dict[str, Any]:
    """Return every value with its origin, the faults, and the environment variables that matter."""
    values = []
    for one in effective(context.loaded, lambda path: is_hidden(context.plugins, path)):
        value = one.as_json()
        if one.path[0] == "models" and one.path[-1] in ("system", "template"):
            value |= {"value": LEFT_OUT, "overrides": MASK if one.overrides else []}
        values.append(value)
    names = (name for name in sorted(context.environ) if VARIABLES.match(name))
    variables = {name: MASK if is_secret_key(name) else context.environ[name] for name in names}
    return {"values": values, "faults": [str(fault) for fault in context.faults], "variables": variables}


def recent(folder: Path) -> list[str]:
    """Return the last lines of the daemon's log, including the rotated file before it."""
    return [*_tail(folder / "daemon.log.1"), *_tail(folder / "daemon.log")][-LOG_LINES:]


class Redaction:
    """Removes from any text: the known secrets, what looks like a secret, prompts and answers, the home folder."""

    def __init__(self, context: CheckContext) -> None:
        self._values = sorted(_secret_values(context), key=len, reverse=True)
        self._home = str(Path.home())

    def text(self, content: str) -> str:
        """Redact a text line by line. A private key stands in several lines."""
        return "\n".join(self._line(line) for line in mask_text(content).splitlines())

    def json(self, value: Any) -> str:
        """Return a redacted value as indented JSON; every value under a secret key is masked."""
        return "" if value is None else json.dumps(self._tree(mask_tree(value)), indent=2, default=str)

    def _tree(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: self._tree(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._tree(item) for item in value]
        return self._line(value) if isinstance(value, str) else value

    def _line(self, line: str) -> str:
        for value in self._values:
            line = line.replace(value, MASK)
        line = CONVERSATION.sub(LEFT_OUT, line.replace('\\"', '"'))
        return mask_text(line.replace(self._home, "~"))[:2000]


def _secret_values(context: CheckContext) -> set[str]:
    """Return every secret that is known here, so that it is found wherever it was written."""
    secrets: list[Any] = [*context.settings.security.api_keys]
    secrets += [one.key for one in context.settings.security.keys.values()]
    secrets += [value for name, value in context.environ.items() if is_secret_key(name)]
    for name, table in (context.settings.plugins.model_extra or {}).items():
        if isinstance(table, Mapping):
            secrets += [value for key, value in table.items() if is_hidden(context.plugins, ("plugins", name, key))]
    return {value for value in _texts(secrets) if len(value) > 3}


def _texts(values: Iterable[Any]) -> Iterable[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            yield from _texts(value.values())
        elif isinstance(value, list | tuple):
            yield from _texts(value)


def _tail(file: Path) -> list[str]:
    with suppress(OSError), file.open(encoding="utf-8", errors="replace") as lines:
        return [line.rstrip("\n") for line in deque(lines, LOG_LINES)]
    return []
