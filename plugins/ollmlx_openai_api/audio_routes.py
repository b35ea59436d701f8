"""The routes below `/v1/audio`: speech that becomes text, and text that becomes speech."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from quart import Blueprint, Response

from ollmlx import ModelName, closing
from ollmlx.types import Done, Event, Segment, Spoken
from ollmlx.web import FORM, OBJECT, SSE, caller, json_answer, ndjson, read_form, read_model, sse, tracked
from ollmlx_openai_api import schemas
from ollmlx_openai_api.answering import encode, error_event
from ollmlx_openai_api.schemas import described
from ollmlx_openai_api.speech import MEDIA, SpeechFields, broken_off, speech_event
from ollmlx_openai_api.transcription import (
    TEXTS,
    TranscriptionFields,
    TranslationFields,
    as_text,
    as_verbose_json,
    delta,
    finished,
    usage,
    whole_text,
)

if TYPE_CHECKING:
    from ollmlx import Service

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
