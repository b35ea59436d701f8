"""A scripted daemon, and the command line that uses it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.servers.serving import Answer, Asked, Served, chunked

from ollmlx.cli.client import Client
from ollmlx.cli.main import main
from ollmlx.text.addresses import Address


@dataclass
class ScriptedDaemon:
    """Answers each (method, path) from a script: one reply after the other, the last one again and again."""

    url: str = ""
    requests: list[Asked] = field(default_factory=list)
    script: dict[tuple[str, str], list[Answer]] = field(default_factory=dict)

    def says(self, method: str, path: str, body: Any = None, *, status: int = 200) -> None:
        text = json.dumps(body).encode() if body is not None else b""
        self.script.setdefault((method, path), []).append(Answer(status, text))

    def streams(self, path: str, *lines: dict[str, Any], cut: bool = False) -> None:
        self.script.setdefault(("POST", path), []).append(chunked(*lines, cut=cut))

    def answer(self, asked: Asked) -> Answer:
        self.requests.append(asked)
        replies = self.script.get((asked.method, asked.path.partition("?")[0]))
        if not replies:
            return Answer(404, json.dumps({"error": f"nothing scripted for {asked.method} {asked.path}"}).encode())
        return replies.pop(0) if len(replies) > 1 else replies[0]

    def bodies(self, path: str) -> list[Any]:
        """Return the bodies of the requests for a path, in order: parsed JSON, or bytes."""
        found = [request for request in self.requests if request.path == path]
        return [
            json.loads(one.body) if one.headers.get("content-type") == "application/json" else one.body for one in found
        ]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder, which is the working directory, and no variables of ollmlx."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("OLLMLX_CONFIG", "OLLAMA_HOST", "OLLAMA_MODELS", "OLLAMA_KEEP_ALIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[ScriptedDaemon]:
    """A scripted daemon at OLLAMA_HOST, without any settings; standard input is empty."""
    daemon = ScriptedDaemon()
    daemon.says("HEAD", "/")
    served = Served(daemon.answer)
    daemon.url = served.url
    monkeypatch.setenv("OLLAMA_HOST", daemon.url)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    yield daemon
    served.close()


@pytest.fixture
def client(daemon: ScriptedDaemon) -> Client:
    return Client(Address.parse(daemon.url))


@dataclass
class Outcome:
    """The result of a command line."""

    code: int
    out: str
    err: str


CommandLine = Callable[..., Outcome]


@pytest.fixture
def ollmlx(daemon: ScriptedDaemon, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Runs a command line against the scripted daemon."""

    def run(*argv: str) -> Outcome:
        try:
            code = main(list(argv))
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run
