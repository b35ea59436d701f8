"""Adding and removing a table of a settings file, with everything else as the person wrote it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ollmlx.errors import ConfigError, Conflict, NotFound, StorageError
from ollmlx.settings.files import FILE_NAME, NotToml, find_file, parse_toml
from ollmlx.settings.keys import KeyPath, show_path
from ollmlx.settings.report import toml_value
from ollmlx.settings.trust import TrustedFiles


class EditedFile:
    """The settings file that a command line uses; the person's own if there is none yet."""

    def __init__(self, config: Path | None, environ: Mapping[str, str], cwd: Path) -> None:
        found = find_file(config, environ, cwd)
        home = Path(environ.get("XDG_CONFIG_HOME") or f"{environ.get('HOME') or Path.home()}/.config")
        self.path = found.path if found else home / "ollmlx" / FILE_NAME
        self._trusted = TrustedFiles(environ)

    def add(self, table: KeyPath, values: Mapping[str, Any]) -> None:
        """Add a table at the end. Raises Conflict when it is there, ConfigError, StorageError."""
        text, tree = self._read()
        if _at(tree, table) is not None:
            raise Conflict(f"{show_path(table)} is in {self.path} already")
        lines = [f"[{'.'.join(table)}]", *(f"{key} = {toml_value(value)}" for key, value in values.items())]
        self._write(f"{text.rstrip()}\n\n" if text.strip() else "", "\n".join(lines) + "\n")

    def remove(self, table: KeyPath) -> None:
        """Remove a table. Raises NotFound when it is not there under a header of its own, ConfigError, StorageError."""
        text, tree = self._read()
        lines = text.splitlines(keepends=True)
        header = f"[{'.'.join(table)}]"
        start = next((n for n, line in enumerate(lines) if line.partition("#")[0].strip() == header), None)
        if start is None or _at(tree, table) is None:
            raise NotFound(f"{self.path} has no table {header}", hint="ollmlx config show")
        after = next((n for n in range(start + 1, len(lines)) if lines[n].lstrip().startswith("[")), len(lines))
        self._write("".join(lines[:start]), "".join(lines[after:]))

    def _read(self) -> tuple[str, dict[str, Any]]:
        try:
            data = self.path.read_bytes()
            return data.decode(), parse_toml(data)[0]
        except FileNotFoundError:
            return "", {}
        except OSError as error:
            raise StorageError(f"cannot read {self.path}: {error.strerror}", code="CFG001") from error
        except (NotToml, UnicodeDecodeError) as error:
            raise ConfigError(f"{self.path} is not valid TOML: {error}", code="CFG001") from error

    def _write(self, *parts: str) -> None:
        data = "".join(parts).encode()
        try:
            parse_toml(data)
        except NotToml as error:  # a table of it is written in one line, `security = { … }`
            raise Conflict(f"change {self.path} by hand: it would not be valid any more: {error}") from error
        try:
            before = self.path.read_bytes() if self.path.exists() else None
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial = self.path.with_name(f".{self.path.name}.new")
            with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:  # noqa: PTH123
                file.write(data)
            partial.replace(self.path.resolve())
            if before is not None and self._trusted.has(self.path, before):
                self._trusted.add(self.path)
        except OSError as error:
            raise StorageError(f"cannot write {self.path}: {error.strerror}", code="CFG001") from error


def _at(tree: Any, table: KeyPath) -> Any:
    for part in table:
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree
