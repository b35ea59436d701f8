"""A built wheel as people install it (`make smoke`): pip, uv tool and pipx, in fresh environments, on several Pythons.

    python -m release.smoke WHEEL python3.11 python3.12 python3.13

Each installation tells its version, answers a prompt with a small model, and names the command that upgrades it.
"""

from __future__ import annotations

import functools
import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ollmlx.testing.daemon import Daemon
from release.lock import ROOT

MODEL: Final = "smollm2:135m"
EXTRA: Final = "[cpu]" if sys.platform == "linux" else ""
CONSTRAINTS: Final = ROOT / "constraints.txt"
NEWER: Final = json.dumps({"name": "ollmlx", "files": [{"filename": "ollmlx-99.0-py3-none-any.whl"}]}).encode()


def with_pip(wheel: str, python: str, home: Path) -> Path:
    """Install into a virtual environment; return the folder of its programs, as the others do."""
    run(python, "-m", "venv", str(home / "venv"))
    run(str(home / "venv/bin/pip"), "install", "--quiet", "-c", str(CONSTRAINTS), wheel)
    return home / "venv/bin"


def with_uv(wheel: str, python: str, home: Path) -> Path:
    folders = {"UV_TOOL_DIR": str(home / "tools"), "UV_TOOL_BIN_DIR": str(home / "bin")}
    run(sys.executable, "-m", "uv", "tool", "install", "-q", "-p", python, "-c", str(CONSTRAINTS), wheel, **folders)
    return home / "tools/ollmlx/bin"


def with_pipx(wheel: str, python: str, home: Path) -> Path:
    run(python, "-m", "venv", str(home / "pipx"))
    run(str(home / "pipx/bin/pip"), "install", "--quiet", "pipx")
    folders = {"PIPX_HOME": str(home / "tools"), "PIPX_BIN_DIR": str(home / "bin"), "PIPX_MAN_DIR": str(home / "man")}
    arguments = ["install", "--quiet", "--pip-args", f"-c {CONSTRAINTS}", wheel]
    run(str(home / "pipx/bin/pipx"), *arguments, **folders)
    return home / "tools/venvs/ollmlx/bin"


INSTALLERS: Final[dict[str, tuple[Callable[[str, str, Path], Path], str]]] = {
    "uv": (with_uv, "uv tool upgrade ollmlx"),
    "pip": (with_pip, "-m pip install --upgrade ollmlx"),
    "pipx": (with_pipx, "pipx upgrade ollmlx"),
}
"""How each installs, and the end of the command that upgrades what it installed."""


def run(*command: str, **variables: str) -> str:
    """Return the output of a command. Raises CalledProcessError, after its standard error, but for `ollmlx upgrade`."""
    may_fail = command[-1] == "upgrade"  # whose exit status says that there is a newer version
    environment = {**os.environ, **variables}
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=not may_fail, env=environment).stdout


@contextmanager
def index_with_a_newer_version() -> Iterator[str]:
    """Serve an index that has version 99."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/vnd.pypi.simple.v1+json")
            self.end_headers()
            self.wfile.write(NEWER)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/simple"
        server.shutdown()


def smoke(wheel: Path, python: str, installer: str, models: Path, index: str) -> str:
    """Install, use, remove. Return what was seen. Raises AssertionError for what is wrong."""
    install, upgrade = INSTALLERS[installer]
    with tempfile.TemporaryDirectory() as folder:
        home, began = Path(folder), time.monotonic()
        programs = install(f"{wheel.resolve()}{EXTRA}", python, home)
        seconds = time.monotonic() - began
        ollmlx = functools.partial(run, str(programs / "ollmlx"), HOME=folder)
        version = ollmlx("--version").replace("\n", "; ")
        assert f"extras: {EXTRA.strip('[]')}" in version, version
        settings = {"storage": {"models": str(models)}}
        with Daemon(home / "daemon", python=str(programs / "python"), settings=settings) as daemon:
            answer = ollmlx("run", MODEL, "Why is the sky blue?", OLLAMA_HOST=daemon.url)
        assert len(answer.split()) > 5, answer
        told = ollmlx("upgrade", UV_DEFAULT_INDEX=index)
        assert "ollmlx 99.0 is available" in told, told
        assert any(line.endswith(upgrade) for line in told.splitlines()), told
        size = sum(file.lstat().st_size for file in programs.parent.rglob("*") if file.is_file()) / 1e6
        return f"{installer:5} {python}: installed in {seconds:.0f} s, {size:.0f} MB; {version}answers; {upgrade!r}"


def main(wheel: Path, pythons: list[str]) -> None:
    with tempfile.TemporaryDirectory() as models, index_with_a_newer_version() as index:
        for installer in INSTALLERS:
            for python in pythons:
                print(smoke(wheel, python, installer, Path(models), index), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
