"""`/v1/audio/transcriptions` and `/translations`: the form, the formats of the text, and the stream."""

from __future__ import annotations

import io
import json
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from werkzeug.datastructures import FileStorage
from werkzeug.test import encode_multipart

from ollmlx.errors import RunnerFailed
from ollmlx.settings import Settings
from ollmlx.testing.routes import FakeService, installed, web_app
from ollmlx.types import Admitted, Done, Listened, Segment, SpeechRequest, Spoken, TranscribeRequest, Word
from ollmlx_openai_api.audio import LONGEST, MEDIA, timestamp
from ollmlx_openai_api.routes import blueprint

TRANSCRIPTIONS, TRANSLATIONS = "/v1/audio/transcriptions", "/v1/audio/translations"
HEARD = (
    Admitted(),
    Segment(text=" Hello there.", start=0.5, end=2.25, words=(Word(word=" Hello", start=0.5, end=1),)),
    Listened(seconds=240.0),
    Segment(text=" It --> rains.", start=3661.0, end=3662.9994),
    Done(seconds=3700.4, language="en", generated_tokens=7),
)
TEXT = "Hello there. It --> rains."
USAGE = {"type": "duration", "seconds": 3700}
SRT = """1
00:00:00,500 --> 00:00:02,250
Hello there.

2
01:01:01,000 --> 01:01:02,999
It -> rains.

"""
VTT = """WEBVTT

00:00:00.500 --> 00:00:02.250
Hello there.

01:01:01.000 --> 01:01:02.999
It -> rains.

"""


@pytest.fixture
def service() -> FakeService:
    return FakeService(models=[installed("ears", capabilities=("transcription",))], outcomes=list(HEARD))


async def post(
    service: FakeService,
    path: str = TRANSCRIPTIONS,
    /,
    sound: bytes = b"RIFF",
    app: Any = None,
    headers: dict[str, str] | None = None,
    **form: Any,
) -> Any:
    file = FileStorage(io.BytesIO(sound), filename="talk.wav")
    boundary, body = encode_multipart({"model": "ears", **form, "file": file})
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}", **(headers or {})}
    return await (app or web_app(service, blueprint)).test_client().post(path, data=body, headers=headers)


@pytest.mark.parametrize(
    ("format", "kind", "text"),
    [("text", "text/plain", TEXT + "\n"), ("srt", "application/x-subrip", SRT), ("vtt", "text/vtt", VTT)],
)
@pytest.mark.parametrize("path", [TRANSCRIPTIONS, TRANSLATIONS])
async def test_text_is_written_plain_and_as_subtitles(
    service: FakeService, path: str, format: str, kind: str, text: str
) -> None:
    answer = await post(service, path, response_format=format)
    assert answer.content_type == f"{kind}; charset=utf-8"
    assert await answer.get_data(as_text=True) == text


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "00:00:00.000"), (59.9996, "00:01:00.000"), (360_000, "100:00:00.000"), (-1, "00:00:00.000")],
)
def test_times_are_hours_minutes_seconds(seconds: float, shown: str) -> None:
    assert timestamp(seconds, ".") == shown


async def test_json_is_the_text_and_the_duration(service: FakeService) -> None:
    assert await (await post(service)).get_json() == {"text": TEXT, "usage": USAGE}


@pytest.mark.parametrize(
    ("granularities", "fields"),
    [
        (None, {"segments"}),
        ("word", {"words"}),
        ("segment", {"segments"}),
        (["word", "segment"], {"words", "segments"}),
    ],
)
async def test_verbose_json_has_the_times_that_are_asked_for(
    service: FakeService, granularities: Any, fields: set[str]
) -> None:
    form = {} if granularities is None else {"timestamp_granularities[]": granularities}
    answer = await (await post(service, response_format="verbose_json", **form)).get_json()
    assert answer.keys() == {"task", "language", "duration", "text", "usage"} | fields
    assert (answer["task"], answer["language"], answer["duration"]) == ("transcribe", "en", 3700.4)
    if "segments" in fields:
        assert [(one["id"], one["start"], one["text"]) for one in answer["segments"]] == [
            (0, 0.5, " Hello there."),
            (1, 3661.0, " It --> rains."),
        ]
    if "words" in fields:
        assert answer["words"] == [{"word": "Hello", "start": 0.5, "end": 1.0}]
    asked = service.calls[-1][2]
    assert asked.words is ("words" in fields)


async def test_a_stream_has_pieces_and_then_the_whole_text(service: FakeService) -> None:
    answer = await post(service, stream="true")
    lines = (await answer.get_data(as_text=True)).split("\n\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    assert [event["type"] for event in events] == ["transcript.text.delta"] * 2 + ["transcript.text.done"]
    assert "".join(event["delta"] for event in events[:2]) == events[2]["text"] == TEXT
    assert events[2]["usage"] == USAGE


async def test_the_form_becomes_a_request_and_its_file_goes_when_the_answer_is_complete(service: FakeService) -> None:
    await post(service, sound=b"sound" * 100_000, language="de", prompt="Ada", temperature="0.5", unknown="x")
    method, name, asked = service.calls[-1]
    assert (method, name) == ("transcribe", "ears:latest")
    assert asked == TranscribeRequest(audio=asked.audio, language="de", prompt="Ada", temperature=0.5)
    assert not Path(asked.audio).parent.exists()
    await post(service, TRANSLATIONS, language="")
    assert service.calls[-1][2].task == "translate"


@pytest.mark.parametrize(
    ("path", "form", "words"),
    [
        (TRANSCRIPTIONS, {"temperature": "hot"}, "temperature"),
        (TRANSCRIPTIONS, {"temperature": "1.5"}, "temperature"),
        (TRANSCRIPTIONS, {"response_format": "xml"}, "response_format"),
        (TRANSCRIPTIONS, {"stream": "true", "response_format": "srt"}, "stream is not supported"),
        (TRANSCRIPTIONS, {"timestamp_granularities[]": "word"}, "needs response_format 'verbose_json'"),
        (TRANSCRIPTIONS, {"timestamp_granularities[]": "letter"}, "timestamp_granularities"),
        (TRANSCRIPTIONS, {"language": ["de", "en"]}, "language"),
        (TRANSLATIONS, {"response_format": "xml"}, "response_format"),
        (TRANSLATIONS, {"model": ""}, "model"),
    ],
)
async def test_a_bad_field_is_a_400_that_names_it(
    service: FakeService, path: str, form: dict[str, Any], words: str
) -> None:
    answer = await post(service, path, **form)
    error = (await answer.get_json())["error"]
    assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
    assert words in error["message"]


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (b"{}", "application/json", "multipart/form-data"),
        (b"x", "multipart/form-data", "invalid form"),
        (b"--b\r\nnonsense", "multipart/form-data; boundary=b", "file: Field required"),
        (
            b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n/etc/passwd\r\n--b--\r\n',
            "multipart/form-data; boundary=b",
            "file: a file is needed",
        ),
    ],
)
async def test_a_body_that_is_no_form_with_a_file_is_a_400(
    service: FakeService, body: bytes, kind: str, words: str
) -> None:
    client = web_app(service, blueprint).test_client()
    answer = await client.post(TRANSCRIPTIONS, data=body, headers={"Content-Type": kind})
    assert answer.status_code == 400
    assert words in (await answer.get_json())["error"]["message"]
    assert service.calls == []


async def test_named_keys_limits_and_priorities_count_here_too(service: FakeService) -> None:
    keys = {"anna": {"key": "of-anna", "models": ["tiny"]}, "ben": {"key": "of-ben", "requests_per_day": 1}}
    service.settings = Settings.model_validate({"security": {"keys": keys}})
    app = web_app(service, blueprint)
    for key, status, kind in (
        ("of-anna", 403, "permission_error"),
        ("of-ben", 200, None),
        ("of-ben", 429, "rate_limit_error"),
    ):
        answer = await post(service, app=app, headers={"Authorization": f"Bearer {key}", "X-Priority": "low"})
        assert answer.status_code == status
        assert (await answer.get_json()).get("error", {}).get("type") == kind
    assert [(caller.client, caller.priority) for caller in service.callers] == [("ben", "low")]


async def test_a_form_is_limited_in_size(service: FakeService) -> None:
    service.settings = Settings.model_validate({"server": {"max_body": 1000}})
    assert (await post(service, sound=b"x" * 2000)).status_code == 413
    service.settings = Settings()
    text = await post(service, prompt="x" * (2 << 20))
    assert text.status_code == 413, "a text is held in memory, so it has a limit of its own"


PATH = "/v1/audio/speech"
BODY = {"model": "mouth", "input": "Hello.", "voice": "alloy"}
SAID = (Admitted(), Spoken(data=b"ID3\x00"), Spoken(data=b"\xff\xfb"), Done(generated_tokens=9, seconds=1.0))


@pytest.fixture
def speaker() -> FakeService:
    return FakeService(models=[installed("mouth", capabilities=("speech",))], outcomes=list(SAID))


async def say(speaker: FakeService, **changed: Any) -> Any:
    return await web_app(speaker, blueprint).test_client().post(PATH, json={**BODY, **changed})


@pytest.mark.parametrize(("format", "kind"), MEDIA.items())
async def test_the_answer_is_the_file(speaker: FakeService, format: str, kind: str) -> None:
    answer = await say(speaker, response_format=format, speed=2, voice={"id": "joe"})
    assert (answer.content_type, await answer.get_data()) == (kind, b"ID3\x00\xff\xfb")
    asked = SpeechRequest(text="Hello.", voice="joe", speed=2, format=format)
    assert speaker.calls == [("speak", "mouth:latest", asked)]


async def test_a_stream_of_records_has_the_same_bytes(speaker: FakeService) -> None:
    answer = await say(speaker, stream_format="sse")
    lines = (await answer.get_data(as_text=True)).split("\n\n")
    *deltas, done = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    assert b"".join(b64decode(event["audio"]) for event in deltas) == b"ID3\x00\xff\xfb"
    assert done["type"] == "speech.audio.done"
    assert done["usage"]["output_tokens"] == 9


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"input": ""}, "input"),
        ({"input": "x" * (LONGEST + 1)}, "input"),
        ({"speed": 5}, "speed"),
        ({"response_format": "midi"}, "response_format"),
        ({"stream_format": "tape"}, "stream_format"),
        ({"voice": 7}, "voice"),
        ({"instructions": "Whisper."}, "instructions are not supported"),
        ({"model": None}, "model"),
    ],
)
async def test_a_bad_field_of_a_speech_is_a_400_that_names_it(
    speaker: FakeService, changed: dict[str, Any], words: str
) -> None:
    answer = await say(speaker, **changed)
    assert answer.status_code == 400
    assert words in (await answer.get_json())["error"]["message"]
    assert speaker.calls == []


async def test_an_early_failure_has_its_status_and_a_late_one_is_no_whole_file(
    speaker: FakeService, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    speaker.outcomes = [RunnerFailed("it died")]
    assert (await say(speaker)).status_code == 500
    speaker.outcomes = [*SAID[:2], RunnerFailed("it died")]
    await say(speaker)
    assert "/v1/audio/speech 499" in caplog.text, "the connection must break before the answer is complete"
    assert "Traceback" not in caplog.text
