"""Did a runner fail?"""

from __future__ import annotations

from collections.abc import Sequence

from ollmlx.doctor.world import World
from ollmlx.findings import Finding, Severity

STATES = "/api/runners"


class RunnersCheck:
    """The failed runners of the daemon, each with its cause and last words."""

    name = "runners"
    group = "runners"
    codes = ("RUN002",)

    async def run(self, world: World) -> Sequence[Finding]:
        answer = await world.get(STATES)
        runners = answer.get("runners", []) if isinstance(answer, dict) else []
        return [
            Finding(
                code="RUN002",
                severity=Severity.WARNING,
                title=f"the runner of {runner['model']} failed: {runner.get('last_error') or 'for an unknown cause'}",
                evidence=tuple(runner.get("last_words", ())[-3:]),
                commands=("ollmlx logs",),
                subject=str(runner["model"]),
            )
            for runner in runners
            if runner.get("state") == "failed"
        ]
