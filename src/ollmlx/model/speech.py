"""Speech as requests: audio that becomes text, and text that becomes audio. Their answers are streams of events."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ollmlx.model.request import Frozen, GenerateRequest

AudioFormat = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]


class TranscribeRequest(Frozen):
    """An audio file whose speech becomes text, in its own language or (`translate`) in English.

    `audio`: a file that the runner may read until its answer is complete; None is a moment of silence, on trial.
    `language`: ISO 639-1, or None to detect it. `prompt`: text in the style that is wanted. `words`: times of words,
    too.
    """

    request_id: str = ""
    audio: Path | None = None
    task: Literal["transcribe", "translate"] = "transcribe"
    language: str | None = None
    prompt: str = ""
    temperature: Annotated[float, Field(ge=0, le=1)] = 0.0
    words: bool = False


class SpeechRequest(Frozen):
    """A text to speak. `voice`: a speaker of the model; empty for its first one. `speed`: 1 is the voice's own."""

    request_id: str = ""
    text: str
    voice: str = ""
    speed: Annotated[float, Field(ge=0.25, le=4)] = 1.0
    format: AudioFormat = "mp3"


StreamRequest = GenerateRequest | TranscribeRequest | SpeechRequest
"""A request whose answer is a stream of events."""
