"""A model over several ranks: the daemon sees one runner, which answers and ends as one.

The ranks are on this machine, or on three hosts: network namespaces with a remote shell, which share this machine's
files.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.engine_requests import collect, plain, running
from tests.random_models import LLAMA, byte_model, greedy

from ollmlx import Backend, LaunchOptions, RunnerCommand
from ollmlx.plugin.loader import load_plugins
from ollmlx.protocol import ExitCode
from ollmlx.settings import Settings
from ollmlx.testing import BackendSuite, fake_model
from ollmlx.testing.child import RunnerProcess
from ollmlx.testing.waiting import eventually
from ollmlx.types import Done, GenerateRequest, InstalledModel, Options, Text
from ollmlx_cluster.backend import cluster_command
from ollmlx_mlx.engine.engine import MlxEngine

pytestmark = [pytest.mark.mlx, pytest.mark.slow]
SHELL = Path(__file__).parents[1] / "servers" / "remote_shell.py"
SILENCE = 12
"""Seconds after which a rank counts as lost in these tests; ranks write once a second."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_model(tmp_path_factory.mktemp("cluster") / "tiny", LLAMA)


@cache
def registered() -> Backend:
    """As the daemon has it."""
    backend = load_plugins(Settings()).registry.backends.get("cluster")
    assert backend is not None
    return backend


class TestClusterBackend(BackendSuite):
    context_length = 256
    structured = False
    logprobs = False
    excused = {
        "test_a_termination_signal_in_the_middle_of_an_answer_ends_both_cleanly": "the launcher ends at once, and its "
        "ranks with it: only /v1/shutdown ends the answer first"
    }

    def make_backend(self) -> Backend:
        return registered()

    def make_model(self, folder: Path) -> InstalledModel:
        byte_model(folder / "tiny", LLAMA)
        return fake_model("tiny", format="mlx", path=folder / "tiny", capabilities=("completion",))

    def make_launch(self) -> LaunchOptions:
        return LaunchOptions(context_length=self.context_length, cluster={"hosts": ["localhost", "localhost"]})


def group(folder: Path, *more: str, hosts: tuple[str, ...] = ("localhost", "localhost")) -> RunnerProcess:
    alone = RunnerCommand(argv=("unused",), engine_options={"weights": "float32"})
    command = cluster_command(alone, {"hosts": hosts})
    command = command.model_copy(update={"argv": (*command.argv, *more)})
    model = fake_model("tiny", format="mlx", path=folder)
    return RunnerProcess(command, model, options=LaunchOptions(context_length=32768))


def family(runner: RunnerProcess) -> list[psutil.Process]:
    return psutil.Process(runner.process.pid).children(recursive=True)


def ranks(runner: RunnerProcess) -> list[psutil.Process]:
    return [process for process in family(runner) if process.cmdline()[2:4] == ["-m", "ollmlx_cluster.rank"]]


async def gone(processes: list[psutil.Process]) -> None:
    def ended(process: psutil.Process) -> bool:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE

    await eventually(lambda: all(map(ended, processes)), SILENCE + 60, because="no rank is left")


def text(events: list[Any]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


@pytest.mark.model
async def test_three_ranks_of_a_real_model_answer_as_one_and_end_on_request(smollm2: Path) -> None:
    async with group(smollm2, hosts=("localhost",) * 3) as runner:
        await runner.ready(120)
        assert len(ranks(runner)) == 3
        answer = await runner.ask("The capital of France is", options=Options(temperature=0, num_predict=1))
        assert text(answer) == " Paris"
        all_processes = family(runner)
        await runner.post("/v1/shutdown")
        assert await runner.exit_code() == ExitCode.ASKED
        await gone(all_processes)
        assert "lost" not in runner.error_text


async def test_the_answer_is_that_of_one_process_until_a_rank_hangs_and_is_named(folder: Path) -> None:
    async with group(folder, "--silence", str(SILENCE)) as runner:
        await runner.ready(120)
        asked = GenerateRequest(prompt="a cluster of two", options=Options(temperature=0, num_predict=12))
        events = await runner.generate(asked)
        done = events[-1]
        assert isinstance(done, Done)
        assert list(done.context) == greedy(folder, "a cluster of two", 12)
        assert done.generated_tokens == 12
        seeded = plain("a cluster of two", {"temperature": 0.9, "seed": 5, "typical_p": 0.9})
        async with running(MlxEngine(), folder) as engine:
            alone = await collect(engine, seeded)
        drawn = (await runner.generate(seeded))[-1]
        assert isinstance(drawn, Done)
        assert drawn.context == alone.done.context

        long = GenerateRequest(prompt="x" * 200, options=Options(temperature=0, num_predict=50))
        async with runner.stream(long) as given_up:
            await given_up.content.readline()
        assert text(await runner.generate(asked)) == text(events)

        all_processes = family(runner)
        stopped = next(rank for rank in ranks(runner) if rank.environ()["MLX_RANK"] == "1")
        stopped.suspend()
        assert await runner.exit_code(SILENCE + 60) == ExitCode.INTERNAL
        assert runner.error_text.splitlines()[-1] == f"rank 1 on localhost has been silent for {SILENCE} s"
        await gone(all_processes)


class NearlyIdle:
    """Returns whether processes have computed next to nothing for a second."""

    def __init__(self, processes: list[psutil.Process]) -> None:
        self._processes = processes
        self._since, self._computed = time.monotonic(), self._all()

    def _all(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in self._processes)

    def __call__(self) -> bool:
        now = time.monotonic()
        if now - self._since < 1:
            return False
        computed, self._computed, since, self._since = self._computed, self._all(), self._since, now
        return self._computed - computed < 0.05 * (now - since)


async def test_an_idle_group_sleeps_and_answers_and_ends_as_one_that_is_awake(folder: Path) -> None:
    async with group(folder) as runner:
        await runner.ready(120)
        all_processes = family(runner)
        asked = GenerateRequest(prompt="hello", options=Options(temperature=0, num_predict=5))
        first = await runner.generate(asked)
        await eventually(NearlyIdle(ranks(runner)), because="no rank waits inside MLX")
        assert text(await runner.generate(asked)) == text(first)
        assert text(await runner.generate(asked)) == text(first)
        await eventually(NearlyIdle(ranks(runner)), because="it sleeps again")
        await runner.post("/v1/shutdown")
        assert await runner.exit_code() == ExitCode.ASKED
        await gone(all_processes)
        assert "lost" not in runner.error_text


async def test_ranks_end_when_they_get_no_more_lines(folder: Path) -> None:
    async with group(folder, "--silence", str(SILENCE)) as runner:
        await runner.ready(120)
        all_processes = ranks(runner)
        for process in (psutil.Process(runner.process.pid), *family(runner)):
            if process not in all_processes:
                process.suspend()  # as if the network to the ranks were cut: nothing is closed
        await gone(all_processes)


@dataclass
class Network:
    """Hosts besides this one. `ssh`: the folder of a program of that name that reaches them."""

    addresses: list[str]
    cables: dict[str, str]
    ssh: Path

    def cut(self, address: str) -> None:
        """Pull the cable: nothing is closed, nothing arrives."""
        ip("link", "set", self.cables[address], "down")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """Two more hosts on one wire. Skips where network namespaces cannot be made."""
    if sys.platform != "linux" or shutil.which("ip") is None:
        pytest.skip("network namespaces need Linux and the command ip")
    mine, subnet = f"olx{os.getpid()}", f"198.18.{os.getpid() % 256}"
    with ExitStack() as undo:
        try:
            ip("link", "add", mine, "type", "bridge")
            undo.callback(ip, "link", "del", mine)
            ip("addr", "add", f"{subnet}.1/24", "dev", mine)
            ip("link", "set", mine, "up")
            made = Network([], {}, tmp_path_factory.mktemp("ssh"))
            for number in (2, 3):
                address, space, cable = f"{subnet}.{number}", f"{mine}n{number}", f"{mine}v{number}"
                ip("netns", "add", space)
                undo.callback(ip, "netns", "del", space)
                ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
                ip("link", "set", cable, "master", mine, "up")
                ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
                ip("-n", space, "link", "set", "eth0", "up")
                ip("-n", space, "link", "set", "lo", "up")
                undo.enter_context(remote_shell(space, address))
                made.addresses.append(address)
                made.cables[address] = cable
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces are not allowed here: {error.stderr.strip()}")
        program = made.ssh / "ssh"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -I {SHELL} call "$@"\n', encoding="utf-8")
        program.chmod(0o755)
        yield made


@contextmanager
def remote_shell(space: str, address: str) -> Iterator[None]:
    argv = ["ip", "netns", "exec", space, sys.executable, "-I", str(SHELL), "serve", address]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def numbered(runner: RunnerProcess) -> dict[int, psutil.Process]:
    """The ranks of this group on whatever host, by number."""
    ours = [process.cmdline() for process in family(runner)]
    path = next(words[words.index("--socket") + 1] for words in ours if "--socket" in words)
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = process.cmdline()
            if words[2:4] == ["-m", "ollmlx_cluster.rank"] and path in words:
                found[int(process.environ()["MLX_RANK"])] = process
    return found


async def test_three_hosts_answer_as_one_and_no_rank_outlives_the_daemon_on_any(
    network: Network, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{network.ssh}:{os.environ['PATH']}")
    async with group(folder, "--silence", str(SILENCE), hosts=("localhost", *network.addresses)) as runner:
        await runner.ready(120)
        request = GenerateRequest(prompt="a cluster of three", options=Options(temperature=0, num_predict=12))
        done = (await runner.generate(request))[-1]
        assert isinstance(done, Done)
        assert list(done.context) == greedy(folder, "a cluster of three", 12)

        everywhere = numbered(runner)
        assert set(everywhere) == {0, 1, 2}
        assert len({Path(f"/proc/{rank.pid}/ns/net").readlink() for rank in everywhere.values()}) == 3

        # What the guardian does when the daemon was killed, while one host cannot even be told.
        network.cut(network.addresses[1])
        os.killpg(runner.process.pid, signal.SIGKILL)
        await gone(list(everywhere.values()))
