"""The catalogue: well-known short names and the models they stand for, from the data file `catalogue.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from ollmlx.errors import ConfigError


@cache
def load_catalogue() -> Mapping[str, str]:
    """Return the packaged catalogue: short name -> full name."""
    return read_catalogue(files("ollmlx.model").joinpath("catalogue.toml").read_text(encoding="utf-8"))


def read_catalogue(text: str) -> Mapping[str, str]:
    """Parse a catalogue file: tables of `"short" = "full"` lines. Raises ConfigError for anything else."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the catalogue is not valid TOML: {error}") from error
    entries: dict[str, str] = {}
    for table, lines in tables.items():
        if not isinstance(lines, dict):
            raise ConfigError(f"the catalogue's key {table!r} is not a table")
        for short, full in lines.items():
            if not isinstance(full, str) or short in entries:
                raise ConfigError(f'the catalogue\'s entry [{table}] "{short}" is not one name for one model')
            entries[short] = full
    return MappingProxyType(entries)
