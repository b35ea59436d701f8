"""The trials of what a model perceives and says: pictures, sounds, speech."""

from __future__ import annotations

import asyncio
import io
import math
import re
import wave
from array import array
from base64 import b64encode
from collections.abc import Iterable
from importlib.resources import files

from ollmlx.doctor.selftest.subject import ONE_AT_A_TIME, SHOWN, Subject, difference, wrong_answer
from ollmlx.errors.findings import Finding

TOKENS = 16
PICTURES = (
    (
        "iVBORw0KGgoAAAANSUhEUgAAAEAAAABACAIAAAAlC+aJAAAATElEQVR42u3PQQ0AAAgEoNP+nTWCbzdoQE1+6wgICAgICAgICAgI"
        "CAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgIHBZShQF/CY4YrwAAAABJRU5ErkJggg=="
    ),
    (
        "iVBORw0KGgoAAAANSUhEUgAAAEAAAABACAIAAAAlC+aJAAAATUlEQVR42u3PQQ0AAAgEoNP+nTWFDzdoQCWTzzrPCQgICAgICAgI"
        "CAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICNxbUIcBf7p/yPgAAAAASUVORK5CYII="
    ),
)
"""A red square and a blue one."""


SPOKEN = frozenset({"children", "school", "morning", "walked"})
"""Words of the sentence that is in the file beside this one."""
LEAST_SPOKEN, MOST_SPOKEN = 0.2, 10.0
QUIET = 300
"""The loudest sample of what counts as silence."""


def _wav(samples: Iterable[int]) -> bytes:
    """Return samples, 16,000 a second, as a WAV file."""
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(array("h", samples).tobytes())
    return written.getvalue()


def _tone(hertz: int) -> str:
    """Return a second of a tone in base64."""
    return b64encode(_wav(round(9000 * math.sin(at * hertz / 2546)) for at in range(16_000))).decode()


async def seen(subject: Subject, state: object) -> Finding | None:
    """Show two pictures."""
    return await _told_apart(subject, PICTURES, "picture", "see") if "vision" in subject.capabilities else None


async def heard(subject: Subject, state: object) -> Finding | None:
    """Play two tones."""
    return (
        await _told_apart(subject, (_tone(220), _tone(1760)), "sound", "hear")
        if "audio" in subject.capabilities
        else None
    )


async def _told_apart(subject: Subject, shown: tuple[str, str], kind: str, verb: str) -> Finding | None:
    """Send two files, one after the other and then both at once, when they are in the cache."""
    first, second = [await subject.perceive(file, TOKENS) for file in shown]
    if first.tokens == second.tokens and first.text == second.text:
        problem = f"answers different {kind}s alike: it does not {verb} them"
        return wrong_answer(subject, problem, repr(first.text[:SHOWN]))
    together = await asyncio.gather(*(subject.perceive(file, TOKENS) for file in shown))
    for alone, beside in zip((first, second), together, strict=True):
        if changed := difference(alone, beside):
            problem = f"gives another answer to a {kind} beside another one, or from the cache"
            return wrong_answer(subject, problem, changed, ONE_AT_A_TIME)
    return None


async def transcribed(subject: Subject, state: object) -> Finding | None:
    """Let it write down a recorded sentence and a second of silence."""
    text = await subject.transcribe("sentence.ogg", files(__package__).joinpath("sentence.ogg").read_bytes())
    if not SPOKEN & {*re.findall("[a-z]+", text.lower())}:
        return wrong_answer(subject, "does not understand a simple sentence", f"it heard {text[:SHOWN]!r}")
    if quiet := await subject.transcribe("silence.wav", _wav(16_000 * [0])):
        return wrong_answer(subject, "writes words for silence", repr(quiet[:SHOWN]))
    return None


async def spoken(subject: Subject, state: object) -> Finding | None:
    """Let it say two words: some second of sound, which is no silence."""
    with wave.open(io.BytesIO(await subject.speak("Good morning."))) as file:
        seconds = file.getnframes() / file.getframerate()
        loudest = max(map(abs, array("h", file.readframes(file.getnframes()))), default=0)
    if LEAST_SPOKEN <= seconds <= MOST_SPOKEN and loudest > QUIET:
        return None
    return wrong_answer(subject, "does not speak", f"{seconds:.1f} s of sound, at most {loudest} of 32,767 loud")
