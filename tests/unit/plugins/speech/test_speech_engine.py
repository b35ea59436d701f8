"""Audio files become pieces of sound, languages are checked, and mlx-audio's results become segments."""

from __future__ import annotations

import io
import wave
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.sounds import SPOKEN_RATE, write_sound

from ollmlx.errors import InvalidRequest
from ollmlx.types import Segment, TranscribeRequest, Word

np = pytest.importorskip("numpy")
pytest.importorskip("av", reason="pip install 'ollmlx[speech]'")

from ollmlx.runner.kit.sounds import MOMENT, PIECE, RATE, as_wav, pieces  # noqa: E402
from ollmlx_speech.engine.whisper import MlxEars, check_language, temperatures  # noqa: E402

TONE = (np.sin(np.arange(SPOKEN_RATE * 2) * 0.05) * 9000).astype(np.int16)


@pytest.mark.parametrize(
    ("name", "codec", "rate", "layout"),
    [
        ("a.wav", "pcm_s16le", 8_000, "mono"),
        ("a.wav", "pcm_u8", 11_025, "mono"),
        ("a.flac", "flac", 48_000, "stereo"),
        ("a.mp3", "libmp3lame", 44_100, "stereo"),
        ("a.ogg", "libopus", 48_000, "mono"),
        ("a.m4a", "aac", 22_050, "mono"),
        ("a.webm", "libopus", 48_000, "stereo"),
    ],
)
def test_usual_files_are_heard_at_one_rate(tmp_path: Path, name: str, codec: str, rate: int, layout: str) -> None:
    file = write_sound(tmp_path / name, [TONE], codec=codec, rate=rate, layout=layout)
    (samples,) = pieces(file)
    assert len(samples) / RATE == pytest.approx(2, abs=0.1)
    assert 0.15 < float(np.abs(samples).max()) < 0.6


def test_a_long_file_is_cut_where_it_is_quiet(tmp_path: Path) -> None:
    sentence = np.tile(TONE, 5)
    sentence[-SPOKEN_RATE:] = 0
    found = list(pieces(write_sound(tmp_path / "long.wav", [sentence] * 54)))
    assert sum(map(len, found)) / RATE == pytest.approx(540, abs=0.1)
    assert len(found) == 3
    assert max(map(len, found)) <= PIECE
    assert all(np.abs(one[-RATE // 50 :]).max() < 0.01 for one in found[:2]), "a word was cut"


def test_a_file_that_ends_early_is_heard_up_to_there(tmp_path: Path) -> None:
    whole = write_sound(tmp_path / "whole.flac", [TONE] * 10, codec="flac")
    cut = tmp_path / "cut.flac"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert 5 < sum(map(len, pieces(cut))) / RATE < 15


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    yield "empty.wav", b""
    yield "text.mp3", b"this is no sound" * 100
    yield "zeros.wav", bytes(10_000)
    yield "head.wav", write_sound(folder / "x.wav", [TONE]).read_bytes()[:40]
    yield "list.m3u8", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"
    yield "list.txt", b"ffconcat version 1.0\nfile /etc/passwd\n"


def test_what_is_no_sound_is_refused_in_openais_words(tmp_path: Path) -> None:
    for name, data in _files(tmp_path):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InvalidRequest, match="Invalid file format"):
            list(pieces(tmp_path / name))


def test_a_file_whose_header_makes_it_days_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ollmlx.runner.kit.sounds.MOST_HOURS", 1)
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 1, 0, "NONE", ""))
        file.writeframes(bytes(2 * 5000))
    with pytest.raises(InvalidRequest, match="more than 1 hours of sound"):
        list(pieces(tmp_path / "a.wav"))


def test_a_sound_of_a_conversation_is_a_wav_file_of_one_rate(tmp_path: Path) -> None:
    for name, rate, size in (("a.wav", 8_000, len(TONE)), ("a.flac", 48_000, len(TONE)), ("b.wav", RATE, 1)):
        codec = "flac" if name.endswith("flac") else "pcm_s16le"
        file = write_sound(tmp_path / name, [TONE[:size]], codec=codec, rate=rate, layout="stereo")
        with wave.open(io.BytesIO(b64decode(as_wav(b64encode(file.read_bytes()).decode())))) as found:
            assert (found.getnchannels(), found.getsampwidth(), found.getframerate()) == (1, 2, RATE)
            assert found.getnframes() == pytest.approx(max(size, MOMENT), abs=200)


def test_temperatures_rise_from_the_one_that_is_asked_for() -> None:
    assert temperatures(0.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert temperatures(0.7) == [0.7, 0.9]
    assert temperatures(1.0) == [1.0]


@pytest.mark.parametrize(
    ("request_", "languages", "words"),
    [
        (TranscribeRequest(language="de"), ("en", "de"), ""),
        (TranscribeRequest(), ("en",), ""),
        (TranscribeRequest(language="german"), ("en", "de"), "ISO-639-1"),
        (TranscribeRequest(language="de"), ("en",), "English only, not 'de'"),
        (TranscribeRequest(task="translate"), ("en",), "does not translate"),
        (TranscribeRequest(task="translate"), ("en", "de"), ""),
    ],
)
def test_a_language_is_one_that_the_model_understands(
    request_: TranscribeRequest, languages: tuple[str, ...], words: str
) -> None:
    refused: AbstractContextManager[Any] = pytest.raises(InvalidRequest, match=words) if words else nullcontext()
    with refused:
        check_language(request_, languages)


def test_segments_of_mlx_audio_are_segments_of_ours() -> None:
    asked: dict[str, Any] = {}

    def generate(samples: Any, **options: Any) -> Any:
        asked.update(options)
        word = {"word": " Hi", "start": np.float32(0), "end": np.float32(0.5), "probability": 1.0}
        segment = {"text": " Hi", "start": 0, "end": np.float32(0.5), "tokens": [np.int64(7)], "words": [word]}
        segment |= {"avg_logprob": float("nan"), "no_speech_prob": np.float32(0.5)}
        return SimpleNamespace(language="en", segments=[segment])

    ears = MlxEars(Path("/nowhere"), SimpleNamespace(is_multilingual=False, generate=generate))
    assert ears.languages == ("en",)
    request = TranscribeRequest(prompt="Ada", words=True, temperature=0.8)
    language, heard = ears.hear(np.zeros(3), request, None)
    assert language == "en"
    assert heard == Segment(
        text=" Hi", start=0, end=0.5, tokens=(7,), words=(Word(word=" Hi", start=0, end=0.5),), no_speech_prob=0.5
    )
    assert (asked["initial_prompt"], asked["word_timestamps"], asked["temperature"]) == ("Ada", True, (0.8, 1.0))
