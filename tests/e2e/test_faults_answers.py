"""The fault matrix as clients see it: what a daemon answers in each dialect, streamed and whole, and what is left."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import psutil
import pytest
from tests.e2e.helpers import family as processes_of
from tests.e2e.helpers import user

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
DEATHS: dict[str, tuple[int, str, str]] = {
    "kill": (500, "RUN002", "was killed by SIGKILL"),
    "segv": (500, "RUN002", "was killed by SIGSEGV (a crash in native code): Fatal Python error: Segmentation fault"),
    "hang": (504, "RUN004", "made no progress for "),
    "eof": (500, "RUN002", "failed: it ended the answer without finishing it"),
    "garbage": (500, "RUN002", "broke the protocol: it sent something that is not an event"),
    "schema": (500, "RUN002", "broke the protocol: it sent something that is not an event"),
    "leak:800": (500, "RUN005", "more than its limit of 601 MB, and was ended"),
}
FAMILIES = [
    *((fault, "ollama") for fault in (*LOADS, *DEATHS)),
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
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
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
        },
    )
    try:
        yield started.start()
    finally:
        code = started.stop()
    assert code == 0
    assert "Traceback" not in started.log_text
    assert not list((started.state / "runners").glob("*"))
    assert not list(started.state.rglob("*.sock"))


@pytest.fixture(autouse=True)
def unharmed(house: Daemon) -> Iterator[None]:
    """After each fault other models answer, and there are no more processes, and no more memory held, than is shown."""
    assert said(house, "ollama", "other", "hello").status == 200
    yield
    assert said(house, "ollama", "other", "hello").status == 200
    assert house.get("/readyz").status_code == 200
    wait_until(lambda: runners(house) == shown(house), because=f"{runners(house)} run, {shown(house)} are shown")
    for model in ("parrot", *LOADS):
        house.post("/api/generate", {"model": model, "keep_alive": 0})  # it goes, and that it failed is forgotten
    wait_until(lambda: len(shown(house)) <= 2)


def runners(house: Daemon) -> set[int]:
    """The processes there are. One that has exited, or is just being reaped, does not count."""
    found = set()
    for child in processes_of(house):
        with suppress(psutil.NoSuchProcess):  # a zombie, too
            if not any("guardian.py" in word for word in child.cmdline()):
                found.add(child.pid)
    return found


def shown(house: Daemon) -> set[int]:
    """The processes that the daemon says there are."""
    return {model["pid"] for model in house.loaded()}


def pid_of_parrot(house: Daemon) -> int:
    (pid,) = [model["pid"] for model in house.loaded() if model["name"] == "parrot:latest"]
    return int(pid)


def said(house: Daemon, family: str, model: str, words: str, *, stream: bool = False) -> Said:
    body = {"model": model, "messages": user(words), "stream": stream, "max_tokens": 900}
    name = f"answer-{len(house.log_text)}"
    answer = house.post(ROUTES[family], body, headers={"X-Request-ID": name})
    assert answer.headers["x-request-id"] == name
    line = rf"POST {ROUTES[family]} {answer.status_code} .*request={name}$"
    wait_until(lambda: re.search(line, house.log_text, re.MULTILINE), because="one line of its own")
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
@pytest.mark.parametrize(("model", "family"), [case for case in FAMILIES if case[0] in LOADS])
def test_a_load_that_fails_is_a_status_with_the_cause_in_every_dialect(house: Daemon, model: str, family: str) -> None:
    _, status, code, words = LOADS[model]
    told = said(house, family, model, "hello", stream=True)
    assert told.status == status
    assert words in told.message
    assert told.code == ("" if family == "anthropic" else code)
    (failed,) = [one for one in house.get("/api/daemon").json()["runners"] if one["name"] == model]
    assert (failed["state"], failed["pid"], failed["code"], failed["reserved"]) == ("failed", None, code, 0)


@pytest.mark.fault(6)
@pytest.mark.fault(7)
@pytest.mark.fault(9)
@pytest.mark.fault(10)
@pytest.mark.fault(11)
@pytest.mark.fault(16)
@pytest.mark.finding("RUN005")
@pytest.mark.parametrize(("fault", "family"), [case for case in FAMILIES if case[0] in DEATHS])
def test_a_death_in_mid_answer_is_the_last_record_of_a_stream_and_a_status_otherwise(
    house: Daemon, fault: str, family: str
) -> None:
    assert said(house, family, "parrot", "hello").status == 200
    before = pid_of_parrot(house)
    status, code, words = DEATHS[fault]
    for stream in (True, False) if family == "ollama" else (True,):
        told = said(house, family, "parrot", f"one two three fake:fault={fault}@2 " + "word " * 800, stream=stream)
        assert told.status == (200 if stream else status)
        assert words in told.message
        assert told.code == ("" if family == "anthropic" else code)
        assert ("one" in told.text) is stream
        assert "[DONE]" not in told.text
        assert not re.search(r'"done":true|"finish_reason":"|message_stop', told.text), (
            "no end that looks like a success"
        )
    assert said(house, family, "parrot", "hello").status == 200
    assert (pid_of_parrot(house) == before) is (fault == "eof"), (
        "a runner that exits or breaks the protocol is replaced"
    )


@pytest.mark.fault(5)
@pytest.mark.parametrize("family", ROUTES)
def test_a_death_before_the_first_word_is_not_seen(house: Daemon, family: str) -> None:
    (house.folder / "spawns").unlink(missing_ok=True)
    told = said(house, family, "phoenix", "hi fake:fault=kill@prefill there", stream=True)
    assert (told.status, told.message) == (200, "")
    assert "hi" in told.text
    assert len((house.folder / "spawns").read_text().splitlines()) == 2
    house.post("/api/generate", {"model": "phoenix", "keep_alive": 0})


@pytest.mark.fault(12)
def test_a_crash_loop_ends_with_the_cause_and_when_to_come_again(house: Daemon) -> None:
    for _ in range(3):
        assert said(house, "ollama", "exits", "hello").status == 500
    for family, path in ROUTES.items():
        while (told := said(house, family, "exits", "hello")).status == 500:
            pass  # the pause was over: the model was tried again, and the next pause is longer
        assert told.status == 503
        assert re.search(r"exits:latest failed \d+ times before it answered a request; it is tried again", told.message)
        assert "exit status 1 while loading: fake: exiting as told" in told.message
        body = {"model": "exits", "messages": user("x"), "max_tokens": 9}
        while (refused := house.post(path, body)).status_code == 500:
            pass
        assert 1 <= int(refused.headers["Retry-After"]) <= 30
    assert said(house, "ollama", "other", "hello").status == 200
    assert house.cli("stop", "exits").returncode == 0
    assert said(house, "ollama", "exits", "hello").status == 500, "it is tried again"
