"""The source "search": names of Ollama's library that the catalogue does not know, looked up on the hub.

It is asked on machines with a GPU for MLX. On others Ollama's registry has the GGUF file, which is faster there.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

from ollmlx import ModelName, ThisMachine, closing, load_catalogue
from ollmlx.errors import NotFound, UpstreamError
from ollmlx.storekit import to_transfer_thread
from ollmlx.types import PullCandidate, PullProgress
from ollmlx_hub.naming import NamedRepository, best
from ollmlx_hub.source import HubSource

SHOWN: Final = 4
"""Candidates that a pull tells, the chosen one first."""


class HubSearch:
    """Fetches, for a name without an organisation, the repository that the rule of `naming` finds.

    `organisations` are searched in order. `memory`: bytes that a model may use; None asks the machine.
    """

    name = "search"
    store = "mlx"

    def __init__(
        self,
        hub: HubSource,
        organisations: Sequence[str],
        *,
        gpu: bool | None = None,
        memory: int | None = None,
    ) -> None:
        self._hub = hub
        self._organisations = organisations
        self._gpu = has_gpu() if gpu is None else gpu
        self._memory = memory

    def provides(self, name: ModelName) -> str | None:
        """`search:qwen3.5@4b` for a name without an organisation and without a host, where MLX has a GPU."""
        if not (self._gpu and is_library_name(name)) or any(ModelName.parse(each) == name for each in load_catalogue()):
            return None
        return f"search:{name.name}@{name.tag}"

    def format(self, name: ModelName) -> str:
        return "mlx"

    async def fetch(self, name: ModelName, into: Path, *, insecure: bool = False) -> AsyncIterator[PullProgress]:
        """Say which repository the name stands for, and why, and fetch it."""
        found = await to_transfer_thread(self._candidates, name)
        others = ", ".join(each.repo for each in found[1:SHOWN]) or "none"
        yield PullProgress(
            status=f"{name.short} is {found[0].repo} (same family and size, instruct before base, 4 bits before 8, the"
            f" newest; next: {others})"
        )
        async with closing(self._hub.fetch(ModelName.parse(found[0].repo), into, insecure=insecure)) as steps:
            async for step in steps:
                yield step

    async def preview(self, name: ModelName, into: Path, *, insecure: bool = False) -> AsyncIterator[PullCandidate]:
        """Yield the repositories that the name may stand for, the one that a pull takes first."""
        for number, each in enumerate((await to_transfer_thread(self._candidates, name))[:SHOWN]):
            async with closing(self._hub.preview(ModelName.parse(each.repo), into / str(number))) as found:
                async for candidate in found:
                    yield candidate

    def _candidates(self, name: ModelName) -> list[NamedRepository]:
        memory = int(ThisMachine().ram() * 0.6) if self._memory is None else self._memory
        for organisation in self._organisations:
            try:
                listed = self._hub.client.search(organisation, name.name)
            except UpstreamError as error:  # the next source may have the model
                raise NotFound(f"{name.short} was not looked up: {error.message}", code="MDL002") from error
            if found := best(name, listed, memory):
                return found
        where = ", ".join(self._organisations)
        raise NotFound(f"no repository of {where} is {name.short}", code="MDL002", hint="use ORG/NAME")


def is_library_name(name: ModelName) -> bool:
    """Return True for a name without organisation, host and hub: one of Ollama's library."""
    return name.repo_id is None and name.host is None and name.via is None


def has_gpu() -> bool:
    """Return True on a machine with a GPU for MLX."""
    return sys.platform == "darwin" or Path("/dev/nvidiactl").exists()
