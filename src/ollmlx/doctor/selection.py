"""Which checks an examination runs: ollmlx's own and those of plugins, all of them, one group, or those for a code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollmlx.doctor.checks import OWN
from ollmlx.doctor.run import Examination
from ollmlx.errors import InvalidRequest

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from ollmlx.doctor.world import World


def every(world: World) -> list[Examination]:
    """All checks, ollmlx's own first."""
    shelf = world.plugins.registry.checks if world.plugins else None
    brought = zip(shelf.names(), shelf.values(), strict=True) if shelf is not None else ()
    own = [Examination(check, "ollmlx") for check in OWN]
    return own + [Examination(one.check, shelf.owner(name)) for name, one in brought if shelf is not None]


def chosen(world: World, what: str | None) -> list[Examination]:
    """The checks of a group, or those that can report a code; without either, all. Raises InvalidRequest."""
    found = every(world)
    if what is None:
        return found
    wanted = [one for one in found if one.check.group == what.lower() or what.upper() in one.check.codes]
    if not wanted:
        groups = ", ".join(dict.fromkeys(one.check.group for one in found))
        raise InvalidRequest(f"no check has the group or code {what!r}", hint=f"groups: {groups}")
    return wanted


def runbook_folders(world: World) -> list[Traversable]:
    """The folders of pages that plugins brought."""
    brought = world.plugins.registry.checks.values() if world.plugins else ()
    return [one.runbooks for one in brought if one.runbooks is not None]
