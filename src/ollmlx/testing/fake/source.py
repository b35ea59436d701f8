"""The source of fake models: it makes up the file that a pull downloads, in steps. Generated plugins test with it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from ollmlx import ModelName
from ollmlx.types import PullProgress

WEIGHTS = "weights.bin"
STEP_BYTES = 4096
TOTAL_BYTES = 4 * STEP_BYTES


class FakeSource:
    """Provides every name of the organisation `fake` (`fake/anything`)."""

    name = "fake"
    store = "fake"

    def provides(self, name: ModelName) -> str | None:
        return f"fake:{name.name}" if name.org == "fake" else None

    def format(self, name: ModelName) -> str:
        return "fake"

    async def fetch(self, name: ModelName, into: Path, *, insecure: bool = False) -> AsyncIterator[PullProgress]:
        """Append to the file of an earlier, interrupted fetch."""
        weights = into / WEIGHTS
        have = weights.stat().st_size if weights.exists() else 0
        while have < TOTAL_BYTES:
            with weights.open("ab") as file:
                file.write(b"\x00" * STEP_BYTES)
            have += STEP_BYTES
            yield PullProgress(status="pulling weights", digest="sha256:" + "0" * 64, total=TOTAL_BYTES, completed=have)
