"""Sounds through the daemon to a model that hears: every dialect, the command line, and what is refused."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.pictures import base64_of, drawn
from tests.servers.llava_gguf import write_listener
from tests.sounds import SPOKEN_RATE, tone, write_sound

from ollmlx.testing.daemon import Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

np = pytest.importorskip("numpy")
pytest.importorskip("xllamacpp", reason="pip install 'ollmlx[llamacpp]'")
pytest.importorskip("av", reason="pip install 'ollmlx[llamacpp]'")

QUESTION = "what is said?"
HALF_MINUTE = 750
"""Tokens of half a minute, which is the shortest that the model hears."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("listening"), env={"HOME": str(Path.home())}) as one:
        weights, projector = write_listener(one.folder)
        both = f"FROM {weights}\nFROM {projector}\n"
        files = {"ears": both, "go": both + "TEMPLATE {{ .Prompt }}\n", "deaf": f"FROM {weights}\n"}
        for name, text in files.items():
            (one.folder / name).write_text(text)
            made = one.cli("create", name, "-f", str(one.folder / name), "--backend", "llamacpp")
            assert made.returncode == 0, made.stderr
        yield one


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Sounds by their names, in base64."""
    folder = tmp_path_factory.mktemp("sounds")
    low, high, silence = tone(0.05), tone(0.4), np.zeros(SPOKEN_RATE, np.int16)
    minute = np.zeros(SPOKEN_RATE * 60, np.int16)
    files = {
        "low": write_sound(folder / "low.wav", [low]),
        "high": write_sound(folder / "high.wav", [high]),
        "silence": write_sound(folder / "silence.wav", [silence]),
        "8k": write_sound(folder / "8k.wav", [low], rate=8_000),
        "48k": write_sound(folder / "48k.wav", [low], rate=48_000, layout="stereo"),
        "mp3": write_sound(folder / "low.mp3", [low], codec="libmp3lame", rate=44_100),
        "50s": write_sound(folder / "50s.flac", [minute[: SPOKEN_RATE * 50]], codec="flac"),
        "hours": write_sound(folder / "hours.flac", [minute] * 180, codec="flac"),
        "moment": write_sound(folder / "moment.wav", [low[:1]]),
    }
    return {name: b64encode(file.read_bytes()).decode() for name, file in files.items()}


def openai(
    daemon: Daemon, *audio: str, model: str = "ears", path: str = "/v1/chat/completions", status: int = 200
) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [
        {"type": "input_audio", "input_audio": {"data": each, "format": "wav"}} for each in audio
    ]
    if path == "/v1/responses":
        text = {"type": "input_text", "text": QUESTION}
        body: dict[str, Any] = {"input": [{"role": "user", "content": [*parts, text]}], "max_output_tokens": 8}
    else:
        text = {"type": "text", "text": QUESTION}
        body = {"messages": [{"role": "user", "content": [*parts, text]}], "max_tokens": 8}
    answer = daemon.post(path, {"model": model, "temperature": 0, **body})
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def said(daemon: Daemon, *audio: str, **how: Any) -> str:
    return str(openai(daemon, *audio, **how)["choices"][0]["message"]["content"])


def test_what_hears_says_so_and_nothing_else_does(daemon: Daemon) -> None:
    assert daemon.post("/api/show", {"model": "ears"}).json()["capabilities"] == ["completion", "audio"]
    listed = {each["id"]: each["capabilities"] for each in daemon.get("/v1/models").json()["data"]}
    assert {name for name, capabilities in listed.items() if "audio" in capabilities} == {"ears:latest", "go:latest"}
    assert not any("vision" in capabilities for capabilities in listed.values())
    refused = daemon.post(
        "/api/chat", {"model": "ears", "messages": [{"role": "user", "images": [base64_of(drawn())]}]}
    )
    assert (refused.status_code, "does not support images" in refused.json()["error"]) == (400, True)


def test_every_dialect_answers_the_same_sound_alike(daemon: Daemon, sounds: dict[str, str]) -> None:
    low = said(daemon, sounds["low"])
    assert len({low, said(daemon, sounds["high"]), said(daemon, sounds["silence"])}) == 3
    assert said(daemon, sounds["low"]) == low
    (output,) = openai(daemon, sounds["low"], path="/v1/responses")["output"]
    assert output["content"][0]["text"] == low
    options = {"temperature": 0, "num_predict": 8}
    message = {"role": "user", "content": QUESTION, "images": [sounds["low"]]}
    body = {"model": "ears", "messages": [message], "options": options, "stream": False}
    assert daemon.post("/api/chat", body).json()["message"]["content"] == low
    asked = {"model": "ears", "prompt": QUESTION, "images": [sounds["low"]], "options": options, "stream": False}
    assert daemon.post("/api/generate", asked).json()["response"] == low
    assert said(daemon, sounds["low"], model="go") != said(daemon, sounds["high"], model="go")


def test_a_sounds_tokens_count(daemon: Daemon, sounds: dict[str, str]) -> None:
    counts = [
        openai(daemon, *heard)["usage"]["prompt_tokens"]
        for heard in ((), (sounds["low"],), (sounds["low"], sounds["high"]), (sounds["50s"],))
    ]
    assert [(count - counts[0]) // HALF_MINUTE for count in counts] == [0, 1, 2, 2]


def test_files_of_any_rate_are_heard_and_the_shortest_one(daemon: Daemon, sounds: dict[str, str]) -> None:
    low, silence = said(daemon, sounds["low"]), said(daemon, sounds["silence"])
    assert all(openai(daemon, sounds[name])["usage"]["completion_tokens"] for name in ("8k", "48k", "mp3", "moment"))
    assert silence not in (low, said(daemon, sounds["48k"]), said(daemon, sounds["mp3"]))


def test_several_clients_with_several_sounds(daemon: Daemon, sounds: dict[str, str]) -> None:
    names = ("low", "high", "silence", "8k")
    alone = [said(daemon, sounds[name]) for name in names]
    with ThreadPoolExecutor(len(names)) as clients:
        together = list(clients.map(lambda name: said(daemon, sounds[name]), names))
    assert together == alone


@pytest.mark.parametrize(
    ("sound", "words"),
    [
        ("UklGRgAAAABXQVZF", "invalid file format"),
        (b64encode(b"\xff\xfb" + b"nothing" * 1000).decode(), "invalid file format"),
        (base64_of(drawn()), "invalid file format"),
        ("!", "not base64"),
        ("hours", "longer than 30 minutes"),
    ],
)
def test_a_bad_sound_is_the_clients_mistake(daemon: Daemon, sounds: dict[str, str], sound: str, words: str) -> None:
    error = openai(daemon, sounds.get(sound, sound), status=400)["error"]
    assert error["message"].startswith("invalid audio input: ")
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"


def test_a_model_that_does_not_hear_refuses(daemon: Daemon, sounds: dict[str, str]) -> None:
    assert "deaf does not support audio" in openai(daemon, sounds["low"], model="deaf", status=400)["error"]["message"]


def test_a_sound_that_does_not_fit_the_context_is_refused(daemon: Daemon, sounds: dict[str, str]) -> None:
    body = {"model": "ears", "messages": [{"role": "user", "content": "?", "images": [sounds["50s"]] * 3}]}
    answer = daemon.post("/api/chat", {**body, "options": {"num_predict": 4}})
    assert (answer.status_code, "4096" in answer.json()["error"]) == (400, True)


def test_the_command_line_takes_sounds(daemon: Daemon, sounds: dict[str, str]) -> None:
    write_sound(daemon.folder / "my talk.wav", [tone(0.05)])
    for words in (["what is said in './my talk.wav'"], ["what?", "my talk.wav"]):
        done = daemon.cli("run", "ears", *words, timeout=100)
        assert done.returncode == 0, done.stderr
        assert "added audio my talk.wav" in done.stderr


def test_the_doctor_tries_sounds(daemon: Daemon) -> None:
    done = daemon.cli("doctor", "--model", "ears", timeout=200)
    assert "✓ different sounds are answered differently, alone and together" in done.stderr, done.stderr
