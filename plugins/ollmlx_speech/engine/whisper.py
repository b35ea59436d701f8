"""Whisper through the library that is right for a model's format: faster-whisper, or mlx-audio on Apple silicon."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from ollmlx.errors import InvalidRequest
from ollmlx.runner.kit.sounds import Samples
from ollmlx.storekit import WHISPER
from ollmlx.types import Segment, TranscribeRequest, Word

WARMER: Final = 0.2
"""Steps of temperature with which an answer that repeats itself is tried again, as Whisper's authors do."""


class Ears(Protocol):
    """A loaded model. `languages`: codes of what it understands. `device`: where it computes."""

    languages: tuple[str, ...]
    device: str

    def hear(self, samples: Samples, request: TranscribeRequest, language: str | None) -> Iterator[Segment | str]:
        """Yield the language (a code) and the segments of a piece, whose times begin at 0."""

    def silence(self) -> None:
        """Compute once, with nothing to hear."""


def temperatures(first: float) -> list[float]:
    """Return the temperatures to try: the one that is asked for, and warmer ones."""
    return [round(first + WARMER * step, 1) for step in range(6) if first + WARMER * step <= 1.0]


class CTranslate2Ears:
    """faster-whisper. On a CPU it computes with 8-bit weights, which takes half the memory."""

    def __init__(self, folder: Path) -> None:
        import ctranslate2
        import onnxruntime
        from faster_whisper import WhisperModel

        onnxruntime.disable_telemetry_events()
        logging.getLogger("faster_whisper").setLevel(logging.WARNING)
        self.device = "cuda" if ctranslate2.get_cuda_device_count() else "cpu"
        kind = "default" if self.device == "cuda" else "int8"
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._model = WhisperModel(
            str(folder), device=self.device, compute_type=kind, cpu_threads=threads, local_files_only=True
        )
        self.languages = tuple(self._model.supported_languages)

    def hear(self, samples: Samples, request: TranscribeRequest, language: str | None) -> Iterator[Segment | str]:
        segments, about = self._model.transcribe(
            samples,
            language=language,
            task=request.task,
            initial_prompt=request.prompt or None,
            temperature=temperatures(request.temperature),
            word_timestamps=request.words,
            vad_filter=True,
        )
        yield str(about.language)
        for found in segments:
            yield Segment(
                text=found.text,
                start=found.start,
                end=found.end,
                tokens=tuple(found.tokens),
                temperature=found.temperature or 0.0,
                avg_logprob=found.avg_logprob,
                compression_ratio=found.compression_ratio,
                no_speech_prob=found.no_speech_prob,
                words=tuple(Word(word=word.word, start=word.start, end=word.end) for word in found.words or ()),
            )

    def silence(self) -> None:
        import numpy as np

        nothing = np.zeros(8_000, dtype=np.float32)
        segments, _ = self._model.transcribe(nothing, language=self.languages[0], beam_size=1, temperature=0.0)
        list(segments)


class MlxEars:
    """mlx-audio's Whisper. `model`: what mlx-audio loads. Run on Linux's CPU, not on Apple silicon yet."""

    device = "metal"

    def __init__(self, folder: Path, model: Any = None) -> None:
        if model is None:
            from mlx_audio.stt.utils import load_model

            model = load_model(folder)
        self._model = model
        self.languages = ("en",) if not model.is_multilingual else tuple(_codes())

    def hear(self, samples: Samples, request: TranscribeRequest, language: str | None) -> Iterator[Segment | str]:
        found = self._model.generate(
            samples,
            language=language,
            task=request.task,
            initial_prompt=request.prompt or None,
            temperature=tuple(temperatures(request.temperature)),
            word_timestamps=request.words,
            verbose=None,
        )
        yield str(found.language or "")
        for segment in found.segments:
            yield _segment(segment)

    def silence(self) -> None:
        import numpy as np

        self._model.generate(np.zeros(8_000, dtype=np.float32), language="en", temperature=0.0)


def _segment(found: Mapping[str, Any]) -> Segment:
    numbers = ("temperature", "avg_logprob", "compression_ratio", "no_speech_prob")
    return Segment(
        text=found["text"],
        start=float(found["start"]),
        end=float(found["end"]),
        tokens=tuple(int(token) for token in found.get("tokens", ())),
        words=tuple(
            Word(word=word["word"], start=float(word["start"]), end=float(word["end"]))
            for word in found.get("words", ())
        ),
        **{name: _finite(found.get(name)) for name in numbers},
    )


def _finite(value: Any) -> float:
    """Return a number; 0 for none and for NaN, which mlx-audio has in half precision, and JSON cannot hold."""
    found = float(value or 0.0)
    return found if math.isfinite(found) else 0.0


def _codes() -> list[str]:
    from mlx_audio.stt.models.whisper.tokenizer import LANGUAGES

    return list(LANGUAGES)


EARS: Final[Mapping[str, Callable[[Path], Ears]]] = {WHISPER: CTranslate2Ears, "mlx": MlxEars}


def check_language(request: TranscribeRequest, languages: tuple[str, ...]) -> None:
    """Raise InvalidRequest for a language that the model does not understand, or a translation that it cannot make."""
    if request.task == "translate" and len(languages) == 1:
        raise InvalidRequest("This model understands English only: it does not translate.")
    if request.language is None or request.language in languages:
        return
    if len(languages) == 1:
        raise InvalidRequest(f"This model understands English only, not {request.language[:20]!r}.")
    raise InvalidRequest(
        f"Invalid language {request.language[:20]!r}. Language parameter must be specified in ISO-639-1 format."
    )
