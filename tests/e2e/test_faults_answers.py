"""The fault matrix as clients see it: answers in each dialect, streamed and whole, and the processes that are left."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from tests.e2e.helpers import command, user
from tests.e2e.helpers import family as processes_of

from ollmlx.testing import wait_until
from ollmlx.testing.daemon import Daemon

pytestmark = pytest.mark.e2e
ROUTES = {"ollama": "/api/chat", "openai": "/v1/chat/completions", "anthropic": "/v1/messages"}
LOADS: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "exits": ({"load_fault": "exit:1"}, 500, "RUN002", "ended with exit status 1 while loading: fake: exiting as told"),
    "damaged": ({"load_fault": "bad_model"}, 500, "RUN002", "cannot load the model's files (exit status 65)"),
    "mute": ({"load_fault": "hang"}, 504, "RUN004", "made no progress for 10s while loading"),
    "starved": ({"load_fault": "oom"}, 500, "RUN005", "ran out of memory (exit status 75) while loading: fake: out of"),
    "alien": ({"protocol": 7}, 500, "RUN008", "speaks Runner Protocol 7, this daemon speaks 1"),
}
FAILURES: dict[str, tuple[int, str, str]] = {
    "kill": (500, "RUN002", "was killed by SIGKILL"),
    "segv": (500, "RUN002", "was killed by SIGSEGV (a crash in native code): Fatal Python error: Segmentation fault"),
    "hang": (504, "RUN004", "made no progress for "),
    "eof": (500, "RUN002", "failed: it ended the answer without finishing it"),
    "garbage": (500, "RUN002", "broke the protocol: it sent something that is not an event"),
    "schema": (500, "RUN002", "broke the protocol: it sent something that is not an event"),
    "longline": (500, "RUN002", "broke the protocol: it sent a line of more than"),
    "utf8": (500, "RUN002", "broke the protocol: it sent something that is not an event"),
    "halfline": (500, "RUN002", "failed: it stopped in the middle of a line"),
    "leak:800": (500, "RUN005", "more than its limit of 601 MB, and was ended"),
}
FAMILIES = [
    *((fault, "ollama") for fault in (*LOADS, *FAILURES)),
    *((fault, family) for fault in ("exits", "kill") for family in ("openai", "anthropic")),
    ("mute", "anthropic"),
]
"""Every fault in one dialect; in the others one before and one after the first word, and what has a type of its own."""


class Said(NamedTuple):
    """The answer to a client: the status, the message and code of the error, and the whole body."""

    status: int
    message: str
    code: str
    text: str


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("answers")
    phoenix = {"fault_spawns": 1, "spawn_log": str(folder / "spawns")}
    started = Daemon(
        folder,
        fakes={
            "parrot": {"rate": 50},
            "other": {},
            "phoenix": phoenix,
            **{name: row[0] for name, row in LOADS.items()},
        },
        settings={
            "plugins": {"fake": {"weights": 60_000_000}},
            "memory": {"limit": "1GiB", "prompt_cache": 0},
            "runners": {"load_timeout": 10, "hang_timeout": 4},
            "server": {"first_byte": 600},  # a stream that has begun has its status already
        },
    )
    try:
        yield started.start()
    finally:
        code = started.stop()
    assert code == 0
    if "Traceback" in started.log_text:
        at = started.log_text.index("Traceback")
        raise AssertionError(started.log_text[max(0, at - 300) : at + 3000])
    assert not list((started.state / "runners").glob("*"))
    assert not list(started.state.rglob("*.sock"))


@pytest.fixture(autouse=True)
def unharmed(server: Daemon) -> Iterator[None]:
    """After each fault other models answer, and there are no more processes, and no more memory held, than is shown."""
    assert said(server, "ollama", "other", "hello").status == 200
    yield
    assert said(server, "ollama", "other", "hello").status == 200
    assert server.get("/readyz").status_code == 200
    wait_until(lambda: runners(server) == shown(server), because="the listed runners are the running ones")
    for model in ("parrot", *LOADS):
        server.post("/api/generate", {"model": model, "keep_alive": 0})  # it goes, and that it failed is forgotten
    wait_until(lambda: len(shown(server)) <= 2)


def runners(server: Daemon) -> set[int]:
    """Return the ids of the daemon's runners, as the system has them, without those that have exited."""
    commands = {child.pid: command(child) for child in processes_of(server)}
    return {pid for pid, words in commands.items() if words and not any("guardian.py" in word for word in words)}


def shown(server: Daemon) -> set[int]:
    """Return the ids of the runners that the daemon lists."""
    return {model["pid"] for model in server.loaded()}


def pid_of_parrot(server: Daemon) -> int:
    (pid,) = [model["pid"] for model in server.loaded() if model["name"] == "parrot:latest"]
    return int(pid)


def said(server: Daemon, family: str, model: str, words: str, *, stream: bool = False) -> Said:
    body = {"model": model, "messages": user(words), "stream": stream, "max_tokens": 900}
    name = f"answer-{len(server.log_text)}"
    answer = server.post(ROUTES[family], body, headers={"X-Request-ID": name})
    assert answer.headers["x-request-id"] == name
    line = rf"POST {ROUTES[family]} {answer.status_code} .*request={name}$"
    wait_until(lambda: re.search(line, server.log_text, re.MULTILINE), because="one line of its own")
    assert "Traceback" not in answer.text
    last = answer.text.strip().splitlines()[-1].removeprefix("data: ")
    record = {} if last == "[DONE]" else json.loads(last)
    error = {**record, "message": record.get("error", "")} if family == "ollama" else record.get("error") or {}
    return Said(answer.status_code, error.get("message", ""), error.get("code") or "", answer.text)


@pytest.mark.fault(1)
@pytest.mark.fault(2)
@pytest.mark.fault(3)
@pytest.mark.fault(8)
@pytest.mark.fault(15)
@pytest.mark.finding("RUN008")
@pytest.mark.parametrize(("model", "family"), [case for case in FAMILIES if case[0] in LOADS])
def test_a_load_that_fails_is_a_status_with_the_cause_in_every_dialect(server: Daemon, model: str, family: str) -> None:
    _, status, code, words = LOADS[model]
    told = said(server, family, model, "hello", stream=True)
    assert told.status == status
    assert words in told.message
    assert told.code == ("" if family == "anthropic" else code)
    (failed,) = [one for one in server.get("/api/daemon").json()["runners"] if one["name"] == model]
    assert (failed["state"], failed["pid"], failed["code"], failed["reserved"]) == ("failed", None, code, 0)


@pytest.mark.fault(6)
@pytest.mark.fault(7)
@pytest.mark.fault(9)
@pytest.mark.fault(10)
@pytest.mark.fault(11)
@pytest.mark.fault(16)
@pytest.mark.finding("RUN005")
@pytest.mark.parametrize(("fault", "family"), [case for case in FAMILIES if case[0] in FAILURES])
def test_a_failure_in_mid_answer_is_the_last_record_of_a_stream_and_a_status_otherwise(
    server: Daemon, fault: str, family: str
) -> None:
    assert said(server, family, "parrot", "hello").status == 200
    before = pid_of_parrot(server)
    status, code, words = FAILURES[fault]
    for stream in (True, False) if family == "ollama" else (True,):
        told = said(server, family, "parrot", f"one two three fake:fault={fault}@2 " + "word " * 800, stream=stream)
        assert told.status == (200 if stream else status)
        assert words in told.message
        assert told.code == ("" if family == "anthropic" else code)
        assert ("one" in told.text) is stream
        assert "[DONE]" not in told.text
        assert not re.search(r'"done":true|"finish_reason":"|message_stop', told.text), (
            "no end that looks like a success"
        )
    assert said(server, family, "parrot", "hello").status == 200
    assert (pid_of_parrot(server) == before) is (fault in ("eof", "halfline")), (
        "a runner that exits or breaks the protocol is replaced"
    )


@pytest.mark.fault(5)
@pytest.mark.parametrize(
    ("family", "fault"),
    [
        ("ollama", "kill@prefill"),
        ("openai", "kill@prefill"),
        ("anthropic", "signal:term@prefill fake:prefill=5 fake:prefill_ms=100"),
    ],
)
def test_an_exit_before_the_first_word_is_not_seen(server: Daemon, family: str, fault: str) -> None:
    (server.folder / "spawns").unlink(missing_ok=True)
    told = said(server, family, "phoenix", f"hi fake:fault={fault} there", stream=True)
    assert (told.status, told.message) == (200, "")
    assert "hi" in told.text
    assert len((server.folder / "spawns").read_text().splitlines()) == 2
    server.post("/api/generate", {"model": "phoenix", "keep_alive": 0})


@pytest.mark.fault(12)
@pytest.mark.finding("RUN006")
def test_a_crash_loop_ends_with_the_cause_and_the_time_of_the_next_try(server: Daemon) -> None:
    for _ in range(3):
        assert said(server, "ollama", "exits", "hello").status == 500
    for family, path in ROUTES.items():
        while (told := said(server, family, "exits", "hello")).status == 500:
            pass  # the pause was over: the model was tried again, and the next pause is longer
        assert (told.status, told.code) == (503, "" if family == "anthropic" else "RUN006")
        assert re.search(r"exits:latest failed \d+ times before it answered a request; it is tried again", told.message)
        assert "exit status 1 while loading: fake: exiting as told" in told.message
        body = {"model": "exits", "messages": user("x"), "max_tokens": 9}
        while (refused := server.post(path, body)).status_code == 500:
            pass
        assert 1 <= int(refused.headers["Retry-After"]) <= 30
    assert said(server, "ollama", "other", "hello").status == 200
    assert server.cli("stop", "exits").returncode == 0
    assert said(server, "ollama", "exits", "hello").status == 500, "it is tried again"
