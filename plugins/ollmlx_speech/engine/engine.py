"""The engine of speech models: one request after another, each in pieces between which it can be cancelled."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator

from ollmlx.errors import Unsupported
from ollmlx.protocol import Progress, RunnerConfig
from ollmlx.runner.kit import SerialEngine
from ollmlx.types import Done, Event, GenerateRequest, Listened, Segment, TranscribeRequest
from ollmlx_speech.engine.decoding import RATE, is_audible, pieces
from ollmlx_speech.engine.whisper import Ears, check_language, load


class SpeechEngine(SerialEngine):
    """Writes down what is spoken."""

    name = "speech"

    def __init__(self) -> None:
        super().__init__()
        self._ears: Ears | None = None

    def prepare(self, config: RunnerConfig) -> None:
        self._ears = load(config.model.path, config.model.format)

    def stream(self, request: GenerateRequest) -> Iterator[Event]:
        raise Unsupported("this model does not answer")

    def transcribe(self, request: TranscribeRequest) -> AsyncIterator[Event]:
        return self.serve(lambda: self._transcript(request))

    def _transcript(self, request: TranscribeRequest) -> Iterator[Event]:
        """Yield what is heard in each piece, with the times of the whole file."""
        began, ears = time.monotonic_ns(), self._ears
        if ears is None:
            raise Unsupported("this model does not hear")
        check_language(request, ears.languages)
        if request.audio is None:
            ears.silence()
            yield Done()
            return
        samples = tokens = 0
        language = request.language
        for piece in pieces(request.audio):
            start = samples / RATE
            for found in ears.hear(piece, request, language) if is_audible(piece) else ():
                if isinstance(found, str):
                    language = language or found
                else:
                    tokens += len(found.tokens)
                    yield _moved(found, start)
            samples += len(piece)
            yield Listened(seconds=samples / RATE)
        took = time.monotonic_ns() - began
        yield Done(
            generated_tokens=tokens,
            decode_ns=took,
            total_ns=took,
            seconds=samples / RATE,
            language=language or "",
        )

    def status(self) -> Progress:
        device = self._ears.device if self._ears is not None else ""
        return super().status().model_copy(update={"device": device})


def _moved(segment: Segment, seconds: float) -> Segment:
    """Return a segment of a piece that begins at this second."""
    if not seconds:
        return segment

    def later(time: float) -> float:
        return round(time + seconds, 3)

    words = tuple(
        word.model_copy(update={"start": later(word.start), "end": later(word.end)}) for word in segment.words
    )
    return segment.model_copy(update={"start": later(segment.start), "end": later(segment.end), "words": words})
