"""What the machine leaves for models: memory, files, time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from ollmlx.doctor.check import check, found, noted
from ollmlx.doctor.context import CheckContext
from ollmlx.errors.findings import Finding, Severity
from ollmlx.text.quantities import format_size

LEAST_FILES = 1024
LEAST_MEMORY = 2 * 1000**3
MUCH_SWAP = 0.5
RELEASED = datetime(2026, 1, 1, tzinfo=UTC).timestamp()  # no clock that is right shows an earlier time
LATEST = datetime(2100, 1, 1, tzinfo=UTC).timestamp()


@check("limits", "machine", "ENV003", "ENV004", "ENV009", "ENV012", "ENV014")
def limits(world: CheckContext) -> Iterator[Finding]:
    """Memory, swap, the container, open files, the clock."""
    machine = world.machine
    ceiling = min(machine.ram, machine.container_limit or machine.ram)
    limit = world.settings.memory.limit
    budget = limit if isinstance(limit, int) else int(ceiling * world.settings.memory.share)
    if budget >= LEAST_MEMORY:
        yield noted("ENV003", f"{format_size(budget)} of {format_size(machine.ram)} of memory for models")
    elif budget > 0:
        yield found(
            "ENV003", f"models together may use {format_size(budget)}",
            evidence=(f"memory: {format_size(machine.ram)}", f"[memory] limit = {limit!r}"),
            commands=("ollmlx config show",),
        )  # fmt: skip
    wanted = limit if isinstance(limit, int) else machine.ram // 2  # macOS itself wires more than half
    if machine.wired_limit and machine.wired_limit < wanted:
        wired = f"{format_size(machine.wired_limit)} of {format_size(machine.ram)}"
        yield found(
            "ENV014", f"macOS wires at most {wired} for models",
            evidence=(f"iogpu.wired_limit_mb = {machine.wired_limit // 1024**2}", f"[memory] limit = {limit!r}"),
            commands=("sudo sysctl iogpu.wired_limit_mb=0",),
        )  # fmt: skip
    if machine.swap_total and machine.swap_used > MUCH_SWAP * machine.swap_total and machine.available < LEAST_MEMORY:
        used = f"{format_size(machine.swap_used)} of {format_size(machine.swap_total)} swap are in use"
        yield found(
            "ENV009", used, evidence=(f"free memory: {format_size(machine.available)}",), commands=("ollmlx ps",)
        )
    if machine.container_limit is not None and machine.container_limit < machine.ram:
        limited = format_size(machine.container_limit)
        title = f"the container limits memory to {limited} of {format_size(machine.ram)}"
        yield found("ENV003", title, severity=Severity.INFO)
    if machine.files_limit is not None and machine.files_limit < LEAST_FILES:
        yield found("ENV004", f"only {machine.files_limit} files may be open", commands=("ulimit -n 8192",))
    now = world.now()
    if not RELEASED <= now <= LATEST:
        shown = datetime.fromtimestamp(min(max(now, 0), LATEST), UTC).date()
        mend = "sudo sntp -sS time.apple.com" if machine.system == "darwin" else "sudo timedatectl set-ntp true"
        told = ("certificates are refused with a wrong clock",)
        yield found("ENV012", f"the clock says {shown}", evidence=told, commands=(mend,))
