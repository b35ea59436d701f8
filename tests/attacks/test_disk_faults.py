"""Attack: a disk that is full, fails, or allows no more files, at each step. A failed task once kept runners alive."""

from __future__ import annotations

import asyncio
import builtins
import errno
import hashlib
import io
import logging
import os
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.servers.hub import HubServer
from tests.servers.ollama_folder import OllamaFolder, tiny_gguf, usual_layers
from tests.servers.registry import RegistryServer
from tests.servers.serving import no_wait
from tests.servers.tiny import tiny_files

from ollmlx import ModelName
from ollmlx.app import build
from ollmlx.errors import NotFound, OllmlxError
from ollmlx.settings import Settings
from ollmlx.settings.load import LoadedSettings
from ollmlx.settings.model import StorageSettings
from ollmlx.storekit import Blobs
from ollmlx.supervisor.chores import keep_running
from ollmlx.types import CreateRequest, ModelDefaults
from ollmlx.web.logs import LogFile, logging_to
from ollmlx_hub.client import HubAccess
from ollmlx_hub.source import HubSource
from ollmlx_hub.store import MlxStore
from ollmlx_ollama_store.source import OllamaSource
from ollmlx_ollama_store.store import OllamaStore

ERRORS = {errno.EMFILE: {"STO004"}, errno.ENOSPC: {"STO003"}, errno.EIO: {"STO004", "MDL003"}}
"""The errors of the system, and the finding codes that name them."""
CHANGES = {"open", "os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "os.truncate", "shutil.copyfile"}
PASSES = 400
REPO = "mlx-community/Tiny-4bit"


class Disk:
    """Lets one step below a folder fail: the `at`-th change of a file or folder, or write, that is made there."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._steps = 0
        self._at = 0
        self._number = 0
        self.failed = False
        sys.addaudithook(self._audit)

    @contextmanager
    def failing(self, number: int, at: int) -> Iterator[None]:
        self._number, self._at, self._steps, self.failed = number, at, 0, False
        opened, opened_too = io.open, builtins.open
        io.open = builtins.open = self._open
        try:
            yield
        finally:
            io.open, builtins.open = opened, opened_too
            self._at = 0

    def step(self) -> None:
        """Count a step, and fail at the chosen one."""
        if self._at and not self.failed:
            self._steps += 1
            if self._steps == self._at:
                self.failed = True
                raise OSError(self._number, os.strerror(self._number))

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._at or event not in CHANGES or not arguments:
            return
        writes = event != "open" or bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if writes and self._folder in map(_start(self._folder), arguments[:2]):
            self.step()

    def _open(self, file: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
        made = _REAL_OPEN(file, mode, *rest, **named)
        inside = isinstance(file, int) or str(file).startswith(self._folder)
        return _Writing(made, self) if inside and any(letter in mode for letter in "wax+") else made


_REAL_OPEN = io.open


class _Writing:
    """An open file whose writes are steps."""

    def __init__(self, file: Any, disk: Disk) -> None:
        self._file = file
        self._disk = disk

    def write(self, data: Any) -> int:
        self._disk.step()
        return int(self._file.write(data))

    def __enter__(self) -> _Writing:
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.__exit__(*error)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _start(folder: str) -> Callable[[Any], str]:
    return lambda value: folder if str(value).startswith(folder) else ""


Act = Callable[[], Awaitable[object]]


async def every_step_fails(disk: Disk, act: Act, unharmed: Act, undo: Act) -> int:
    """Let each step of `act` fail once, with each error in turn; `unharmed` checks the rest. Returns how many steps."""
    numbers = list(ERRORS)
    for at in range(1, PASSES):
        number = numbers[at % len(numbers)]
        error: OllmlxError | None = None
        with disk.failing(number, at):
            try:
                await act()
            except OllmlxError as found:
                error = found
        if error is not None:
            assert error.code in ERRORS[number], (number, at, error)
        await unharmed()
        if error is not None:
            await act()  # it works again, whatever the fault has left
            await unharmed()
        await undo()
        if not disk.failed:
            return at - 1
    raise AssertionError(f"more than {PASSES} steps")


async def missing(delete: Callable[[ModelName], Awaitable[None]], name: ModelName) -> None:
    """Delete a model that may not be there."""
    with suppress(NotFound):
        await delete(name)


def digest_of(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else [folder]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files if path.suffix == ".safetensors")).hexdigest()


async def test_the_store_of_mlx_loses_nothing_and_lists_nothing_by_halves(tmp_path: Path) -> None:
    from huggingface_hub import close_session

    models = tmp_path / "models"
    store, disk = MlxStore(models / "mlx"), Disk(models)
    with HubServer() as hub:
        hub.add(REPO, tiny_files(weights=20_000))
        source = HubSource(HubAccess(hub.url), private_hosts=("127.0.0.1", "localhost"), attempts=1, sleep=no_wait)

        async def pull(name: str = REPO) -> None:
            _ = [step async for step in store.pull(ModelName.parse(name), source, None)]

        await pull()
        kept = await store.resolve(ModelName.parse(REPO))
        assert kept is not None
        before, second = digest_of(kept.path), ModelName.parse("second")

        async def unharmed() -> None:
            listed = await store.list()
            assert {model.name.short for model in listed} <= {REPO, "second", "other/Tiny"}
            assert REPO in {model.name.short for model in listed}
            for model in listed:
                assert digest_of(model.path) == before

        hub.add("other/Tiny", tiny_files(weights=20_000))
        acts: dict[str, tuple[Act, ModelName]] = {
            "pull": (lambda: pull("other/Tiny"), ModelName.parse("other/Tiny")),
            "copy": (lambda: store.copy(kept, second), second),
            "create": (lambda: _create(store, kept, second), second),
        }
        for name, (act, made) in acts.items():
            assert await every_step_fails(disk, act, unharmed, lambda made=made: missing(store.delete, made)) > 3, name  # type: ignore[misc]

        async def remove() -> None:
            await missing(store.delete, second)

        async def again() -> None:
            if await store.resolve(second) is None:
                await store.copy(kept, second)

        await again()
        assert await every_step_fails(disk, remove, unharmed, again) > 0
        close_session()


async def _create(store: Any, base: Any, name: ModelName) -> None:
    request = CreateRequest(name=name, base=base, files={}, defaults=ModelDefaults(system="short"))
    _ = [step async for step in store.create(request, None)]


async def test_ollamas_store_loses_nothing_and_lists_nothing_by_halves(tmp_path: Path) -> None:
    folder = OllamaFolder(tmp_path / "models")
    folder.add("kept", usual_layers(tiny_gguf(fill=1)))
    store, disk = OllamaStore(folder.root), Disk(folder.root)
    kept = await store.resolve(ModelName.parse("kept"))
    assert kept is not None
    before, second = kept.path.read_bytes(), ModelName.parse("second")

    async def unharmed() -> None:
        listed = await store.list()
        assert {model.name.short for model in listed} <= {"kept", "second"}
        assert "kept" in {model.name.short for model in listed}
        assert all(model.path.read_bytes() == before for model in listed)

    async def clean() -> None:
        await missing(store.delete, second)

    async def again() -> None:
        if await store.resolve(second) is None:
            await store.copy(kept, second)

    assert await every_step_fails(disk, lambda: store.copy(kept, second), unharmed, clean) > 0
    assert await every_step_fails(disk, lambda: _create(store, kept, second), unharmed, clean) > 0
    await again()
    assert await every_step_fails(disk, clean, unharmed, again) > 0


async def test_a_pull_from_a_registry_loses_nothing_and_lists_nothing_by_halves(tmp_path: Path) -> None:
    folder = OllamaFolder(tmp_path / "models")
    folder.add("kept", usual_layers(tiny_gguf(fill=1)))
    store, disk = OllamaStore(folder.root), Disk(folder.root)
    source = OllamaSource(private_hosts=("127.0.0.1", "localhost"), attempts=1, sleep=no_wait)
    with RegistryServer() as registry:
        registry.add("me/m:latest", usual_layers(tiny_gguf(fill=2)))
        name = ModelName.parse(f"{registry.host}/me/m")

        async def pull() -> None:
            _ = [step async for step in store.pull(name, source, None, insecure=True)]

        async def unharmed() -> None:
            listed = {model.name.short: model for model in await store.list()}
            assert set(listed) <= {"kept", name.short}
            assert listed["kept"].path.read_bytes() == tiny_gguf(fill=1)
            if name.short in listed:
                assert listed[name.short].path.read_bytes() == tiny_gguf(fill=2)

        assert await every_step_fails(disk, pull, unharmed, lambda: missing(store.delete, name)) > 5


async def test_an_upload_is_stored_whole_or_not_at_all(tmp_path: Path) -> None:
    blobs, disk, data = Blobs(tmp_path / "blobs"), Disk(tmp_path / "blobs"), b"weights" * 1000
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"

    async def body() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 1000):
            yield data[start : start + 1000]

    async def unharmed() -> None:
        left = [file for file in (tmp_path / "blobs").glob("*") if file.is_file()]
        assert [file.read_bytes() for file in left] in ([], [data])

    async def clean() -> None:
        for file in (tmp_path / "blobs").glob("*"):
            file.unlink()

    assert await every_step_fails(disk, lambda: blobs.write(digest, body()), unharmed, clean) > 3


def test_a_log_that_cannot_be_written_is_told_once_and_ends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(storage=StorageSettings(state=tmp_path))
    lines = io.StringIO()
    with logging_to(lines, settings):
        handler = next(one for one in logging.getLogger().handlers if isinstance(one, LogFile))
        stream = handler.stream

        class Full(io.StringIO):
            def write(self, text: str) -> int:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        handler.stream = Full()  # type: ignore[assignment]
        for number in range(5):
            logging.getLogger("ollmlx.disk").warning("line %d", number)
        handler.stream = stream
        logging.getLogger("ollmlx.disk").warning("the disk has room again")
    said = capsys.readouterr().err
    assert said.count("cannot be written: No space left on device (ollmlx doctor storage)") == 1
    assert "Traceback" not in said
    assert lines.getvalue().count("line ") == 5
    assert "room again" in (tmp_path / "logs/daemon.log").read_text(encoding="utf-8")


# -- background tasks ------------------------------------------------------------------------------------------------


async def test_a_background_task_that_fails_is_logged_and_started_again(caplog: pytest.LogCaptureFixture) -> None:
    runs: list[int] = []
    waited: list[float] = []

    async def work() -> None:
        runs.append(len(runs))
        if len(runs) < 6:
            raise OSError(errno.EIO, "Input/output error")

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    await keep_running("pruning", work, sleep)
    assert len(runs) == 6
    assert waited == [1.0, 5.0, 30.0, 30.0, 30.0]
    assert caplog.text.count("pruning failed; it starts again") == 5


async def test_shutdown_closes_the_pool_whatever_the_background_tasks_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(storage=StorageSettings(state=tmp_path / "state", models=tmp_path / "models"))
    app = build(LoadedSettings(settings))
    failed = threading.Event()

    def prune(now: float) -> int:
        failed.set()
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(app.service.blobs, "prune", prune)
    await app.start()
    assert (tmp_path / "state/ollmlx.lock").read_text().strip() == str(os.getpid())
    await asyncio.wait_for(asyncio.to_thread(failed.wait, 30), 60)
    await app.close()
    assert (tmp_path / "state/ollmlx.lock").read_text() == "", "the guardian has ended, and the folder is free"
