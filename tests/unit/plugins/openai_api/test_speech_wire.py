"""`/v1/audio/speech`: the body, the bytes of the file, and the stream of records."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any

import pytest

from ollmlx.errors import RunnerFailed
from ollmlx.testing.routes import FakeService, installed, web_app
from ollmlx.types import Admitted, Done, SpeechRequest, Spoken
from ollmlx_openai_api.routes import blueprint
from ollmlx_openai_api.speech import LONGEST, MEDIA

PATH = "/v1/audio/speech"
BODY = {"model": "mouth", "input": "Hello.", "voice": "alloy"}
SAID = (Admitted(), Spoken(data=b"ID3\x00"), Spoken(data=b"\xff\xfb"), Done(generated_tokens=9, seconds=1.0))


@pytest.fixture
def service() -> FakeService:
    return FakeService(models=[installed("mouth", capabilities=("speech",))], outcomes=list(SAID))


async def post(service: FakeService, **changed: Any) -> Any:
    return await web_app(service, blueprint).test_client().post(PATH, json={**BODY, **changed})


@pytest.mark.parametrize(("format", "kind"), MEDIA.items())
async def test_the_answer_is_the_file(service: FakeService, format: str, kind: str) -> None:
    answer = await post(service, response_format=format, speed=2, voice={"id": "joe"})
    assert (answer.content_type, await answer.get_data()) == (kind, b"ID3\x00\xff\xfb")
    asked = SpeechRequest(text="Hello.", voice="joe", speed=2, format=format)
    assert service.calls == [("speak", "mouth:latest", asked)]


async def test_a_stream_of_records_has_the_same_bytes(service: FakeService) -> None:
    answer = await post(service, stream_format="sse")
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
async def test_a_bad_field_is_a_400_that_names_it(service: FakeService, changed: dict[str, Any], words: str) -> None:
    answer = await post(service, **changed)
    assert answer.status_code == 400
    assert words in (await answer.get_json())["error"]["message"]
    assert service.calls == []


async def test_an_early_failure_has_its_status_and_a_late_one_is_no_whole_file(
    service: FakeService, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    service.outcomes = [RunnerFailed("it died")]
    assert (await post(service)).status_code == 500
    service.outcomes = [*SAID[:2], RunnerFailed("it died")]
    await post(service)
    assert "/v1/audio/speech 499" in caplog.text, "the connection must break before the answer is complete"
    assert "Traceback" not in caplog.text
