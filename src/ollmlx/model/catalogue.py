"""The catalogue: well-known short names and the models they stand for, from the data file `catalogue.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType


@cache
def load_catalogue() -> Mapping[str, str]:
    """Return the packaged catalogue: short name -> full name. The tables of the file are groups for its reader."""
    tables = tomllib.loads(files("ollmlx.model").joinpath("catalogue.toml").read_text(encoding="utf-8"))
    return MappingProxyType({short: full for lines in tables.values() for short, full in lines.items()})
