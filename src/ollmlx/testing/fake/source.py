"""The source of fake models: it makes up the files that a pull downloads, in steps that can be slow or fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from ollmlx import ModelName
from ollmlx.errors import from_kind
from ollmlx.testing.fake.script import FakeSettings
from ollmlx.types import PullProgress

WEIGHTS = "weights.bin"
STEP_BYTES = 4096


class FakeSource:
    """Provides every name of the organisation `fake` (`fake/anything`)."""

    name = "fake"
    store = "fake"

    def __init__(self, settings: FakeSettings | None = None) -> None:
        self._settings = settings or FakeSettings()

    def provides(self, name: ModelName) -> str | None:
        return f"fake:{name.name}" if name.org == "fake" else None

    def format(self, name: ModelName) -> str:
        return "fake"

    async def fetch(self, name: ModelName, into: Path, *, insecure: bool = False) -> AsyncIterator[PullProgress]:
        """Append to the file of an earlier, interrupted fetch."""
        weights = into / WEIGHTS
        total = self._settings.pull_steps * STEP_BYTES
        have = weights.stat().st_size if weights.exists() else 0
        while have < total:
            if self._settings.pull_ms:
                await asyncio.sleep(self._settings.pull_ms / 1000)
            with weights.open("ab") as file:
                file.write(b"\x00" * STEP_BYTES)
            have += STEP_BYTES
            yield PullProgress(status="pulling weights", digest="sha256:" + "0" * 64, total=total, completed=have)
            if self._settings.pull_fault:
                raise from_kind(self._settings.pull_fault, f"fake: told to fail with {self._settings.pull_fault}")
