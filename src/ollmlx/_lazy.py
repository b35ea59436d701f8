"""Exports that are imported on first use, so that importing a package costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any


def lazy_exports(
    package: str,
    homes: Mapping[str, str],
    *,
    renamed: Mapping[str, str] | None = None,
    eager: Iterable[str] = (),
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Make the `__getattr__`, `__dir__` and `__all__` of a package.

    homes: the names that each module exports, with spaces between them. renamed: a name of an earlier version and its
    name of today; it still works and is in no list. eager: names that the package itself defines.
    """
    home = {name: module for module, names in homes.items() for name in names.split()}
    listed = sorted([*home, *eager])

    def getattr_(name: str) -> Any:
        current = (renamed or {}).get(name, name)
        if current not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(home[current]), current)

    return getattr_, lambda: listed, listed
