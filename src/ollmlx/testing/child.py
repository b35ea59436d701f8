"""A runner process under a test's control, used over the Runner Protocol as the daemon uses it.

It does without the supervisor, so that the result of a suite depends on the backend alone.
"""

from __future__ import annotations

import io
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from ollmlx.errors import from_kind
from ollmlx.plugin.contracts import LaunchOptions, RunnerCommand
from ollmlx.protocol import PROTOCOL_VERSION, Problem, Progress, RunnerConfig, decode_event
from ollmlx.testing.fake.store import fake_model
from ollmlx.testing.waiting import HANG_GUARD, eventually
from ollmlx.types import Event, Frozen, GenerateRequest, InstalledModel


def engine_command(engine: str, **engine_options: Any) -> RunnerCommand:
    """Return the usual command for an engine class, `package.module:Class`."""
    return RunnerCommand.of_engine(engine, **engine_options)


class RunnerProcess:
    """Starts a runner in `async with RunnerProcess(command, model) as runner`, and kills it at the end of the block.

    `error_text` is its standard error. The process can import all modules that the test can import.
    """

    def __init__(
        self, command: RunnerCommand, model: InstalledModel, *, options: LaunchOptions | None = None, **config: Any
    ) -> None:
        launch = options or LaunchOptions(context_length=4096)
        self.token = secrets.token_hex(16)
        self._command = command
        self.config = RunnerConfig(
            runner="test",
            token=self.token,
            model=model,
            **{
                "context_length": launch.context_length,
                "parallel": launch.parallel,
                "log_level": "debug",
                "engine_options": command.engine_options,
                **config,
            },
        )
        self.first_line = self.config.model_dump_json().encode() + b"\n"
        self.process: subprocess.Popen[bytes]
        self.http: aiohttp.ClientSession

    def start(self) -> None:
        """Start the process with its socket and configuration. `async with` does this, too."""
        folder = Path(tempfile.mkdtemp(prefix="olx-", dir="/tmp"))  # a socket's path must be short
        self.socket_path, self._stderr = folder / "r.sock", folder / "stderr"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.socket_path))
        listener.listen(128)
        with listener, self._stderr.open("wb") as errors:
            fd = listener.fileno()
            self.process = subprocess.Popen(
                [part.replace("{fd}", str(fd)) for part in self._command.argv],
                stdin=subprocess.PIPE,
                stdout=errors,
                stderr=errors,
                env={**os.environ, "TMPDIR": str(folder), "PYTHONPATH": os.pathsep.join(sys.path), **self._command.env},
                pass_fds=[fd],
                start_new_session=True,
            )
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # the process has exited already
            self.process.stdin.write(self.first_line)
            self.process.stdin.flush()

    def stop(self) -> None:
        """Kill the process group and wait for the process."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.close_stdin()
        shutil.rmtree(self.socket_path.parent)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Self]:
        """Open a client session with a started process on the running event loop."""
        async with aiohttp.ClientSession(
            "http://runner",
            connector=aiohttp.UnixConnector(path=str(self.socket_path), limit=0),
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=aiohttp.ClientTimeout(total=10 * HANG_GUARD),
        ) as self.http:
            yield self

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as undo:
            self.start()
            undo.callback(self.stop)
            await undo.enter_async_context(self.connected())
            self._undo = undo.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._undo.aclose()

    @property
    def error_text(self) -> str:
        return self._stderr.read_text(encoding="utf-8", errors="replace")

    def close_stdin(self) -> None:
        """Close its standard input, as the end of the daemon does."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()

    async def status(self) -> Progress:
        async with self.http.get("/v1/status") as answer:
            return Progress.model_validate_json(await _checked(answer))

    async def ready(self, timeout: float = HANG_GUARD) -> Progress:
        """Wait until the model is loaded. Raises AssertionError with its output when it exits instead."""

        async def is_ready() -> Progress | None:
            assert self.process.poll() is None, f"exit {self.process.returncode}: {self.error_text}"
            try:
                progress = await self.status()
            except aiohttp.ClientConnectionError:  # it is about to exit
                return None
            return progress if progress.state == "ready" else None

        found = await eventually(is_ready, timeout, because="the runner is ready")
        assert found.protocol == PROTOCOL_VERSION
        return found

    async def exit_code(self, timeout: float = HANG_GUARD) -> int:
        await eventually(lambda: self.process.poll() is not None, timeout, because="the runner has ended")
        return int(self.process.returncode)

    async def post(self, path: str, body: Frozen | None = None) -> bytes:
        """Return the answer's body. Raises the OllmlxError that its Problem stands for."""
        data = body.model_dump_json() if body is not None else "{}"
        async with self.http.post(path, data=data) as answer:
            return await _checked(answer)

    @asynccontextmanager
    async def stream(self, request: GenerateRequest, **headers: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open the raw answer of a generation. The end of the block closes the connection, which cancels."""
        data = io.BytesIO(request.model_dump_json().encode())  # aiohttp sends it in pieces
        async with self.http.post("/v1/generate", data=data, headers=headers) as answer:
            try:
                if answer.status != 200:
                    await _checked(answer)
                yield answer
            finally:
                answer.close()

    async def generate(self, request: GenerateRequest) -> list[Event]:
        """Return all events of a generation."""
        async with self.stream(request) as answer:
            return [decode_event(line) async for line in answer.content]

    async def ask(self, prompt: str, **fields: Any) -> list[Event]:
        """Return all events for a plain prompt."""
        return await self.generate(GenerateRequest(prompt=prompt, **fields))


async def _checked(answer: aiohttp.ClientResponse) -> bytes:
    body = await answer.read()
    if answer.status != 200:
        problem = Problem.model_validate_json(body)
        raise from_kind(problem.kind, problem.message, code=problem.code, excess=problem.excess)
    return body


def fake_runner(*, config: dict[str, Any] | None = None, **script: Any) -> RunnerProcess:
    """Return a runner with the fake engine; `script` are the fields of `ollmlx.testing.fake.script.Script`."""
    return RunnerProcess(
        RunnerCommand.of_engine("ollmlx.testing.fake:FakeEngine", **script), fake_model(), **(config or {})
    )
