"""`ollmlx doctor --bundle FILE.zip`: what somebody who helps needs to know; no secrets, nothing of what was said."""

from __future__ import annotations

import asyncio
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
from typing import TYPE_CHECKING, Any

from ollmlx import __version__
from ollmlx.doctor.render import text
from ollmlx.errors import Conflict, StorageError
from ollmlx.errors.secrets import MASK, is_secret_key, mask_text, mask_tree
from ollmlx.plugin.loader import is_hidden
from ollmlx.settings.report import effective

if TYPE_CHECKING:
    from ollmlx.doctor.context import CheckContext
    from ollmlx.doctor.report import Report

LOG_LINES = 2000
LINE = 2000
VARIABLES = re.compile(r"(OLLMLX|OLLAMA|HF|HUGGING|MLX|PIP|PYTHON|SSL|REQUESTS|CUDA)_?|.*_PROXY$|.*_proxy$|PATH$|LANG$")
SPOKEN = re.compile(
    r"""\b(?:generate|embed|tokenize)\ \{.*|\{?"(?:prompt|messages|content|input|inputs|response|text|system)"\s*:.*""",
    re.VERBOSE,
)
"""From here to its end a line may hold what people and models said."""

LEFT_OUT = "(left out: what was said)"
WORDS = frozenset({"system", "template"})
"""Keys of declared models that are prompts, too."""


def write(file: Path, world: CheckContext, report: Report) -> list[str]:
    """Write the zip; the names in it. Raises Conflict when the file exists, StorageError when it cannot be written."""
    clean = Redaction(world)
    parts: dict[str, str] = {
        "report.txt": clean.text(text(report)),
        "report.json": clean.json(report.as_json()),
        "versions.json": clean.json(versions(world)),
        "settings.json": clean.json(settings(world)),
        "plugins.json": clean.json(plugins(world)),
        "daemon.json": clean.json(asyncio.run(world.ask("/api/daemon"))),
        "daemon.log": clean.text("\n".join(recent(world.settings.state_folder / "logs"))),
        "serve.out": clean.text("\n".join(_tail(world.settings.state_folder / "serve.out"))),
    }
    held = {name: content for name, content in parts.items() if content.strip()}
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as target, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in held.items():
                archive.writestr(name, content)
    except FileExistsError:
        raise Conflict(f"{file} exists", hint="choose another name") from None
    except OSError as error:
        raise StorageError(f"cannot write {file}: {error.strerror}", code="STO004") from error
    return list(held)


def versions(world: CheckContext) -> dict[str, Any]:
    """ollmlx, Python, the system, the machine as the checks see it, and every installed package."""
    machine = {name: value for name, value in vars(world.machine).items() if not callable(value)}
    return {
        "ollmlx": __version__,
        "python": sys.version,
        "executable": sys.executable,
        "platform": platform.platform(),
        "machine": machine,
        "packages": dict(sorted((one.metadata["Name"], one.version) for one in distributions())),
    }


def settings(world: CheckContext) -> dict[str, Any]:
    """Every value with its origin, the faults, and the variables that matter."""
    values = []
    for one in effective(world.loaded, lambda path: is_hidden(world.plugins, path)) if world.loaded is not None else ():
        told = one.as_json()
        if one.path[0] == "models" and one.path[-1] in WORDS:
            told = {**told, "value": LEFT_OUT, "overrides": _hidden(told["overrides"])}
        values.append(told)
    names = (name for name in sorted(world.environ) if VARIABLES.match(name))
    variables = {name: MASK if is_secret_key(name) else world.environ[name] for name in names}
    return {"values": values, "faults": [str(fault) for fault in world.faults], "variables": variables}


def plugins(world: CheckContext) -> list[dict[str, Any]]:
    """Every plugin, and why it is off."""
    return [
        {
            "name": plugin.name,
            "origin": plugin.origin,
            "version": plugin.version,
            "hooks": list(plugin.hooks),
            "problem": plugin.problem,
            "code": plugin.code,
            "seconds": round(plugin.seconds, 3),
        }
        for plugin in (world.plugins.loaded if world.plugins is not None else ())
    ]


def recent(folder: Path) -> list[str]:
    """The last lines of the daemon's log, of the rotated file before it as well."""
    return [*_tail(folder / "daemon.log.1"), *_tail(folder / "daemon.log")][-LOG_LINES:]


class Redaction:
    """Takes out of any text the secrets of this world, what looks like one, what was said, and the home folder."""

    def __init__(self, world: CheckContext) -> None:
        self._values = sorted(_secret_values(world), key=len, reverse=True)
        self._home = str(Path.home())

    def text(self, content: str) -> str:
        """Line by line."""
        return "\n".join(self._line(line) for line in content.splitlines())

    def json(self, value: Any) -> str:
        """As indented JSON; values under secret keys are hidden whatever they are."""
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
        line = SPOKEN.sub(LEFT_OUT, line.replace('\\"', '"'))
        return mask_text(line.replace(self._home, "~"))[:LINE]


def _secret_values(world: CheckContext) -> set[str]:
    """Every secret that is known here, so that it is found wherever it was written."""
    found: list[Any] = list(world.settings.security.api_keys)
    found += [value for name, value in world.environ.items() if is_secret_key(name)]
    for name, table in (world.settings.plugins.model_extra or {}).items():
        if isinstance(table, Mapping):
            found += [value for key, value in table.items() if is_hidden(world.plugins, ("plugins", name, key))]
    return {value for value in _texts(found) if len(value) > 3}


def _texts(values: Iterable[Any]) -> Iterable[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            yield from _texts(value.values())
        elif isinstance(value, list | tuple):
            yield from _texts(value)


def _hidden(value: Any) -> Any:
    return MASK if value not in (None, "", [], {}) else value


def _tail(file: Path) -> list[str]:
    with suppress(OSError), file.open(encoding="utf-8", errors="replace") as lines:
        return [line.rstrip("\n") for line in deque(lines, LOG_LINES)]
    return []
