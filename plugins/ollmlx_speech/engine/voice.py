"""Voices: Piper's on every CPU, mlx-audio's on Apple silicon. They speak a sentence at a time."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ollmlx.errors import InvalidRequest
from ollmlx.storekit import PIPER

LONGEST: Final = 200
"""Letters that are spoken at once, at most: Piper takes 350 MB for 200, and 570 MB for 400."""
OPENAI: Final = frozenset(
    {"alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer", "verse"}
)
"""OpenAI's own voices. Clients send one of them unless they are told; the model's first voice speaks for all."""


class Voice(Protocol):
    """A loaded model. `rate`: samples of a second. `speakers`: names that `voice` may be; none when it is not known."""

    rate: int
    device: str
    speakers: tuple[str, ...]

    def say(self, text: str, speaker: str, speed: float) -> Iterator[tuple[NDArray[np.int16], int]]:
        """Yield samples, each time with the number of sounds or tokens that they are made of."""


def chosen_speaker(voice: str, speakers: Collection[str]) -> str:
    """Return the speaker of a request, empty for the model's first. Raises InvalidRequest for an unknown one."""
    if voice in speakers:
        return voice
    if voice.lower() in OPENAI or voice in ("", "default"):
        return ""
    if not speakers:
        return voice
    raise InvalidRequest(f"Invalid voice {voice[:40]!r}. Voices of this model: {', '.join(sorted(speakers)[:40])}")


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a text; long ones in pieces, cut between words where there are any."""
    for sentence in re.split(r"(?<=[.!?…;:])\s+|(?<=[。！？])|\n+", text):
        yield from textwrap.wrap(sentence, LONGEST)


class PiperVoice:
    """A voice of Piper, on the CPU."""

    device = "cpu"

    def __init__(self, folder: Path) -> None:
        import onnxruntime
        from piper import PiperVoice as Loaded

        onnxruntime.disable_telemetry_events()
        (file,) = folder.glob("*.onnx")
        self._voice = Loaded.load(file, download_dir=folder)
        self.rate = self._voice.config.sample_rate
        self._ids = dict(self._voice.config.speaker_id_map)
        self.speakers = tuple(self._ids) or tuple(file.stem.split("-")[1:2])

    def say(self, text: str, speaker: str, speed: float) -> Iterator[tuple[NDArray[np.int16], int]]:
        from piper import SynthesisConfig

        scale = self._voice.config.length_scale / speed
        how = SynthesisConfig(speaker_id=self._ids.get(speaker), length_scale=scale)
        for chunk in self._voice.synthesize(text, how):
            yield chunk.audio_int16_array, len(chunk.phoneme_ids)


class MlxVoice:
    """A voice of mlx-audio. `model`: what mlx-audio loads. Not run on Apple silicon yet."""

    device = "metal"
    speakers: tuple[str, ...] = ()

    def __init__(self, folder: Path, model: Any = None) -> None:
        if model is None:
            from mlx_audio.tts.utils import load_model

            model = load_model(folder)
        self._model = model
        self.rate = int(model.sample_rate)

    def say(self, text: str, speaker: str, speed: float) -> Iterator[tuple[NDArray[np.int16], int]]:
        for piece in self._model.generate(text=text, voice=speaker or None, speed=speed):
            loud = np.clip(np.asarray(piece.audio, np.float32).reshape(-1), -1, 1)
            yield (loud * 32767).astype(np.int16), int(piece.token_count)


VOICES: Final[Mapping[str, Callable[[Path], Voice]]] = {PIPER: PiperVoice, "mlx": MlxVoice}
