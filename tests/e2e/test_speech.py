"""Speech with the real models: what espeak-ng or a voice says is written down, and what is no speech is refused."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.sounds import SPOKEN_RATE, samples_of, word_error_rate, write_sound
from tests.speech_models import speech_model

from ollmlx.testing.daemon import Daemon
from ollmlx.testing.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.model, pytest.mark.slow]

np = pytest.importorskip("numpy")
pytest.importorskip("faster_whisper", reason="pip install 'ollmlx[speech]'")

SENTENCES = (
    "The children walked to school in the morning.",
    "My brother bought a new car last week.",
    "Please open the window, it is very warm in here.",
    "The train to London leaves at half past nine.",
    "She wrote a long letter to her mother.",
    "We are going to the beach next summer.",
    "The doctor told him to drink more water.",
    "There is a small garden behind the house.",
    "He put the book on the kitchen table.",
    "It will rain this afternoon, so take an umbrella.",
)
RECORDED = Path(__file__).parent / "data" / "three_sentences.opus"
"""The first three, as espeak-ng 1.51 says them."""
PATH = "/v1/audio/transcriptions"
MOST_ERRORS = 0.3
HOURS = 3


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("speech")
    for name in ("whisper:tiny", "piper:joe"):
        asyncio.run(speech_model(name, folder / "models"))
    with Daemon(folder, settings={"storage": {"models": str(folder / "models")}}) as started:
        yield started


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Ten sentences and the file in which espeak-ng says them; without it, three that were recorded."""
    if shutil.which("espeak-ng") is None:
        return " ".join(SENTENCES[:3]), RECORDED
    text, file = " ".join(SENTENCES), tmp_path_factory.mktemp("spoken") / "ten.wav"
    subprocess.run(["espeak-ng", "-v", "en-us", "-s", "150", "-w", str(file), text], check=True)
    return text, file


def post(daemon: Daemon, file: Path, path: str = PATH, **form: Any) -> httpx2.Response:
    with file.open("rb") as content:
        data = {"model": "whisper:tiny", **form}
        return httpx2.post(f"{daemon.url}{path}", data=data, files={"file": content}, timeout=300)


def whisper(daemon: Daemon) -> dict[str, Any]:
    """Return what `ps` tells of the model that hears."""
    loaded: list[dict[str, Any]] = httpx2.get(f"{daemon.url}/api/ps").json()["models"]
    (found,) = (model for model in loaded if model["name"] == "whisper:tiny")
    return found


def heard(daemon: Daemon, file: Path) -> str:
    answer = post(daemon, file)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["text"])


@pytest.mark.parametrize(
    ("model", "kind", "info"),
    [
        ("whisper:tiny", "transcription", {"whisper.languages": "en"}),
        ("piper:joe", "speech", {"piper.language": "en-us", "piper.sample_rate": 22_050}),
    ],
)
def test_a_model_is_listed_as_what_it_does(daemon: Daemon, model: str, kind: str, info: dict[str, Any]) -> None:
    (tagged,) = (each for each in httpx2.get(f"{daemon.url}/api/tags").json()["models"] if each["name"] == model)
    (listed,) = (each for each in httpx2.get(f"{daemon.url}/v1/models").json()["data"] if each["id"] == model)
    shown = httpx2.post(f"{daemon.url}/api/show", json={"model": model}).json()
    assert tagged["capabilities"] == shown["capabilities"] == listed["capabilities"] == [kind]
    assert shown["model_info"]["general.architecture"] == model.partition(":")[0]
    assert shown["model_info"].items() >= info.items()
    assert ("context_length" in listed) is (kind == "transcription")


def test_what_a_voice_says_is_written_down(daemon: Daemon, tmp_path: Path) -> None:
    openai = pytest.importorskip("openai")
    text, file = " ".join(SENTENCES[3:6]), tmp_path / "said.mp3"
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none", timeout=300) as client:
        with client.audio.speech.with_streaming_response.create(
            model="piper:joe", voice="alloy", input=text, speed=0.9
        ) as answer:
            answer.stream_to_file(file)
        heard = client.audio.transcriptions.create(model="whisper:tiny", file=file).text
        with pytest.raises(openai.BadRequestError, match="Voices of this model: joe"):
            client.audio.speech.create(model="piper:joe", voice="bob", input=text)
        with pytest.raises(openai.BadRequestError, match="does not support speech"):
            client.audio.speech.create(model="whisper:tiny", voice="alloy", input=text)
    assert word_error_rate(text, heard) <= MOST_ERRORS, heard
    with (tmp_path / "hello.wav").open("wb") as written:
        command = [daemon.python, "-P", "-m", "ollmlx", "run", "piper:joe", "Hello"]
        where: dict[str, Any] = {"cwd": daemon.folder, "env": daemon.environment | {"OLLAMA_HOST": daemon.url}}
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=written, check=True, **where)
    assert len(samples_of(tmp_path / "hello.wav")) / SPOKEN_RATE == pytest.approx(0.8, abs=0.5)


@pytest.mark.parametrize(("model", "kind"), [("whisper:tiny", "transcription"), ("piper:joe", "speech")])
def test_a_model_is_created_from_its_folder_or_over_another(
    daemon: Daemon, tmp_path: Path, model: str, kind: str
) -> None:
    own, modelfile = daemon.folder / "models" / "mlx" / model.replace(":", "@"), tmp_path / "Modelfile"
    files = [file for file in own.iterdir() if file.name != "ollmlx.json"]
    for file in files:
        shutil.copy(file, tmp_path / file.name)
    weights = next((str(tmp_path / file.name) for file in files if file.suffix == ".onnx"), str(tmp_path))
    for number, text in enumerate((f"FROM {tmp_path}", f"FROM {weights}", f"FROM {model}\nLICENSE mine")):
        modelfile.write_text(text)
        made = daemon.cli("create", f"own{number}", "-f", str(modelfile))
        assert made.returncode == 0, made.stderr
        assert daemon.post("/api/show", {"model": f"own{number}"}).json()["capabilities"] == [kind]
        refused = daemon.cli("create", "small", "-f", str(modelfile), "-q", "int4")
        assert "quantization is only supported for" in refused.stderr
    if kind == "transcription":
        said = str(post(daemon, RECORDED, model="own0").json()["text"])
        assert word_error_rate(" ".join(SENTENCES[:3]), said) <= MOST_ERRORS
    (tmp_path / next(file.name for file in files if file.name.endswith(("model.bin", ".onnx.json")))).unlink()
    modelfile.write_text(f"FROM {tmp_path}")
    assert "no voice of Piper" in daemon.cli("create", "broken", "-f", str(modelfile)).stderr


def test_ten_sentences_are_written_down(daemon: Daemon, spoken: tuple[str, Path]) -> None:
    text, file = spoken
    printed = daemon.cli("run", "whisper:tiny", str(file), timeout=300)
    assert printed.returncode == 0, printed.stderr
    assert word_error_rate(text, printed.stdout) <= MOST_ERRORS, printed.stdout
    running = whisper(daemon)
    assert running["backend"] == "speech"
    notes = [note for note in running["notes"] if note.startswith("not confined")]
    assert notes == []


def test_openais_client_gets_segments_words_and_a_stream(daemon: Daemon, spoken: tuple[str, Path]) -> None:
    openai = pytest.importorskip("openai")
    text, file = spoken
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none", timeout=300) as client:
        verbose = client.audio.transcriptions.create(
            model="whisper:tiny",
            file=file,
            response_format="verbose_json",
            language="en",
            timestamp_granularities=["word", "segment"],
        )
        events = list(client.audio.transcriptions.create(model="whisper:tiny", file=file, stream=True))
    assert word_error_rate(text, verbose.text) <= MOST_ERRORS
    assert word_error_rate(text, " ".join(word.word for word in verbose.words)) <= MOST_ERRORS
    times = [time for segment in verbose.segments for time in (segment.start, segment.end)]
    assert times == sorted(times)
    assert times[-1] <= verbose.duration == pytest.approx(len(samples_of(file)) / SPOKEN_RATE, abs=0.1)
    assert events[-1].type == "transcript.text.done"
    assert "".join(event.delta for event in events[:-1]) == events[-1].text


@pytest.mark.parametrize(
    ("name", "codec", "rate", "layout"),
    [
        ("8k.wav", "pcm_s16le", 8_000, "mono"),
        ("48k.flac", "flac", 48_000, "stereo"),
        ("a.mp3", "libmp3lame", 44_100, "stereo"),
    ],
)
def test_files_of_any_rate_are_heard(
    daemon: Daemon, tmp_path: Path, name: str, codec: str, rate: int, layout: str
) -> None:
    sound = samples_of(RECORDED)
    file = write_sound(tmp_path / name, [sound], codec=codec, rate=rate, layout=layout)
    assert word_error_rate(" ".join(SENTENCES[:3]), heard(daemon, file)) <= MOST_ERRORS


def test_silence_is_no_text_and_what_is_no_sound_a_400(daemon: Daemon, tmp_path: Path) -> None:
    assert heard(daemon, write_sound(tmp_path / "silence.wav", [np.zeros(SPOKEN_RATE * 8, np.int16)])) == ""
    broken = tmp_path / "broken.mp3"
    broken.write_bytes(b"\xff\xfb" + b"nothing" * 1000)
    for file, form, words in (
        (broken, {}, "Invalid file format"),
        (RECORDED, {"language": "fr"}, "English only"),
        (RECORDED, {"model": "nobody"}, "not found"),
    ):
        answer = post(daemon, file, **form)
        assert answer.status_code == (404 if "model" in form else 400)
        assert words in answer.json()["error"]["message"]
    assert "English only" in post(daemon, RECORDED, "/v1/audio/translations").json()["error"]["message"]
    chat = {"model": "whisper:tiny", "messages": [{"role": "user", "content": "hi"}]}
    assert httpx2.post(f"{daemon.url}/v1/chat/completions", json=chat).status_code == 400


def test_three_hours_take_no_more_memory_than_minutes(daemon: Daemon, tmp_path: Path) -> None:
    sound, minute = samples_of(RECORDED), np.zeros(SPOKEN_RATE * 60, np.int16)
    with_speech = np.concatenate([sound, minute[len(sound) :]])
    minutes = [with_speech, *[minute] * (HOURS * 60 - 2), with_speech]
    file = write_sound(tmp_path / "long.flac", minutes, codec="flac")
    answer = post(daemon, file, response_format="verbose_json").json()
    assert answer["duration"] == pytest.approx(HOURS * 3600, abs=1)
    first, last = answer["segments"][0], answer["segments"][-1]
    assert first["start"] < 5
    assert last["end"] > HOURS * 3600 - 60
    assert whisper(daemon)["size"] < 700 << 20


@pytest.mark.parametrize(
    ("model", "guarantee"), [("whisper:tiny", "a spoken sentence is written down"), ("piper:joe", "a text is spoken")]
)
def test_the_doctor_tries_models_that_hear_and_speak(daemon: Daemon, model: str, guarantee: str) -> None:
    done = daemon.cli("doctor", "--model", model, timeout=200)
    assert (done.returncode, f"✓ {guarantee}" in done.stderr) == (0, True), done.stderr


async def test_a_client_that_leaves_frees_the_model(daemon: Daemon, spoken: tuple[str, Path], tmp_path: Path) -> None:
    file = write_sound(tmp_path / "talk.wav", [samples_of(spoken[1])] * 8)
    with file.open("rb") as content:
        data, url = {"model": "whisper:tiny", "stream": "true"}, f"{daemon.url}{PATH}"
        with httpx2.stream("POST", url, data=data, files={"file": content}, timeout=300) as answer:
            first = next(line for line in answer.iter_lines() if line.startswith("data:"))
    assert json.loads(first.removeprefix("data: "))["type"] == "transcript.text.delta"

    def idle() -> bool:
        return bool(whisper(daemon)["active"] == 0)

    await eventually(idle)
    assert heard(daemon, RECORDED)
