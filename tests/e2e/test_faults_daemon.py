"""The fault matrix, part B: runners and pulls whose daemon is killed, suspended, starved of descriptors, or doubled."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import httpx2
import psutil
import pytest
from tests.conftest import StartDaemon
from tests.e2e.helpers import all_gone, asking, command, family, gone

import ollmlx.supervisor
from ollmlx.supervisor.process.guardian import boot_id, process_start
from ollmlx.supervisor.process.state_folder import NONCE, RunnerRecord, RunnerRecords
from ollmlx.supervisor.scheduling.queue import QUEUE_FULL
from ollmlx.testing import wait_until
from ollmlx.testing.daemon import Daemon
from ollmlx.testing.waiting import HANG_GUARD

pytestmark = pytest.mark.e2e


def runners(server: Daemon) -> list[psutil.Process]:
    return [child for child in family(server) if "ollmlx.runner" in command(child)]


def guardian(server: Daemon) -> psutil.Process:
    return next(child for child in family(server) if any("guardian.py" in word for word in command(child)))


PHASES = {
    "loading": ({"load_steps": 100_000, "load_ms": 50}, "a"),
    "streaming": ({"rate": 20, "tokens": 100_000}, "a"),
    "interpreter lock held": ({"rate": 50, "tokens": 100_000}, "fake:fault=gil@3 a"),
    "ignoring TERM": ({"rate": 20, "tokens": 100_000, "ignore_term": True, "children": 1}, "a"),
}


@pytest.mark.fault(19)
@pytest.mark.parametrize("phase", PHASES)
def test_no_runner_outlives_a_killed_daemon(daemon: StartDaemon, phase: str) -> None:
    script, prompt = PHASES[phase]
    server = daemon(fakes={"parrot": script})
    with asking(server, "parrot", prompt) as arrived:
        wait_until(lambda: runners(server))
        if phase != "loading":
            wait_until(lambda: arrived)
        if "fault=gil" in prompt:
            wait_until(lambda: "holding the interpreter lock" in server.log_text)
        processes = family(server)
        server.kill()
        all_gone(processes)


@pytest.fixture
def idle(daemon: StartDaemon) -> Daemon:
    """Return a daemon with an idle runner."""
    server = daemon()
    assert server.post("/api/generate", {"model": "parrot", "prompt": "x", "stream": False}).status_code == 200
    return server


@pytest.mark.fault(19)
def test_an_idle_runner_does_not_outlive_a_killed_daemon_and_the_next_one_starts_clean(idle: Daemon) -> None:
    processes = family(idle)
    idle.kill()
    all_gone(processes)
    idle.start()
    assert idle.post("/api/generate", {"model": "parrot", "prompt": "x", "stream": False}).status_code == 200


@pytest.mark.fault(20)
@pytest.mark.skipif(sys.platform != "linux", reason="without a guardian macOS relies on the records")
def test_runners_end_when_daemon_and_guardian_are_killed_together(idle: Daemon) -> None:
    processes = family(idle)
    guardian(idle).kill()
    idle.kill()
    all_gone(processes)


@pytest.mark.fault(20)
def test_a_killed_guardian_is_replaced_and_still_guards(idle: Daemon) -> None:
    guardian(idle).kill()
    wait_until(lambda: "guardian exited" in idle.log_text)
    wait_until(lambda: any("guardian.py" in word for child in family(idle) for word in command(child)))
    processes = family(idle)
    idle.kill()
    all_gone(processes)


def sleeper(nonce: str) -> subprocess.Popen[bytes]:
    """Start a process that looks like an orphaned runner of an earlier daemon."""
    made = subprocess.Popen(["sleep", "600"], env={**os.environ, NONCE: nonce}, start_new_session=True)
    wait_until(lambda: psutil.Process(made.pid).environ().get(NONCE))  # Linux shows it a moment after the program runs
    return made


@pytest.mark.fault(20)
async def test_the_next_daemon_ends_the_runners_of_an_earlier_one(tmp_path: Path) -> None:
    left = sleeper("abc")
    records = RunnerRecords(tmp_path / "runners")
    records.write(RunnerRecord("parrot#1", left.pid, process_start(left.pid) or "", boot_id(), "abc"))
    assert await records.end_orphans() == 1
    assert left.wait(HANG_GUARD) == -signal.SIGTERM
    assert not list((tmp_path / "runners").iterdir())


@pytest.mark.fault(21)
@pytest.mark.parametrize("wrong", ["started", "boot", "nonce"])
async def test_a_program_under_a_reused_process_id_is_not_killed(tmp_path: Path, wrong: str) -> None:
    other = sleeper("abc")
    true = {"started": process_start(other.pid) or "", "boot": boot_id(), "nonce": "abc"}
    records = RunnerRecords(tmp_path / "runners")
    records.write(RunnerRecord("parrot#1", other.pid, **{**true, wrong: "something else"}))
    assert await records.end_orphans() == 0
    assert other.poll() is None
    other.kill()
    other.wait()


@pytest.mark.fault(21)
async def test_a_record_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "1.json").write_text("{", encoding="utf-8")
    assert await RunnerRecords(tmp_path).end_orphans() == 0
    assert not list(tmp_path.iterdir())


@pytest.fixture
def silent_index() -> Iterator[str]:
    """Return the address of a package index that takes connections and sends nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/simple"


def started_pull(server: Daemon) -> tuple[threading.Thread, psutil.Process]:
    """Begin a pull in a thread, and return the thread and pip's process once it runs."""

    def pull() -> None:
        with suppress(httpx2.HTTPError):  # the daemon is killed
            server.post("/api/pull", {"model": "smollm2:135m"})

    asking = threading.Thread(target=pull)
    asking.start()
    (pip,) = wait_until(lambda: [child for child in family(server) if "pip" in command(child)])
    return asking, pip


def test_pip_ends_with_a_killed_daemon_and_the_next_pull_clears_its_folder(
    daemon: StartDaemon, silent_index: str
) -> None:
    environment = {"PIP_INDEX_URL": silent_index, "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0"}
    server = daemon(fakes=None, env=environment)
    staged = server.folder / ".cache" / "ollmlx" / "packages"
    asking, pip = started_pull(server)
    server.kill()
    asking.join(120)
    all_gone([pip])
    (abandoned,) = staged.glob(".download-*")

    server.start()
    asking, _ = started_pull(server)
    assert not abandoned.exists()
    assert server.stop() == 0
    asking.join(120)


@pytest.mark.fault(22)
@pytest.mark.fault(23)
@pytest.mark.finding("NET001", "NET002")
@pytest.mark.parametrize("shared", ["state", "port"])
def test_a_second_daemon_on_the_same_state_or_port_names_the_first_and_starts_nothing(
    daemon: StartDaemon, tmp_path: Path, shared: str
) -> None:
    first = daemon()
    same: dict[str, Any] = {"storage": {"state": str(first.state)}, "server": {"host": first.address}}
    section = "storage" if shared == "state" else "server"
    second = Daemon(tmp_path / "second", fakes={"parrot": {}}, settings={section: same[section]})
    second.launch()
    assert second.process.wait(HANG_GUARD) == 1
    pid = first.process.pid
    sentence = f"already running (pid {pid})" if shared == "state" else f"{first.address} is in use by another ollmlx"
    assert sentence in second.log_text
    assert f"--explain {'NET002' if shared == 'state' else 'NET001'}" in second.log_text
    assert "Traceback" not in second.log_text
    assert not list(second.state.glob("runners/*"))
    assert first.get("/livez").status_code == 200


@pytest.mark.fault(24)
def test_no_decision_of_the_supervisor_reads_the_wall_clock() -> None:
    sources = {file.name: file.read_text() for file in Path(ollmlx.supervisor.__file__).parent.rglob("*.py")}
    readers = {name for name, text in sources.items() if "time.time(" in text or "now(UTC)" in text}
    assert readers == {"clock.py"}
    wall = [name for name, text in sources.items() if "clock.now()" in text]
    assert wall == ["pool_entry.py"]  # expires_at and started_at, for people


@pytest.mark.fault(25)
@pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit")
def test_the_daemon_recovers_from_a_lack_of_descriptors(daemon: StartDaemon) -> None:
    server = daemon()
    pid = server.process.pid
    body = {"model": "parrot", "prompt": "x", "stream": False}
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    with httpx2.Client(timeout=HANG_GUARD) as client:
        assert client.get(f"{server.url}/livez").status_code == 200
        used = psutil.Process(pid).num_fds()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 2, before[1]))
        starved = client.post(f"{server.url}/api/generate", json=body)
        assert starved.status_code == 503
        assert "cannot start a runner" in starved.json()["error"]
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        assert client.post(f"{server.url}/api/generate", json=body).json()["response"] == "x"
    wait_until(lambda: len(runners(server)) == 1)


@pytest.mark.fault(26)
def test_a_daemon_that_was_suspended_does_not_kill_healthy_runners(daemon: StartDaemon) -> None:
    settings = {"runners": {"hang_timeout": 4}}
    server = daemon(fakes={"parrot": {"rate": 20, "tokens": 140}}, settings=settings)
    with asking(server, "parrot") as arrived:
        runner = wait_until(lambda: runners(server))[0]
        wait_until(lambda: "is ready after" in server.log_text)
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(5)
        server.process.send_signal(signal.SIGCONT)
    assert '"done":true' in arrived[-1]
    assert not gone(runner)


@pytest.mark.fault(41)
async def test_a_crowd_is_served_or_refused_at_once_and_the_daemon_stays_awake(daemon: StartDaemon) -> None:
    fakes = {"parrot": {"rate": 40, "tokens": 20, "parallel": 8}}
    server = daemon(fakes=fakes, settings={"runners": {"max_queue": 40}})
    answered_meanwhile = 0
    async with aiohttp.ClientSession(server.url, connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask() -> tuple[int, str, str | None]:
            body = {"model": "parrot", "prompt": "x", "stream": False}
            async with session.post("/api/generate", json=body) as answer:
                return answer.status, await answer.text(), answer.headers.get("Retry-After")

        await ask()
        crowd = asyncio.gather(*(ask() for _ in range(300)))
        async with session.post("/api/show", json={"model": "parrot"}) as shown:
            assert shown.status == 200, "it needs no runner"
        while not crowd.done():
            async with session.get("/livez") as answer:
                assert answer.status == 200
            answered_meanwhile += 1
        answers = await crowd
    served = [text for status, text, _ in answers if status == 200]
    assert {status for status, _, _ in answers} == {200, 503}
    assert len(served) >= 40 + 8
    assert all('"done":true' in text for text in served)
    assert all(QUEUE_FULL in text and int(after or 0) >= 1 for status, text, after in answers if status == 503)
    assert answered_meanwhile > 1
