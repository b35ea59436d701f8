"""`/v1/audio/speech`: the body, and the events of a stream. Pure."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from typing import Annotated, Any, Literal

from pydantic import Field

from ollmlx.errors import InvalidRequest
from ollmlx.types import AudioFormat, Done, Event, SpeechRequest, Spoken
from ollmlx.web import Failure
from ollmlx_openai_api.chat_request import OpenAIBody

MEDIA: dict[AudioFormat, str] = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
LONGEST = 100_000
"""Letters of a text: an hour and a half of speech."""


class NamedVoice(OpenAIBody):
    id: str


class SpeechFields(OpenAIBody):
    """The whole body of `/v1/audio/speech`."""

    model: str
    input: Annotated[str, Field(min_length=1, max_length=LONGEST)]
    voice: str | NamedVoice = ""
    response_format: AudioFormat = "mp3"
    speed: Annotated[float, Field(ge=0.25, le=4)] = 1.0
    stream_format: Literal["audio", "sse"] = "audio"
    instructions: str | None = None

    def to_vocabulary(self) -> SpeechRequest:
        if self.instructions:
            raise InvalidRequest("instructions are not supported: no voice here takes them")
        voice = self.voice.id if isinstance(self.voice, NamedVoice) else self.voice
        return SpeechRequest(text=self.input, voice=voice, speed=self.speed, format=self.response_format)


def speech_event(event: Event) -> dict[str, Any] | None:
    """Return the record of an event in a stream of records; None for one that is not told."""
    if isinstance(event, Spoken):
        return {"type": "speech.audio.delta", "audio": b64encode(event.data).decode()}
    if isinstance(event, Done):
        counts = {"input_tokens": event.prompt_tokens, "output_tokens": event.generated_tokens}
        return {"type": "speech.audio.done", "usage": {**counts, "total_tokens": sum(counts.values())}}
    return None


def broken_off(failure: Failure) -> bytes:
    """Break the connection: an audio file has no place for an error, and must not end as if it were whole."""
    raise asyncio.CancelledError(failure.message)
