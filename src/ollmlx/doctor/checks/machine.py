"""Can this machine run models, and as fast as it could?"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ollmlx.doctor.world import World
from ollmlx.findings import Finding, Severity
from ollmlx.quantities import format_size
from ollmlx.supervisor.budget import ThisMachine, find_budget

LEAST_FILES = 1024
LEAST_BUDGET = 2 * 1000**3
WORTH_IT = 2.0  # times faster than the reference, to be worth a word


class MlxCheck:
    """MLX in a child process, so that a crash in it is a finding."""

    name = "mlx"
    group = "machine"
    codes = ("ENV001",)

    async def run(self, world: World) -> Sequence[Finding]:
        ran = await world.run(world.python, "-c", "import mlx.core as mx; mx.eval(mx.ones(8).sum())")
        if ran.status == 0:
            return []
        last = ran.said.splitlines()[-1:] or [f"it ended with status {ran.status}"]
        return [
            Finding(
                code="ENV001",
                severity=Severity.ERROR,
                title="MLX cannot be used on this machine",
                evidence=tuple(last),
                commands=("pip install 'ollmlx[cpu]'",),
            )
        ]


class BlasCheck:
    """The BLAS that a runner on the CPU will use, and what a better one would bring."""

    name = "blas"
    group = "machine"
    codes = ("ENV002",)

    async def run(self, world: World) -> Sequence[Finding]:
        backend = world.plugins.registry.backends.get("mlx") if world.plugins else None
        advise = getattr(backend, "blas_advice", None)
        if advise is None:
            return []
        advice = await asyncio.to_thread(advise)
        if advice.speed_up is None or advice.speed_up >= WORTH_IT or not advice.command:
            return []
        rejected = tuple(f"{name}: {why}" for name, why in advice.rejected)
        return [
            Finding(
                code="ENV002",
                severity=Severity.WARNING,
                title="MLX on this CPU computes with its slow reference BLAS",
                evidence=(advice.warning, *rejected) if advice.warning else rejected,
                commands=(advice.command,),
            )
        ]


class LimitsCheck:
    """Memory for models, and how many files may be open."""

    name = "limits"
    group = "machine"
    codes = ("ENV003", "ENV004")

    async def run(self, world: World) -> Sequence[Finding]:
        findings = []
        budget = find_budget(world.settings.memory, ThisMachine())
        if budget.size < LEAST_BUDGET:
            findings.append(
                Finding(
                    code="ENV003",
                    severity=Severity.WARNING,
                    title=f"models together may use {format_size(budget.size)}",
                    evidence=(budget.reason,),
                    commands=("ollmlx config show",),
                )
            )
        if (limit := world.open_files()) < LEAST_FILES:
            findings.append(
                Finding(
                    code="ENV004",
                    severity=Severity.WARNING,
                    title=f"only {limit} files may be open",
                    commands=("ulimit -n 8192",),
                )
            )
        return findings
