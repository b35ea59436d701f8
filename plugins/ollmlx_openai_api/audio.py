"""Speech: the bodies of `/v1/audio/`, their answers in every format, and the routes."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, WithJsonSchema, model_validator
from quart import Blueprint, Response

from ollmlx import ModelName, closing
from ollmlx.errors import InvalidRequest
from ollmlx.types import AudioFormat, Done, Event, Segment, SpeechRequest, Spoken, TranscribeRequest
from ollmlx.web import FORM, OBJECT, SSE, Failure, caller, json_answer, ndjson, read_form, read_model, sse, tracked
from ollmlx_openai_api import schemas
from ollmlx_openai_api.answering import encode, error_event
from ollmlx_openai_api.chat_request import OpenAIBody
from ollmlx_openai_api.schemas import described

if TYPE_CHECKING:
    from ollmlx import Service


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


TEXTS = {"text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"}
"""Formats that are no JSON, and their media types."""


class TranslationFields(OpenAIBody):
    """The whole form of `/v1/audio/translations`."""

    file: Annotated[Path, WithJsonSchema({"type": "string", "format": "binary"})]
    model: str
    prompt: str = ""
    response_format: Literal["json", "text", "srt", "vtt", "verbose_json"] = "json"
    temperature: Annotated[float, Field(ge=0, le=1)] = 0.0

    def to_vocabulary(self) -> TranscribeRequest:
        return TranscribeRequest(audio=self.file, task="translate", prompt=self.prompt, temperature=self.temperature)


class TranscriptionFields(TranslationFields):
    """The whole form of `/v1/audio/transcriptions`."""

    language: str | None = None
    stream: bool = False
    timestamp_granularities: Annotated[
        tuple[Literal["word", "segment"], ...], Field(alias="timestamp_granularities[]")
    ] = ("segment",)

    @model_validator(mode="after")
    def _fits_together(self) -> TranscriptionFields:
        if self.stream and self.response_format not in ("json", "text"):
            raise InvalidRequest(f"stream is not supported with response_format {self.response_format!r}")
        if "word" in self.timestamp_granularities and self.response_format != "verbose_json":
            raise InvalidRequest("timestamp_granularities needs response_format 'verbose_json'")
        return self

    def to_vocabulary(self) -> TranscribeRequest:
        return (
            super()
            .to_vocabulary()
            .model_copy(
                update={
                    "task": "transcribe",
                    "language": self.language,
                    "words": "word" in self.timestamp_granularities,
                }
            )
        )


def whole_text(segments: Sequence[Segment]) -> str:
    return "".join(segment.text for segment in segments).strip()


def as_text(format: str, segments: Sequence[Segment]) -> str:
    """Return the text plain, or as subtitles: `srt` or `vtt`."""
    if format == "text":
        return f"{whole_text(segments)}\n"
    mark = "," if format == "srt" else "."
    cues = "" if format == "srt" else "WEBVTT\n\n"
    for number, segment in enumerate(segments, 1):
        numbered = f"{number}\n" if format == "srt" else ""
        times = f"{timestamp(segment.start, mark)} --> {timestamp(segment.end, mark)}"
        cues += f"{numbered}{times}\n{segment.text.strip().replace('-->', '->')}\n\n"
    return cues


def timestamp(seconds: float, mark: str) -> str:
    """Return `01:02:03,450`, with this mark before the milliseconds."""
    whole, milliseconds = divmod(round(max(0.0, seconds) * 1000), 1000)
    minutes, second = divmod(whole, 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{second:02d}{mark}{milliseconds:03d}"


def as_verbose_json(
    task: str, segments: Sequence[Segment], done: Done, granularities: Sequence[str] = ("segment",)
) -> dict[str, Any]:
    """Return the text with language, duration, and the times of segments, of words or of both."""
    shown: dict[str, Any] = {
        "task": task,
        "language": done.language,
        "duration": round(done.seconds, 2),
        "text": whole_text(segments),
    }
    if "segment" in granularities:
        fields = set(Segment.model_fields) - {"type", "words"}
        shown["segments"] = [
            {"id": index, "seek": int(segment.start * 100), **segment.model_dump(mode="json", include=fields)}
            for index, segment in enumerate(segments)
        ]
    if "word" in granularities:
        words = (word for segment in segments for word in segment.words)
        shown["words"] = [{**word.model_dump(), "word": word.word.strip()} for word in words]
    return {**shown, "usage": usage(done)}


def usage(done: Done) -> dict[str, Any]:
    return {"type": "duration", "seconds": round(done.seconds)}


def delta(segment: Segment, *, first: bool) -> dict[str, Any]:
    text = segment.text.lstrip() if first else segment.text
    return {"type": "transcript.text.delta", "delta": text}


def finished(segments: Sequence[Segment], done: Done) -> dict[str, Any]:
    return {"type": "transcript.text.done", "text": whole_text(segments), "usage": usage(done)}


KINDS = ("application/json", *TEXTS.values())


def add_audio(made: Blueprint, service: Service) -> None:
    @made.post("/v1/audio/transcriptions")
    @described(
        "Write down what is spoken.",
        body=TranscriptionFields,
        takes=FORM,
        answer=schemas.TRANSCRIPTION,
        content=(*KINDS, SSE),
    )
    async def transcribe() -> Response:
        body = await read_form(TranscriptionFields, "file")
        if body.stream:
            return await sse(_records(_heard(service, body)), error_event)
        return await _written(service, body, body.timestamp_granularities)

    @made.post("/v1/audio/translations")
    @described(
        "Write down in English what is spoken.",
        body=TranslationFields,
        takes=FORM,
        answer=schemas.TRANSCRIPTION,
        content=KINDS,
    )
    async def translate() -> Response:
        return await _written(service, await read_form(TranslationFields, "file"), ("segment",))

    @made.post("/v1/audio/speech")
    @described("Speak a text.", body=SpeechFields, answer=OBJECT, content=(*MEDIA.values(), SSE))
    async def speak() -> Response:
        body = await read_model(SpeechFields)
        events = tracked(service.speak(ModelName.parse(body.model), body.to_vocabulary(), caller=caller(body.model)))
        if body.stream_format == "sse":
            return await sse(_spoken(events), error_event)
        answer = await ndjson(_sound(events), broken_off)
        answer.content_type = MEDIA[body.response_format]
        return answer


def _heard(service: Service, body: TranslationFields) -> AsyncGenerator[Event]:
    name = ModelName.parse(body.model)
    return tracked(service.transcribe(name, body.to_vocabulary(), caller=caller(body.model)))


async def _written(service: Service, body: TranslationFields, granularities: tuple[str, ...]) -> Response:
    """Gather the whole text, and answer in the format that is asked for."""
    segments, done = [], Done()
    async with closing(_heard(service, body)) as events:
        async for event in events:
            if isinstance(event, Segment):
                segments.append(event)
            elif isinstance(event, Done):
                done = event
    if body.response_format in TEXTS:
        kind = f"{TEXTS[body.response_format]}; charset=utf-8"
        return Response(as_text(body.response_format, segments), content_type=kind)
    if body.response_format == "verbose_json":
        return json_answer(as_verbose_json(body.to_vocabulary().task, segments, done, granularities))
    return json_answer({"text": whole_text(segments), "usage": usage(done)})


async def _sound(events: AsyncGenerator[Event]) -> AsyncGenerator[bytes, None]:
    async with closing(events):
        async for event in events:
            if isinstance(event, Spoken):
                yield event.data


async def _spoken(events: AsyncGenerator[Event]) -> AsyncGenerator[bytes, None]:
    async with closing(events):
        async for event in events:
            if (record := speech_event(event)) is not None:
                yield encode(record)


async def _records(events: AsyncGenerator[Event]) -> AsyncGenerator[bytes, None]:
    """Yield the text as it is heard."""
    segments: list[Segment] = []
    async with closing(events):
        async for event in events:
            if isinstance(event, Segment):
                yield encode(delta(event, first=not segments))
                segments.append(event)
            elif isinstance(event, Done):
                yield encode(finished(segments, event))
