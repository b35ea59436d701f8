"""A real daemon under test: `ollmlx serve` in its own process, with folders, port and settings of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import httpx2

from ollmlx.settings.report import toml_value
from ollmlx.testing import FAKE_PLUGIN
from ollmlx.testing.waiting import wait_until

LISTENS = re.compile(r"listens on (http://\S+)")
START_SECONDS = 120.0
STOP_SECONDS = 60.0
KEPT_VARIABLES = ("PATH", "LANG", "TMPDIR", "SYSTEMROOT", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONFIG_FILE")


class Daemon:
    """One daemon, run by `python`. `fakes` maps names to scripts of fake models; `settings` override the defaults here.

    With `fakes`, the stores of real models are disabled, so that nothing uses the network. As a context manager it runs
    for the length of the block.
    """

    def __init__(
        self,
        folder: Path,
        *,
        settings: Mapping[str, Any] | None = None,
        fakes: Mapping[str, Mapping[str, Any]] | None = None,
        env: Mapping[str, str] | None = None,
        python: str = sys.executable,
    ) -> None:
        self.python = python
        self.folder = folder
        self.models = folder / "models"
        self.state = folder / "state"
        self.config = folder / "ollmlx.toml"
        self.log = folder / "daemon.log"
        self.url = ""
        self.process: subprocess.Popen[bytes]
        folder.mkdir(parents=True, exist_ok=True)
        kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        self.environment = {**kept, "HOME": str(folder), "PYTHONWARNINGS": "error", **(env or {})}
        self.settings = merged(self._defaults(fakes), settings or {})
        self.config.write_text(as_toml(self.settings), encoding="utf-8")

    def _defaults(self, fakes: Mapping[str, Mapping[str, Any]] | None) -> dict[str, Any]:
        defaults: dict[str, Any] = {
            "server": {"host": "127.0.0.1:0", "drain_timeout": 2},
            "storage": {"models": str(self.models), "state": str(self.state)},
            "logging": {"level": "debug"},
        }
        if fakes is not None:
            tables = {name: dict(script) for name, script in fakes.items()}
            plugins = {"paths": [str(FAKE_PLUGIN)], "disabled": ["hub", "pypi", "ollama_store"]}
            defaults["plugins"] = {**plugins, "fake": {"models": tables}}
        return defaults

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.kill()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Start it and wait until it listens. Raises AssertionError with its log when it does not."""
        self.launch()
        wait_until(lambda: self._listening() or self.process.poll() is not None, START_SECONDS, because=self.log_text)
        assert self.process.poll() is None, f"exit {self.process.returncode}: {self.log_text}"
        self.url = self._listening() or ""
        return self

    def launch(self) -> None:
        """Start it without waiting, for daemons that are meant to fail."""
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [self.python, "-m", "ollmlx.cli.main", "--config", str(self.config), "serve"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self.environment,
            )

    def stop(self) -> int:
        """Stop it with SIGTERM and return its exit code. Raises AssertionError, and kills it, when it does not stop."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"it did not stop within {STOP_SECONDS:g} s: {self.log_text}") from None

    def kill(self) -> None:
        """Kill it, as a crash would end it."""
        self.process.kill()
        self.process.wait()

    @property
    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    @property
    def address(self) -> str:
        """The address `host:port`, as OLLAMA_HOST takes it."""
        return self.url.removeprefix("http://")

    def cli(self, *arguments: str, input: str | None = None, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run `ollmlx ARGUMENTS` against this daemon."""
        return subprocess.run(
            [self.python, "-m", "ollmlx.cli.main", *arguments],
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            cwd=self.folder,
            env={"OLLMLX_CONFIG": self.config.name, **self.environment, "OLLAMA_HOST": self.address},
        )

    def get(self, path: str, **options: Any) -> httpx2.Response:
        """Send a GET request."""
        return httpx2.get(self.url + path, timeout=120, **options)

    def post(self, path: str, body: Mapping[str, Any], **options: Any) -> httpx2.Response:
        """Send a POST request with a JSON body, and read the answer to its end."""
        return httpx2.post(self.url + path, json=dict(body), timeout=120, **options)

    def lines(self, path: str, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Send a POST request and return the records of its NDJSON answer."""
        return [json.loads(line) for line in self.post(path, body).text.splitlines()]

    def loaded(self) -> list[dict[str, Any]]:
        """Return the loaded models, as `/api/ps` lists them."""
        models: list[dict[str, Any]] = self.get("/api/ps").json()["models"]
        return models

    def active(self) -> int:
        """Return the number of requests that runners work on."""
        return sum(model["active"] for model in self.loaded())

    def idle(self) -> bool:
        """Return True when no runner works on a request."""
        return self.active() == 0

    def _listening(self) -> str | None:
        found = LISTENS.search(self.log_text)
        return found.group(1) if found else None


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested tables merged; values of `over` win."""
    both = {**under, **over}
    for key, value in under.items():
        if isinstance(value, Mapping) and isinstance(over.get(key), Mapping):
            both[key] = merged(value, over[key])
    return both


def as_toml(settings: Mapping[str, Any]) -> str:
    """Return a settings file with one line for each section, in inline tables."""
    return "".join(f"{json.dumps(key)} = {toml_value(value)}\n" for key, value in settings.items())
