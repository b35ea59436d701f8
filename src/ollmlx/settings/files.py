"""Where a settings file may be. Light: clients ask it before they decide whether to read settings at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

FILE_NAME = "ollmlx.toml"


def find_file(config: Path | None, environ: Mapping[str, str], cwd: Path) -> tuple[Path, str] | None:
    """The settings file and how to call it: one that was asked for, even if missing; else the first that exists."""
    asked = str(config) if config is not None else environ.get("OLLMLX_CONFIG", "").strip()
    if asked:
        return (cwd / Path(asked).expanduser()), asked
    for path, shown in ((cwd / FILE_NAME, FILE_NAME), *((path, str(path)) for path in user_files(environ))):
        if path.exists() or path.is_symlink():
            return path, shown
    return None


def user_files(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Where a user's own settings file may be."""
    home = environ.get("HOME") or str(Path.home())
    base = environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
    return (Path(base) / "ollmlx" / FILE_NAME,)
