"""Paths of pictures and of sounds in a prompt."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from tests.unit.cli.conftest import CommandLine, ScriptedDaemon

from ollmlx.cli.client import Client
from ollmlx.cli.media import quoted, take_media

DONE = {"response": "a cat", "done": True}


@pytest.fixture
def cat(home: Path) -> Path:
    """A picture whose path has a space, in the working directory and home folder."""
    (home / "my pics").mkdir()
    file = home / "my pics" / "cat.PNG"
    file.write_bytes(b"picture")
    (home / "cat.jpg").write_bytes(b"photo")
    return file


@pytest.mark.parametrize(
    ("text", "left", "images"),
    [
        ("what is ./cat.jpg ?", "what is  ?", ["cGhvdG8="]),
        ("'{home}/my pics/cat.PNG' what?", "what?", ["cGljdHVyZQ=="]),
        ('"./my pics/cat.PNG" what?', "what?", ["cGljdHVyZQ=="]),
        (r"./my\ pics/cat.PNG and ~/cat.jpg", "and", ["cGljdHVyZQ==", "cGhvdG8="]),
        ("./cat.jpg: what?", ": what?", ["cGhvdG8="]),
        ("cat.jpg is a name", None, []),
        ("see ./none.png", None, []),
        ("https://x.example/cat.jpg", None, []),
        ("a/./cat.jpgs", None, []),
    ],
)
def test_paths_of_files_are_pictures(
    daemon: ScriptedDaemon, client: Client, cat: Path, home: Path, text: str, left: str | None, images: list[str]
) -> None:
    daemon.says("POST", "/api/show", {"capabilities": ["completion", "vision"]})
    written = text.replace("{home}", str(home))
    assert take_media(client, "m", written) == (written if left is None else left, images)


def test_a_model_that_cannot_see_gets_the_text(daemon: ScriptedDaemon, client: Client, cat: Path) -> None:
    daemon.says("POST", "/api/show", {"capabilities": ["completion"]})
    assert take_media(client, "m", "what is ./cat.jpg") == ("what is ./cat.jpg", [])


def test_run_sends_the_pictures_that_were_typed_and_not_those_of_a_pipe(
    daemon: ScriptedDaemon, ollmlx: CommandLine, cat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.says("POST", "/api/show", {"capabilities": ["completion", "vision"]})
    daemon.streams("/api/generate", DONE)
    monkeypatch.setattr("sys.stdin", io.StringIO("log: ./cat.jpg"))
    done = ollmlx("run", "m", "what is it?", str(cat))
    assert (done.code, done.out) == (0, "a cat\n")
    assert done.err == f"added image {cat}\n"
    (body,) = daemon.bodies("/api/generate")
    assert (body["prompt"], body["images"]) == ("log: ./cat.jpg what is it?", ["cGljdHVyZQ=="])


@pytest.mark.parametrize(
    ("capabilities", "left", "files"),
    [
        (["audio"], "what is ./cat.jpg", ["dGFsaw=="]),
        (["vision", "audio"], "what is", ["cGhvdG8=", "dGFsaw=="]),
        (["vision"], "what is  './my talk.mp3'", ["cGhvdG8="]),
    ],
)
def test_a_model_gets_of_pictures_and_sounds_what_it_perceives(
    daemon: ScriptedDaemon, client: Client, cat: Path, home: Path, capabilities: list[str], left: str, files: list[str]
) -> None:
    (home / "my talk.mp3").write_bytes(b"talk")
    daemon.says("POST", "/api/show", {"capabilities": ["completion", *capabilities]})
    words = " ".join(map(quoted, ["what", "is", "cat.jpg", "my talk.mp3"]))
    assert take_media(client, "m", words) == (left, files)


@pytest.mark.parametrize("word", ["none.wav", "cat", "it's.wav", "x" * 5000 + ".wav"])
def test_a_word_that_names_no_file_stays_as_it_is(cat: Path, word: str) -> None:
    assert quoted(word) == word
