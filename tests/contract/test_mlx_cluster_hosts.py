"""A model over three hosts: network namespaces, each with a remote shell, that share this machine's files."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from tests.byte_model import LLAMA, greedy, write_model

from ollmlx import LaunchOptions, RunnerCommand
from ollmlx.testing import fake_model
from ollmlx.testing.child import RunnerProcess
from ollmlx.testing.waiting import eventually
from ollmlx.types import Done, GenerateRequest, Options
from ollmlx_cluster.backend import cluster_command

pytestmark = [pytest.mark.mlx, pytest.mark.slow]
SHELL = Path(__file__).parents[1] / "servers" / "remote_shell.py"
SILENCE = 12


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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("cluster") / "tiny", LLAMA)


def ranks(runner: RunnerProcess) -> dict[int, psutil.Process]:
    """The ranks of this group on whatever host, by number."""
    launcher = psutil.Process(runner.process.pid)
    ours = [process.cmdline() for process in launcher.children(recursive=True)]
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
    alone = RunnerCommand(argv=("unused",), engine_options={"weights": "float32"})
    command = cluster_command(alone, {"hosts": ["localhost", *network.addresses]})
    command = command.model_copy(update={"argv": (*command.argv, "--silence", str(SILENCE))})
    model = fake_model("tiny").model_copy(update={"format": "mlx", "path": folder})
    async with RunnerProcess(command, model, options=LaunchOptions(context_length=4096)) as runner:
        await runner.ready(120)
        request = GenerateRequest(prompt="a cluster of three", options=Options(temperature=0, num_predict=12))
        done = (await runner.generate(request))[-1]
        assert isinstance(done, Done)
        assert list(done.context) == greedy(folder, "a cluster of three", 12)

        group = ranks(runner)
        assert set(group) == {0, 1, 2}
        assert len({Path(f"/proc/{rank.pid}/ns/net").readlink() for rank in group.values()}) == 3

        # What the guardian does when the daemon was killed, while one host cannot even be told.
        network.cut(network.addresses[1])
        os.killpg(runner.process.pid, signal.SIGKILL)
        await eventually(lambda: not any(map(_alive, group.values())), SILENCE + 60, because="no rank is left")


def _alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
