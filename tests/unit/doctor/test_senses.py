"""The trials of models that hear and speak find what is wrong, with answers that a daemon might give."""

from __future__ import annotations

import asyncio
import io
import math
import wave
from array import array

import pytest

from ollmlx import ModelName
from ollmlx.doctor.daemon import DaemonClient
from ollmlx.doctor.selftest.senses import heard, seen, spoken, transcribed
from ollmlx.doctor.selftest.subject import Completion, Subject
from ollmlx.text.addresses import Address

SENTENCE = "The children walked to school."


def sound(seconds: float, loudest: int) -> bytes:
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setparams((1, 2, 8_000, 0, "NONE", ""))
        file.writeframes(array("h", (round(loudest * math.sin(at)) for at in range(int(8_000 * seconds)))).tobytes())
    return written.getvalue()


class Scripted(Subject):
    """Answers without a daemon: a text for a sentence, one for silence, one for each file, and a sound."""

    def __init__(self, *, sentence: str = SENTENCE, silence: str = "", says: str = "", voice: bytes = b"") -> None:
        super().__init__(DaemonClient(Address("127.0.0.1", 1)), ModelName.parse("m"))
        self.capabilities = ("completion", "vision", "audio")
        self._texts = {"sentence.ogg": sentence, "silence.wav": silence}
        self._says, self._voice = says, voice

    async def transcribe(self, name: str, data: bytes) -> str:
        assert data
        return self._texts[name]

    async def speak(self, text: str) -> bytes:
        return self._voice

    async def perceive(self, file: str, tokens: int) -> Completion:
        return Completion(self._says or file, (), 1, 0)


@pytest.mark.parametrize(
    ("subject", "problem"),
    [
        (Scripted(), ""),
        (Scripted(sentence="Thank you."), "m does not understand a simple sentence"),
        (Scripted(silence="Thank you."), "m writes words for silence"),
    ],
)
def test_a_model_that_hears_writes_down_a_sentence_and_no_silence(subject: Subject, problem: str) -> None:
    found = asyncio.run(transcribed(subject, None))
    assert (found.title if found else "") == problem


@pytest.mark.parametrize(
    ("data", "evidence"),
    [
        (sound(1.2, 9000), ""),
        (sound(1.2, 20), "1.2 s of sound, at most 20 of"),
        (sound(0, 0), "0.0 s of sound"),
        (sound(60, 9000), "60.0 s of sound"),
    ],
)
def test_a_voice_says_something_of_the_right_length(data: bytes, evidence: str) -> None:
    found = asyncio.run(spoken(Scripted(voice=data), None))
    assert (found is None) is (evidence == "")
    if found is not None:
        assert evidence in found.evidence[0]


def test_pictures_and_sounds_are_told_apart() -> None:
    for trial, words in ((seen, "it does not see them"), (heard, "it does not hear them")):
        assert asyncio.run(trial(Scripted(), None)) is None
        found = asyncio.run(trial(Scripted(says="a cat"), None))
        assert found is not None
        assert words in found.title
