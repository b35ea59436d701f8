"""Probes: one child process for each foreign plugin, and what the doctor learns from it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ollmlx.errors.findings import Finding
from ollmlx.plugin.discovery import LoadedPlugin, find_plugins
from ollmlx.settings import Settings
from ollmlx.supervisor.process.guarded import guarded_group

SPARE_SECONDS = 1.0
"""Seconds for starting Python, on top of the time limit of the plugin."""
SHARE = 0.8
"""The part of the time limit in which a plugin must be loaded."""
OUTPUT = 1 << 20


@dataclass(frozen=True)
class PluginTask:
    """The task of a probe: load the plugin of `origin` with these settings, within `limit` seconds, and use it."""

    name: str
    origin: str
    config: str | None
    overrides: Mapping[str, object]
    deep: bool
    online: bool
    limit: float
    environ: Mapping[str, str]
    cwd: Path | None

    @property
    def patience(self) -> float:
        """Seconds that the plugin's checks may take."""
        return 600.0 if self.deep else 12.0 if self.online else 3.0

    def as_json(self) -> bytes:
        """Return the task as the child reads it."""
        known = ("name", "origin", "config", "overrides", "deep", "online", "limit", "patience")
        return json.dumps({key: getattr(self, key) for key in known}, default=str).encode()


def start_probes(settings: Settings, task: PluginTask) -> Iterator[PluginProbe]:
    """Start a probe for each foreign plugin that a daemon would load."""
    seen: set[str] = set(settings.plugins.disabled)
    for plugin, _ in find_plugins(settings):
        if not plugin.own and plugin.name not in seen:
            yield PluginProbe(replace(task, name=plugin.name, origin=plugin.origin)).start()
        seen.add(plugin.name)


@dataclass(frozen=True)
class ForeignCheck:
    """A check of a foreign plugin. It ran in the probe; here its findings are awaited."""

    name: str
    group: str
    codes: tuple[str, ...]
    probe: PluginProbe

    async def run(self, context: Any) -> tuple[Finding, ...]:
        """Return the findings of the probe."""
        return self.probe.findings_of(self.name)


@dataclass
class PluginProbe:
    """A running or finished probe.

    `steps`: the lines of the child. `harm`: what the plugin does to the process that loads it, and to ollmlx with it.
    `begun`, `loaded`, `used`: done when the child is there, or has ended before.
    `ended`: its exit status; None: it was killed.
    """

    task: PluginTask
    steps: list[dict[str, Any]] = field(default_factory=list)
    harm: str = ""
    begun: Future[None] = field(default_factory=Future)
    loaded: Future[None] = field(default_factory=Future)
    used: Future[None] = field(default_factory=Future)
    ended: Future[int | None] = field(default_factory=Future)

    def start(self) -> PluginProbe:
        """Start the child. It is killed at its time limit, whatever it does."""
        self._deadline = time.monotonic() + self.task.limit + SPARE_SECONDS / 2
        threading.Thread(target=self._follow, name=f"probe-{self.task.name}", daemon=True).start()
        return self

    def judge(self, plugin: LoadedPlugin) -> None:
        """Put into `plugin` why the doctor must not load it; nothing if it behaved."""
        if not self._wait():
            plugin.problem, plugin.code, plugin.late = "it did not finish loading in time", "PLG001", True
            return
        if (loaded := self._step("loaded")) is not None:
            stated = loaded["plugin"]
            plugin.seconds, plugin.line, plugin.late = stated["seconds"], stated["line"], bool(stated["late"])
            if stated["problem"]:
                plugin.problem, plugin.code, plugin.hint = stated["problem"], stated["code"], stated["hint"]
                return
        where = "while it is loaded" if loaded is None else "while it is used"
        if self.last == "failed":
            self.harm = f"fails {where}: {self.steps[-1].get('error')}"
        elif self.ended.done() and not self._step("used") and not self._step("done"):
            self.harm = f"{_ending(self.ended.result())} {where}"
        elif faults := self.faults:
            plugin.code, self.harm = "PLG005", "; ".join(faults)
        if self.harm:
            plugin.problem, plugin.code = self.harm, plugin.code or ("PLG001" if loaded is None else "PLG008")

    @property
    def last(self) -> str:
        """The name of the last step that the child told."""
        return str(self.steps[-1]["step"]) if self.steps else ""

    @property
    def faults(self) -> tuple[str, ...]:
        """The things that the plugin does to the process that loads it."""
        told = [fault for step in self.steps for fault in step.get("faults", ())]
        return tuple(dict.fromkeys(map(str, told)))

    def checks(self) -> Iterator[ForeignCheck]:
        """Yield the checks that the plugin registered in the probe."""
        for one in (self._step("loaded") or {}).get("checks", ()):
            yield ForeignCheck(str(one["name"]), str(one["group"]), tuple(map(str, one["codes"])), self)

    def findings_of(self, check: str) -> tuple[Finding, ...]:
        """Return the findings of a check. Raises RuntimeError if the probe ended before the check did."""
        self.ended.result()
        for step in self.steps:
            if step["step"] == "checked" and step["name"] == check:
                return tuple(Finding.model_validate(one) for one in step["findings"])
        if self.last in ("used", "checked"):
            raise RuntimeError(f"it {_ending(self.ended.result())}")
        return ()  # the plugin was refused, and its problem is a finding already

    def _wait(self) -> bool:
        """Wait until the plugin was used, or the probe has ended. Return False if the plugin was not loaded in time.

        Python itself may start slowly on a busy machine; that is not the plugin's time.
        """
        with suppress(TimeoutError):
            self.begun.result(self._left())
            self.loaded.result(min(self._left(), self.task.limit * SHARE))
            with suppress(TimeoutError):  # it may be used slowly: then it is loaded here all the same
                self.used.result(self._left())
            return True
        return False

    def _left(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    def _step(self, name: str) -> dict[str, Any] | None:
        return next((step for step in self.steps if step["step"] == name), None)

    def _follow(self) -> None:
        status: int | None = None
        try:
            status = self._run()
        except OSError as error:
            self.steps.append({"step": "failed", "error": f"no process can be started: {error.strerror}"})
        finally:
            self.ended.set_result(status)
            for stage in (self.begun, self.loaded, self.used):
                if not stage.done():
                    stage.set_result(None)

    def _run(self) -> int | None:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ollmlx.doctor.probe.child"], cwd=self.task.cwd, env=dict(self.task.environ),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Event()
        reader = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
        reader.start()
        with suppress(BrokenPipeError):
            process.stdin.write(self.task.as_json())
        with suppress(BrokenPipeError):
            process.stdin.close()
        try:
            with guarded_group(process.pid):
                process.wait(self.task.limit + SPARE_SECONDS + self.task.patience)
        except subprocess.TimeoutExpired:
            late.set()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # whatever it started, too
        process.wait()
        reader.join(1.0)  # a process of its own session may hold the pipe
        return None if late.is_set() else process.returncode

    def _read(self, pipe: Any) -> None:
        with pipe:
            for line in pipe:
                step = _parsed(line[:OUTPUT])
                if step is None:
                    continue
                self.steps.append(step)
                stage = {"loading": self.begun, "loaded": self.loaded, "used": self.used}.get(step["step"])
                if stage is not None and not stage.done():
                    stage.set_result(None)


def _parsed(line: bytes) -> dict[str, Any] | None:
    with suppress(ValueError, RecursionError):
        step = json.loads(line)
        return step if isinstance(step, dict) and isinstance(step.get("step"), str) else None
    return None


def _ending(status: int | None) -> str:
    if status is None:
        return "does not end"
    if status < 0:
        with suppress(ValueError):
            return f"crashes Python ({signal.Signals(-status).name})"
        return f"crashes Python (signal {-status})"
    return f"ends the process with exit status {status}"
