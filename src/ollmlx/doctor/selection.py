"""Which checks an examination runs: ollmlx's own and those of plugins, all of them, one group, or those for a code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollmlx.doctor.checks import OWN
from ollmlx.doctor.run import Examination
from ollmlx.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from importlib.resources.abc import Traversable

    from ollmlx.doctor.context import CheckContext


def every(world: CheckContext) -> Iterator[Examination]:
    """All checks: ollmlx's own at once, those of plugins when these are loaded."""
    yield from (Examination(check, "ollmlx") for check in OWN)
    if world.plugins is not None:
        shelf = world.plugins.registry.checks
        for name, one in zip(shelf.names(), shelf.values(), strict=True):
            yield Examination(one.check, shelf.owner(name))


def chosen(world: CheckContext, what: str | None) -> Iterable[Examination]:
    """The checks of a group, or those that can report a code; without either, all. Raises InvalidRequest."""
    if what is None:
        return every(world)
    found = list(every(world))
    wanted = [one for one in found if one.check.group == what.lower() or what.upper() in one.check.codes]
    if not wanted:
        groups = ", ".join(dict.fromkeys(one.check.group for one in found))
        raise InvalidRequest(f"no check has the group or code {what!r}", hint=f"groups: {groups}")
    return wanted


def runbook_folders(world: CheckContext) -> list[Traversable]:
    """The folders of pages that plugins brought."""
    brought = world.plugins.registry.checks.values() if world.plugins else ()
    return [one.runbooks for one in brought if one.runbooks is not None]
