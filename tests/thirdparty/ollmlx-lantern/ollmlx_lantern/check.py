"""The check: is there enough oil?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ollmlx import Finding, Severity

LOW = 3


class OilCheck:
    """Looks at the plugin's own settings."""

    name = "oil"
    group = "lantern"
    codes: tuple[str, ...] = ("LAN001",)

    def __init__(self, oil: int) -> None:
        self._oil = oil

    async def run(self, world: Any) -> Sequence[Finding]:
        if self._oil >= LOW:
            return []
        return [
            Finding(
                code="LAN001",
                severity=Severity.WARNING,
                title=f"{self._oil} measures of oil are left",
                evidence=("[plugins.lantern] oil",),
                commands=("ollmlx config show",),
                subject="oil",
            )
        ]
