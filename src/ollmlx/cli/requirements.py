"""Packages that are newer than those which ollmlx was tested with, where a newer one may behave differently."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from ollmlx.errors import ConfigError


def check_versions(wanted: Iterable[str] | None = None, installed: Callable[[str], str] = version) -> None:
    """Raise ConfigError for packages outside of their tested versions: those whose requirement has an upper bound.

    pip keeps to the bounds; a later `pip install --upgrade PACKAGE` only warns, and the daemon would fail anyhow.
    """
    lines = (requires("ollmlx") or ()) if wanted is None else wanted
    unfit = [found for line in lines if (found := _unfit(line, installed)) is not None]
    if unfit:
        raise ConfigError(
            f"ollmlx was not tested with {', '.join(name for name, _ in unfit)}, and may fail with it",
            hint="pip install " + " ".join(f"'{requirement}'" for _, requirement in unfit),
        )


def _unfit(line: str, installed: Callable[[str], str]) -> tuple[str, str] | None:
    """Return the package with its version, and the requirement; None when they fit, or nothing is to be checked."""
    requirement = Requirement(line)
    if not any(bound.operator.startswith("<") for bound in requirement.specifier):
        return None
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return None
    try:
        found = installed(requirement.name)
    except PackageNotFoundError:  # its import tells
        return None
    if requirement.specifier.contains(found, prereleases=True):
        return None
    return f"{requirement.name} {found}", f"{requirement.name}{requirement.specifier}"
