"""`/v1/audio/transcriptions` and `/translations`: the form, and the text in each of the formats. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema, model_validator

from ollmlx.errors import InvalidRequest
from ollmlx.types import Done, Segment, TranscribeRequest
from ollmlx_openai_api.chat_request import OpenAIBody

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
