"""The engine: lives in a process of its own and says words backwards."""

from __future__ import annotations

from collections.abc import Iterator

from ollmlx import RunnerConfig, SerialEngine
from ollmlx.errors import StorageError
from ollmlx.types import Event, GenerateRequest


class LanternEngine(SerialEngine):
    """Turns each word of the prompt around, then says what the model's file ends with."""

    name = "lantern"

    def prepare(self, config: RunnerConfig) -> None:
        file = config.model.path / "light.txt"
        if not file.is_file():
            raise StorageError("light.txt is missing")
        self.ending = file.read_text(encoding="utf-8")

    def stream(self, request: GenerateRequest) -> Iterator[Event]:
        words, dropped = self.fit(request, self.prompt(request).split())
        pieces = [f"{word[::-1]} " for word in words] + [self.ending]
        yield from self.answer(request, pieces, prompt_tokens=len(words), dropped=dropped)
