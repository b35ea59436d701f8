"""Attack: a model's file takes over its runner. The runner could read the person's files, and send them anywhere."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import socket
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx2
import pytest
from tests.conftest import StartDaemon

from ollmlx.helper import run_limited, sandbox
from ollmlx.plugin.contracts import RunnerCommand
from ollmlx.runner.sandbox import VARIABLE
from ollmlx.supervisor.process.importers import ChildImporter
from ollmlx.testing import RunnerProcess, fake_model, wait_until
from ollmlx.testing.daemon import Daemon
from ollmlx.testing.suites.engine import text_of
from ollmlx.types import Options

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox of macOS was not run yet")
confined = pytest.mark.skipif(sandbox.landlock_version() == 0, reason="this kernel has no Landlock")

TAKEN_OVER = '''
import json, os, socket, subprocess, tempfile
from ollmlx import SerialEngine
from ollmlx.types import Done, Text

class TakenOver(SerialEngine):
    """Does what native code would do that a model's file took over."""

    name = "taken over"

    def stream(self, request):
        places = json.loads(request.prompt)
        def write(path):
            with open(path, "w") as file:
                file.write("x")
        def reach(family, kind, address):
            with socket.socket(family, kind) as sock:
                sock.connect(address)
        tries = {
            "read a file of the person": lambda: open(places["secret"]).read(),
            "list the person's folder": lambda: os.listdir(places["home"]),
            "write beside the model": lambda: write(places["beside"]),
            "write into the system's folder": lambda: write(places["elsewhere"]),
            "remove a file": lambda: os.unlink(places["doomed"]),
            "connect to a TCP port": lambda: reach(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", places["port"])),
            "send UDP": lambda: reach(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 9)),
            "connect to another program's socket": lambda: reach(socket.AF_UNIX, socket.SOCK_STREAM, places["unix"]),
            "read the daemon's variables": lambda: open(f"/proc/{os.getppid()}/environ").read(),
            "signal the daemon": lambda: os.kill(os.getppid(), 0),
            "run a program that reads it": lambda: subprocess.run(
                ["cat", places["secret"]], check=True, capture_output=True),
            "read the model": lambda: open(places["model"]).read(),
            "write a temporary file": lambda: write(os.path.join(tempfile.gettempdir(), "x")),
        }
        worked = []
        for name, attempt in tries.items():
            try:
                attempt()
                worked.append(name)
            except (OSError, subprocess.CalledProcessError):
                pass
        yield Text(text=json.dumps(worked))
        yield Done()
'''
ALLOWED = ["read the model", "write a temporary file"]


@pytest.fixture
def places(tmp_path: Path) -> Iterator[dict[str, object]]:
    """The goals of a runner that was taken over: a secret, folders to write to, programs to reach."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "secret").write_text("of the person")
    (home / "doomed").write_text("x")
    model = tmp_path / "models" / "one" / "model.bin"
    model.parent.mkdir(parents=True)
    model.write_text("weights")
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as tcp,
        tempfile.TemporaryDirectory(dir="/tmp") as short,
        closing(socket.socket(socket.AF_UNIX)) as unix,
    ):
        unix.bind(f"{short}/agent.sock")
        unix.listen()
        yield {
            "home": str(home), "secret": str(home / "secret"), "doomed": str(home / "doomed"), "model": str(model),
            "beside": str(model.parent.parent / "evil"), "elsewhere": f"{short}/evil", "unix": f"{short}/agent.sock",
            "port": tcp.getsockname()[1],
        }  # fmt: skip


async def attempts(places: dict[str, object], folder: Path, mode: str) -> tuple[list[str], tuple[str, ...]]:
    """Return what a runner that was taken over could do, and its notes."""
    file = folder / "engine" / "taken_over.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text(TAKEN_OVER, encoding="utf-8")
    argv = (sys.executable, "-P", "-m", "ollmlx.runner", "--engine", f"{file}:TakenOver", "--fd", "{fd}")
    command = RunnerCommand(argv=argv, env={VARIABLE: mode})
    model = fake_model(path=Path(str(places["model"])), capabilities=("completion",))
    async with RunnerProcess(command, model) as runner:
        status = await runner.ready()
        return json.loads(text_of(await runner.ask(json.dumps(places)))), status.notes


@confined
async def test_a_runner_that_was_taken_over_reaches_nothing(places: dict[str, object], tmp_path: Path) -> None:
    worked, notes = await attempts(places, tmp_path, "off")
    assert len(worked) == 13, "without a sandbox every attempt works"
    assert notes == ("not confined: it is switched off",)
    Path(str(places["doomed"])).write_text("x")
    worked, notes = await attempts(places, tmp_path, "on")
    assert (worked, notes) == (ALLOWED, ())
    worked, _ = await attempts(places, tmp_path, "connect")
    assert worked == ["connect to another program's socket", *ALLOWED]


IMPORTER = """
import json, os, socket, sys
source, into = sys.argv[sys.argv.index("--source") + 1], sys.argv[sys.argv.index("--into") + 1]
places = json.loads(sys.argv[1])
tries = {
    "read a file of the person": lambda: open(places["secret"]).read(),
    "write beside the model": lambda: open(places["beside"], "w"),
    "remove a file": lambda: os.unlink(places["doomed"]),
    "connect to a TCP port": lambda: socket.create_connection(("127.0.0.1", places["port"]), 5),
    "connect to another program's socket": lambda: socket.socket(socket.AF_UNIX).connect(places["unix"]),
    "read the daemon's variables": lambda: open(f"/proc/{os.getppid()}/environ").read(),
    "read the model": lambda: open(source).read(),
    "write the import": lambda: open(into + "/weights", "w"),
    "write a temporary file": lambda: open(os.environ["TMPDIR"] + "/x", "w"),
}
for name, attempt in tries.items():
    try:
        attempt()
        print(json.dumps({"status": name}))
    except OSError:
        pass
"""


@confined
@pytest.mark.parametrize(("mode", "count"), [("off", 9), ("on", 3)])
async def test_an_importer_that_was_taken_over_reaches_nothing(
    places: dict[str, object], tmp_path: Path, mode: str, count: int
) -> None:
    (into := tmp_path / "into").mkdir()
    command = RunnerCommand(argv=(sys.executable, "-c", IMPORTER, json.dumps(places)), env={VARIABLE: mode})
    steps = ChildImporter(command)(Path(str(places["model"])), into, format="gguf")
    worked = [step.status async for step in steps]
    assert len(worked) == count
    assert worked[-3:] == ["read the model", "write the import", "write a temporary file"]
    assert [path.name for path in into.iterdir()] == ["weights"]


@confined
def test_a_helper_that_was_taken_over_changes_nothing_and_sends_nothing(places: dict[str, object]) -> None:
    doomed = Path(str(places["doomed"]))
    tries: list[tuple[Callable[..., object], tuple[object, ...]]] = [
        (open, (str(places["beside"]), "w")),
        (open, ("/tmp/ollmlx-evil", "w")),
        (os.unlink, (str(doomed),)),
        (os.mkdir, (str(doomed.parent / "evil"),)),
        (os.kill, (os.getpid(), 0)),
        (socket.socket, ()),
        (open, (f"/proc/{os.getpid()}/mem", "rb")),
    ]
    for attempt, arguments in tries:
        with pytest.raises(RuntimeError, match=r"Permission denied|not permitted"):
            run_limited(attempt, *arguments, what="it")
    assert doomed.exists()
    assert run_limited(os.listdir, str(doomed.parent), what="it"), "it reads, and hands over what it read"


@pytest.mark.model
@pytest.mark.slow
@confined
def test_real_models_answer_from_the_sandbox_with_temporary_files_of_their_own(
    daemon: StartDaemon, smollm2_models: Path, smollm2_gguf: Path
) -> None:
    server: Daemon = daemon(fakes=None, settings={"storage": {"models": str(smollm2_models)}})
    pytest.importorskip("xllamacpp", reason="pip install 'ollmlx[llamacpp]'")
    with smollm2_gguf.open("rb") as file:
        digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        assert httpx2.post(f"{server.url}/api/blobs/{digest}", content=file.read(), timeout=120).status_code == 201
    created = server.post("/api/create", {"model": "gguf", "files": {"m.gguf": digest}, "stream": False})
    assert created.status_code == 200, created.text
    for name in ("smollm2:135m", "gguf"):
        body = {"model": name, "prompt": "Once upon a time", "stream": False, "options": {"num_predict": 4}}
        assert server.post("/api/generate", body).json()["eval_count"] == 4
    folders = []
    for one in server.loaded():
        assert not [note for note in one["notes"] if note.startswith("not confined")]
        variables = Path(f"/proc/{one['pid']}/environ").read_bytes().split(b"\0")
        folders += [Path(os.fsdecode(line[7:])) for line in variables if line.startswith(b"TMPDIR=")]
        status = Path(f"/proc/{one['pid']}/status").read_text()
        assert "NoNewPrivs:\t1" in status
        assert "Seccomp:\t2" in status
    assert len(set(folders)) == 2
    assert all(folder.stat().st_mode & 0o077 == 0 for folder in folders)
    for name in ("smollm2:135m", "gguf"):
        server.post("/api/generate", {"model": name, "keep_alive": 0})
    wait_until(lambda: not server.loaded())
    wait_until(lambda: not any(folder.exists() for folder in folders))


@pytest.mark.model
@pytest.mark.mlx
async def test_mlx_works_without_a_compiler(smollm2: Path) -> None:
    argv = RunnerCommand.of_engine("ollmlx_mlx.engine.engine:MlxEngine").argv
    command = RunnerCommand(argv=argv, env={"PATH": "/nonexistent", VARIABLE: "on"})
    model = fake_model(format="mlx", path=smollm2, capabilities=("completion",))
    async with RunnerProcess(command, model) as runner:
        await runner.ready()
        assert text_of(await runner.ask("Once upon a time", options=Options(num_predict=4)))


# -- the parts -------------------------------------------------------------------------------------------------------


def run_filter(program: bytes, audit: int, call: int, family: int) -> int:
    """Run a seccomp program on one call, as the kernel does."""
    steps = [struct.unpack("=HBBI", program[start : start + 8]) for start in range(0, len(program), 8)]
    data = {0: call, 4: audit, 16: family}
    at = held = 0
    while True:
        code, yes, no, value = steps[at]
        at += 1
        match code:
            case 0x20:
                held = data[value]
            case 0x15:
                at += yes if held == value else no
            case 0x35:
                at += yes if held >= value else no
            case _:
                return int(value)


@pytest.mark.parametrize(
    ("machine", "audit", "calls"), [("x86_64", 0xC000003E, (41, 42)), ("aarch64", 0xC00000B7, (198, 203))]
)
def test_the_filter_refuses_sockets_and_calls_of_another_architecture(
    machine: str, audit: int, calls: tuple[int, int]
) -> None:
    allow, refuse, kill = 0x7FFF0000, 0x0005000D, 0x80000000
    for mode, unix in (("on", refuse), ("connect", allow)):
        program = sandbox.socket_filter(machine, mode)
        assert program is not None
        assert run_filter(program, audit, 0, 0) == allow
        assert run_filter(program, audit, calls[0], socket.AF_INET) == refuse
        assert run_filter(program, audit, calls[0], socket.AF_INET6) == refuse
        assert run_filter(program, audit, calls[0], socket.AF_UNIX) == unix
        assert run_filter(program, audit, calls[1], 0) == unix
        assert run_filter(program, audit, 425, 0) == refuse, "io_uring goes around every filter"
        assert run_filter(program, audit, 0x40000000 + calls[0], socket.AF_INET) == refuse
        assert run_filter(program, audit ^ 1, 0, 0) == kill
    network = sandbox.socket_filter(machine, "network")
    assert network is not None
    assert [run_filter(network, audit, call, socket.AF_INET) for call in calls] == [allow, allow]
    assert run_filter(network, audit, 425, 0) == refuse
    assert sandbox.socket_filter("vax", "on") is None


def test_on_a_machine_without_a_filter_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "vax")
    assert sandbox._confine_sockets(object(), "on") == (  # type: ignore[arg-type]
        "not confined: the network, because there is no filter for vax"
    )


def test_the_profile_for_macos_closes_the_persons_files_the_network_and_writes(tmp_path: Path) -> None:
    profile = sandbox.macos_profile([tmp_path / "model"], [tmp_path / 'a"b'], tmp_path)
    lines = profile.splitlines()
    assert lines[0] == "(version 1)"
    assert {"(deny network-outbound)", "(deny file-write*)", f'(deny file-read-data (subpath "{tmp_path}"))'} <= set(
        lines
    )
    assert f'(allow file-read* (subpath "{tmp_path}/model"))' in lines
    assert f'(allow file-write* (subpath "{tmp_path}/a\\"b"))' in lines
    assert lines.index("(deny file-write*)") < lines.index(f'(allow file-write* (subpath "{tmp_path}/a\\"b"))')
