"""Texts are spoken sentence by sentence, by a speaker of the model, into files that players read."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from ollmlx.errors import InvalidRequest
from ollmlx.types import AudioFormat

np = pytest.importorskip("numpy")
pytest.importorskip("av", reason="pip install 'ollmlx[speech]'")

from ollmlx.runner.kit.sounds import RATE, pieces  # noqa: E402
from ollmlx_speech.engine.encoding import AT_ONCE, AudioEncoder  # noqa: E402
from ollmlx_speech.engine.voice import LONGEST, MlxVoice, chosen_speaker, sentences  # noqa: E402

OWN_RATE = 22_050
SECOND = (np.sin(np.arange(OWN_RATE) * 0.05) * 9000).astype(np.int16)


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("One. Two? Three!", ["One.", "Two?", "Three!"]),
        ("a line\n\nanother line", ["a line", "another line"]),
        ("No. 1.5 of it", ["No.", "1.5 of it"]),
        ("今日は。元気？はい", ["今日は。", "元気？", "はい"]),
        ("  \n ", []),
    ],
)
def test_a_text_is_cut_into_sentences(text: str, spoken: list[str]) -> None:
    assert list(sentences(text)) == spoken


@pytest.mark.parametrize("text", ["word " * 500, "x" * 2000])
def test_no_sentence_is_too_long_to_be_spoken_at_once(text: str) -> None:
    found = list(sentences(text))
    assert max(map(len, found)) <= LONGEST
    assert "".join(found).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize(
    ("voice", "speakers", "chosen"),
    [
        ("", ("amy", "joe"), ""),
        ("joe", ("amy", "joe"), "joe"),
        ("alloy", ("amy", "joe"), ""),
        ("Ryan", (), "Ryan"),
        ("bob", ("amy", "joe"), "Voices of this model: amy, joe"),
    ],
)
def test_a_voice_is_a_speaker_of_the_model_or_one_of_openais(
    voice: str, speakers: tuple[str, ...], chosen: str
) -> None:
    if voice == "bob":
        with pytest.raises(InvalidRequest, match=chosen):
            chosen_speaker(voice, speakers)
    else:
        assert chosen_speaker(voice, speakers) == chosen


@pytest.mark.parametrize("format", get_args(AudioFormat))
def test_every_format_holds_what_was_said(tmp_path: Path, format: AudioFormat) -> None:
    encoder = AudioEncoder(format, OWN_RATE)
    parts = [encoder.feed(SECOND) for _ in range(6)]
    data = b"".join(parts) + encoder.finish()
    assert any(parts) is (format not in AT_ONCE), "what can be heard at once must not wait for the end"
    if format == "pcm":
        assert len(data) == pytest.approx(6 * 24_000 * 2, abs=200)
        return
    (tmp_path / "a").write_bytes(data)
    (samples,) = pieces(tmp_path / "a")
    assert len(samples) / RATE == pytest.approx(6, abs=0.15)
    assert 0.15 < float(np.abs(samples).max()) < 0.6


def test_what_mlx_audio_says_is_samples() -> None:
    asked: dict[str, Any] = {}

    def generate(**options: Any) -> Any:
        asked.update(options)
        yield SimpleNamespace(audio=np.array([0.0, 0.5, -2.0]), token_count=7)

    voice = MlxVoice(Path("/nowhere"), SimpleNamespace(sample_rate=24_000, generate=generate))
    ((samples, count),) = voice.say("Hi", "", 1.5)
    assert (voice.rate, samples.tolist(), count) == (24_000, [0, 16383, -32767], 7)
    assert asked == {"text": "Hi", "voice": None, "speed": 1.5}
