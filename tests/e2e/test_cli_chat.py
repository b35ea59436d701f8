"""The chat loop on a pseudo-terminal, with a real daemon and fake models."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ollmlx.testing import wait_until
from ollmlx.testing.daemon import Daemon

pytestmark = pytest.mark.e2e

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
SECONDS = 120.0


class Terminal:
    """A program on a pseudo-terminal."""

    def __init__(self, argv: list[str], env: dict[str, str], cwd: str) -> None:
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            # A shell starts what runs in its background with the signal ignored; a terminal's programs get it.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.chdir(cwd)
            os.execve(argv[0], argv, env)
        self._seen = ""

    def keys(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def line(self, text: str) -> None:
        self.keys(text + "\r")

    def until(self, pattern: str) -> str:
        """Read until a pattern is shown; return everything up to its end, and discard it.

        A control key is for the prompt: sent before the prompt is there, the terminal itself takes it.
        """
        deadline = time.monotonic() + SECONDS
        while (found := re.search(pattern, self._seen)) is None:
            assert time.monotonic() < deadline, f"{pattern!r} was not shown: {self._seen!r}"
            if select.select([self._fd], [], [], 0.1)[0]:
                self._seen += _ESCAPES.sub("", os.read(self._fd, 65536).decode("utf-8", "replace"))
        shown, self._seen = self._seen[: found.end()], self._seen[found.end() :]
        return shown

    def code(self) -> int:
        """Wait until the program exits and return the exit code."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
            if select.select([self._fd], [], [], 0.02)[0]:
                try:
                    os.read(self._fd, 65536)
                except OSError:  # Linux: the other end is closed
                    time.sleep(0.01)
        raise AssertionError("the program did not end")

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._fd)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with a model that repeats its prompt, and one whose answer does not end while a test runs."""
    fakes: dict[str, dict[str, Any]] = {"parrot": {}, "talker": {"say": "word " * 100_000, "rate": 50}}
    settings = {"plugins": {"fake": {"capabilities": ["completion", "vision"]}}}
    with Daemon(tmp_path_factory.mktemp("chat"), fakes=fakes, settings=settings) as started:
        yield started


def started(server: Daemon, *words: str, **variables: str) -> Terminal:
    """`ollmlx WORDS` on a terminal."""
    environment = {
        **server.environment,
        "OLLAMA_HOST": server.address,
        "OLLMLX_STORAGE__STATE": str(server.state),
        "TERM": "xterm-256color",
        "PROMPT_TOOLKIT_NO_CPR": "1",
        "NO_COLOR": "1",
        **variables,
    }
    return Terminal([sys.executable, "-m", "ollmlx", *words], environment, str(server.folder))


@pytest.fixture
def chat(server: Daemon) -> Iterator[tuple[Terminal, Daemon]]:
    """`ollmlx run parrot` at its first prompt."""
    terminal = started(server, "run", "parrot")
    try:
        terminal.until(">>> ")
        yield terminal, server
    finally:
        terminal.close()


def load_talker(terminal: Terminal) -> None:
    """Load the model whose answer does not end."""
    terminal.line("/load talker")
    terminal.until(r"Loading model 'talker'[\s\S]*>>> ")


def test_it_answers_turn_after_turn_and_ends_at_bye(chat: tuple[Terminal, Daemon]) -> None:
    terminal, server = chat
    terminal.line("good morning")
    terminal.until(r"good morning[\s\S]*good morning[\s\S]*>>> ")
    terminal.line('"""two')
    terminal.until(r"\.\.\. ")
    terminal.line('lines"""')
    terminal.until(r"two\nlines[\s\S]*>>> ")
    terminal.line("/bye")
    assert terminal.code() == 0
    history = server.state / "history"
    assert "+good morning" in history.read_text()
    assert stat.S_IMODE(history.stat().st_mode) == 0o600


def test_the_menu_leads_to_a_chat_in_which_ctrl_g_opens_the_editor(server: Daemon, tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\necho written in the editor > "$1"\n')
    editor.chmod(0o755)
    terminal = started(server, OLLAMA_EDITOR=str(editor))
    try:
        terminal.until("Number or name")
        terminal.line("run parrot")
        terminal.until(">>> ")
        terminal.keys("\x07")
        terminal.until("written in the editor")
        terminal.line("")
        terminal.until(r"written in the editor[\s\S]*>>> ")
        terminal.keys("\x04")
        assert terminal.code() == 0
    finally:
        terminal.close()


def test_the_turns_of_a_model_are_shown_and_the_path_of_a_picture_is_one(server: Daemon, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8), "red").save(tmp_path / "my cat.png")
    modelfile = "FROM parrot\nMESSAGE user Who is there?\nMESSAGE assistant A parrot.\n"
    assert server.cli("create", "greeter", "-f", "-", input=modelfile).returncode == 0
    terminal = started(server, "run", "greeter")
    try:
        terminal.until(r">>> Who is there\?\nA parrot\.\n[\s\S]*>>> ")
        terminal.line(f"Look at '{tmp_path}/my cat.png' now.")
        terminal.until(r"added image .*my cat\.png[\s\S]*Look at\s+now\. sees [0-9a-f]{8}[\s\S]*>>> ")
        terminal.keys("\x04")
        assert terminal.code() == 0
    finally:
        terminal.close()


def test_ctrl_c_stops_the_answer_and_not_the_program(chat: tuple[Terminal, Daemon]) -> None:
    terminal, server = chat
    load_talker(terminal)
    terminal.line("go")
    terminal.until("word word")
    terminal.keys("\x03")
    terminal.until(">>> ")
    terminal.keys("\x03")
    terminal.until(r"Use Ctrl \+ d or /bye to exit[\s\S]*>>> ")
    wait_until(lambda: not any(_active(server).values()))
    terminal.keys("\x04")
    assert terminal.code() == 0


def test_text_that_is_typed_during_an_answer_is_not_shown_in_it(chat: tuple[Terminal, Daemon]) -> None:
    terminal, _ = chat
    load_talker(terminal)
    terminal.line('"""go')
    terminal.until(r'\.\.\. Use """ to end')
    terminal.line('on"""')
    terminal.until("word word")
    terminal.keys("ahead")
    terminal.keys("\x03")
    assert "ahead" not in terminal.until(r"\^C|>>> ")
    terminal.until("Send a message")
    terminal.keys("\x04")
    assert terminal.code() == 0


def _active(server: Daemon) -> dict[str, int]:
    return {model["name"]: model["active"] for model in server.get("/api/ps").json()["models"]}
