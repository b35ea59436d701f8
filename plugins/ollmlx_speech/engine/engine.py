"""The engine of speech models: one request after another, each in pieces between which it can be cancelled."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TypeVar

from ollmlx.errors import InvalidRequest, StorageError, Unsupported
from ollmlx.protocol import Progress, RunnerConfig
from ollmlx.runner.kit import SerialEngine
from ollmlx.runner.kit.sounds import RATE, is_audible, pieces
from ollmlx.types import Done, Event, GenerateRequest, Listened, Segment, SpeechRequest, Spoken, TranscribeRequest
from ollmlx_speech.engine.encoding import AudioEncoder
from ollmlx_speech.engine.voice import VOICES, Voice, chosen_speaker, sentences
from ollmlx_speech.engine.whisper import EARS, Ears, check_language

Model = TypeVar("Model")


PIECE = 256 * 1024
"""Bytes of an audio file in one event, at most: a line of the protocol is limited."""


class SpeechEngine(SerialEngine):
    """Writes down what is spoken, or speaks."""

    name = "speech"

    def __init__(self) -> None:
        super().__init__()
        self._ears: Ears | None = None
        self._voice: Voice | None = None

    def prepare(self, config: RunnerConfig) -> None:
        if "speech" in config.model.capabilities:
            self._voice = load(config.model.path, VOICES[config.model.format])
        else:
            self._ears = load(config.model.path, EARS[config.model.format])

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

    def speak(self, request: SpeechRequest) -> AsyncIterator[Event]:
        return self.serve(lambda: self._spoken(request))

    def _spoken(self, request: SpeechRequest) -> Iterator[Event]:
        """Yield the file as its sentences are spoken."""
        began, voice = time.monotonic_ns(), self._voice
        if voice is None:
            raise Unsupported("this model does not speak")
        speaker = chosen_speaker(request.voice, voice.speakers)
        encoder = AudioEncoder(request.format, voice.rate)
        samples = sounds = 0
        for sentence in sentences(request.text):
            self.advance()
            for found, count in voice.say(sentence, speaker, request.speed):
                samples, sounds = samples + len(found), sounds + count
                yield from _pieces(encoder.feed(found))
        if not samples:
            raise InvalidRequest("The input holds nothing that can be spoken.")
        yield from _pieces(encoder.finish())
        took, seconds = time.monotonic_ns() - began, samples / voice.rate
        yield Done(generated_tokens=sounds, decode_ns=took, total_ns=took, seconds=seconds)

    def status(self) -> Progress:
        model = self._ears or self._voice
        device = model.device if model is not None else ""
        return super().status().model_copy(update={"device": device})


def load(folder: Path, loader: Callable[[Path], Model]) -> Model:
    """Load the model of a folder. Raises StorageError for one that the library cannot load."""
    if not folder.is_dir():  # a name would be looked up on a hub
        raise StorageError(f"the model cannot be loaded: {folder} is no folder", code="MDL003")
    try:
        return loader(folder)
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise StorageError(f"the model cannot be loaded: {error}", code="MDL003") from error


def _pieces(data: bytes) -> Iterator[Spoken]:
    for at in range(0, len(data), PIECE):
        yield Spoken(data=data[at : at + PIECE])


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
