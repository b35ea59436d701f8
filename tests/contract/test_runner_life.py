"""The start and the end of a runner: exit codes, the last line of its output, the end of its parent."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from ollmlx.errors import Busy
from ollmlx.plugin.contracts import RunnerCommand
from ollmlx.protocol import ExitCode
from ollmlx.testing import RunnerProcess, eventually, fake_model, fake_runner
from ollmlx.types import Failed, GenerateRequest

FAKE = "ollmlx.testing.fake:FakeEngine"


async def test_the_socket_answers_while_the_model_loads() -> None:
    async with fake_runner(load_steps=100_000, load_ms=50) as runner:
        status = await eventually(runner.status)
        assert status.state == "loading"
        with pytest.raises(Busy, match="loading"):
            await runner.ask("too early")
        await eventually(lambda: _progressed(runner, status.progress), because="progress grows with each load step")


async def _progressed(runner: RunnerProcess, since: int) -> bool:
    status = await runner.status()
    return status.progress > since and 0 < status.load_fraction < 1


@pytest.mark.parametrize(
    ("load_fault", "code", "message"),
    [
        ("bad_model", ExitCode.BAD_MODEL, r"bad model: .*safetensors is damaged \(ollmlx pull it again\) \[MDL003\]"),
        ("no_memory", ExitCode.OUT_OF_MEMORY, "out of memory: fake: needs 999 GiB"),
        ("bug:oops", ExitCode.INTERNAL, "cannot load the model: RuntimeError: oops"),
        ("error:upstream", ExitCode.INTERNAL, "cannot load the model: fake: told to fail"),
        ("nonsense", ExitCode.BAD_MODEL, "bad model: there is no fault 'nonsense'"),
        ("exit:1", 1, "exiting as told"),
    ],
)
@pytest.mark.fault(1)
@pytest.mark.fault(2)
async def test_a_failed_load_ends_with_its_cause(load_fault: str, code: int, message: str) -> None:
    async with fake_runner(load_fault=load_fault) as runner:
        assert await runner.exit_code() == code
        assert re.search(message, runner.error_text.strip().splitlines()[-1]), runner.error_text


@pytest.mark.parametrize(
    ("arguments", "line", "code", "message"),
    [
        (["ollmlx_no_such:Engine", "--fd", "{fd}"], None, ExitCode.USAGE, "ollmlx_no_such"),
        ([FAKE, "--fd", "77"], None, ExitCode.USAGE, "not an open socket"),
        ([FAKE, "--fd", "0"], None, ExitCode.USAGE, "not an open socket"),
        ([FAKE], None, ExitCode.USAGE, "--fd"),
        ([FAKE, "--fd", "{fd}"], b"not json\n", ExitCode.USAGE, "not JSON"),
        ([FAKE, "--fd", "{fd}"], b'{"protocol": 1, "runner": "x"}\n', ExitCode.USAGE, "not valid: token"),
        ([FAKE, "--fd", "{fd}"], b'{"protocol": 2, "later": true}\n', ExitCode.PROTOCOL, "speaks Runner Protocol 2"),
        ([FAKE, "--fd", "{fd}", "--parent", "1"], None, ExitCode.PARENT_GONE, ""),
    ],
)
async def test_a_runner_that_cannot_start_exits_with_the_reason(
    arguments: list[str], line: bytes | None, code: int, message: str
) -> None:
    argv = (sys.executable, "-P", "-m", "ollmlx.runner", "--engine", *arguments)
    runner = RunnerProcess(RunnerCommand(argv=argv), fake_model())
    runner.first_line = line or runner.first_line
    async with runner:
        assert await runner.exit_code() == code
        assert message in runner.error_text


@pytest.mark.parametrize("phase", ["loading", "idle", "generating"])
async def test_it_ends_when_standard_input_ends(phase: str) -> None:
    async with (
        fake_runner(load_steps=100_000 if phase == "loading" else 0, load_ms=50) as runner,
        AsyncExitStack() as end,
    ):
        await (eventually(runner.status) if phase == "loading" else runner.ready())
        if phase == "generating":
            request = GenerateRequest(prompt="fake:rate=20 fake:tokens=100000 a")
            answer = await end.enter_async_context(runner.stream(request))
            await answer.content.readline()
        runner.close_stdin()
        assert await runner.exit_code() == ExitCode.PARENT_GONE


@pytest.mark.parametrize("how", ["SIGTERM", "shutdown"])
async def test_a_stop_request_ends_streams_with_an_error_event_and_exits_0(how: str) -> None:
    async with fake_runner(rate=5) as runner:
        await runner.ready()
        async with runner.stream(GenerateRequest(prompt="fake:tokens=100000 a")) as answer:
            await answer.content.readline()
            if how == "SIGTERM":
                runner.process.send_signal(signal.SIGTERM)
            else:
                assert b'"closing"' in await runner.post("/v1/shutdown")
            lines = (await answer.read()).splitlines()
        assert Failed.model_validate_json(lines[-1]).message == "the runner is closing"
        assert await runner.exit_code() == ExitCode.ASKED


@pytest.mark.fault(7)
async def test_a_crash_leaves_the_stack_on_standard_error() -> None:
    async with fake_runner() as runner:
        await runner.ready()
        async with runner.stream(GenerateRequest(prompt="fake:fault=segv@1 a b")) as answer:
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()
        assert await runner.exit_code() == -signal.SIGSEGV
        assert "Fatal Python error: Segmentation fault" in runner.error_text
        assert "_segv" in runner.error_text


@pytest.mark.fault(9)
async def test_an_abort_writes_the_stack_even_while_native_code_holds_the_interpreter() -> None:
    async with fake_runner(fault="gil@1") as runner:
        await runner.ready()
        async with runner.stream(GenerateRequest(prompt="a b")) as answer:
            await answer.content.readline()
            await eventually(lambda: "holding the interpreter lock" in runner.error_text)
            os.kill(runner.process.pid, signal.SIGABRT)
            assert await runner.exit_code() == -signal.SIGABRT
        assert "_hold_interpreter_lock" in runner.error_text


async def test_a_term_that_is_ignored_still_leaves_the_shutdown_route() -> None:
    async with fake_runner(ignore_term=True) as runner:
        await runner.ready()
        runner.process.send_signal(signal.SIGTERM)
        assert (await runner.status()).state == "ready"
        await runner.post("/v1/shutdown")
        assert await runner.exit_code() == ExitCode.ASKED


def test_closing_that_takes_too_long_ends_the_process() -> None:
    program = "import time; from ollmlx.runner.server import exit_after; exit_after(0.05); time.sleep(60)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (ExitCode.INTERNAL, b"closing took too long\n")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_it_writes_no_core_dump_and_the_kernel_kills_it_first_for_memory() -> None:
    async with fake_runner() as runner:
        await runner.ready()
        proc = Path("/proc") / str(runner.process.pid)
        limits = (proc / "limits").read_text(encoding="ascii")
        assert [line.split()[4:6] for line in limits.splitlines() if "core file" in line] == [["0", "0"]]
        assert int((proc / "oom_score_adj").read_text(encoding="ascii")) == 500
