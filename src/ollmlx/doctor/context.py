"""What checks look at. Every part can be replaced, so that a check can be shown any machine."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ollmlx.doctor.daemon import Daemon, Silent
from ollmlx.doctor.machine import Machine
from ollmlx.doctor.processes import Completed, Processes, run_child
from ollmlx.errors import OllmlxError
from ollmlx.launch.overrides import ModelOverrides
from ollmlx.model.catalogue import load_catalogue
from ollmlx.model.names import ModelName
from ollmlx.settings import Settings
from ollmlx.settings.faults import DEFAULT, Fault, Origin
from ollmlx.text.addresses import Address

if TYPE_CHECKING:
    from ollmlx.plugin.loader import Plugins
    from ollmlx.settings.load import LoadedSettings
    from ollmlx.types import InstalledModel

PLUGIN_SECONDS = 2.5
"""For a plugin to load while somebody waits for the doctor; the daemon gives it `[plugins] load_timeout`."""

RunChild = Callable[[Sequence[str], float], Awaitable[Completed]]


def package_version(name: str) -> str | None:
    """The version of an installed distribution."""
    try:
        return distribution(name).version
    except PackageNotFoundError:
        return None


@dataclass(frozen=True)
class CheckContext:
    """A view of the machine, the settings and the daemon. Public to plugins' checks.

    `faults` say why the settings are unusable; then `loaded`, and `settings` in it, are what is left without the faulty
    values. `file` is the settings file that was read or should have been, `asked` the one that `--config` named.
    `load` gives the plugins, as soon as they are loaded. `deep` permits reading whole models, `online` the network.
    """

    settings: Settings = field(default_factory=Settings)
    loaded: LoadedSettings | None = None
    faults: tuple[Fault, ...] = ()
    file: Path | None = None
    asked: Path | None = None
    environ: Mapping[str, str] = field(default_factory=dict)
    machine: Machine = field(default_factory=lambda: Machine("linux"))
    processes: Processes = field(default_factory=Processes)
    daemon: Daemon = field(default_factory=lambda: Daemon(Address.parse("")))
    child: RunChild = run_child
    version_of: Callable[[str], str | None] = package_version
    now: Callable[[], float] = time.time
    user: int = field(default_factory=os.getuid)
    deep: bool = False
    online: bool = False
    load: Callable[[], Plugins | None] = lambda: None

    @property
    def plugins(self) -> Plugins | None:
        """What the plugins registered. Waits until they are loaded; None where nobody loads any."""
        return self.load()

    def origin(self, *path: str) -> Origin:
        """Where the value of a key, or of a table's first key, came from."""
        return self.loaded.origin(path) if self.loaded is not None else DEFAULT

    def knows(self, *path: str) -> bool:
        """Whether the value of a key is what the person means: no fault of its section or the whole file hides it."""
        doubts = any(len(fault.path) < 2 or fault.path[0] == path[0] for fault in self.faults)
        return not doubts or self.origin(*path).kind not in ("default", "file")

    @property
    def address(self) -> Address:
        """Where the daemon listens by these settings."""
        return Address.parse(self.settings.server.host)

    async def ask(self, path: str) -> dict[str, Any] | None:
        """The JSON object that the daemon answers with; None when nobody answers, or with anything else."""
        try:
            answer = await self.daemon.get(path)
        except Silent:
            return None
        return answer.body if isinstance(answer.body, dict) else None

    async def installed(self, name: str) -> InstalledModel | None:
        """The model behind a name, aliases followed; None when no store has it whole."""
        try:
            wanted = ModelName.parse(name)
            wanted = ModelOverrides(self.settings, load_catalogue()).alias(wanted) or wanted
        except OllmlxError:
            return None
        for store in self.plugins.registry.stores.values() if self.plugins else ():
            with suppress(OllmlxError):  # it is there, and damaged: another check tells
                if (model := await store.resolve(wanted)) is not None:
                    return model
        return None


def look(
    config: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    deep: bool = False,
    online: bool = False,
) -> CheckContext:
    """This machine, with the settings a daemon would read here. Never raises: faults become part of the world."""
    from ollmlx.plugin.loader import load_plugins
    from ollmlx.settings.load import InvalidSettings, load_settings

    environ = os.environ if environ is None else environ
    faults: tuple[Fault, ...] = ()
    try:
        loaded = load_settings(config, overrides, environ, cwd)
    except InvalidSettings as error:
        loaded, faults = error.sound, error.faults
    settings = loaded.settings
    hurry = {"load_timeout": min(settings.plugins.load_timeout, PLUGIN_SECONDS)}
    hurried = settings.model_copy(update={"plugins": settings.plugins.model_copy(update=hurry)})
    return CheckContext(
        settings=settings,
        loaded=loaded,
        faults=faults,
        file=next(iter(loaded.files), None),
        asked=config,
        environ=environ,
        machine=Machine.here(),
        daemon=Daemon(Address.parse(settings.server.host), _key(settings, environ)),
        deep=deep,
        online=online,
        load=_begun(lambda: load_plugins(hurried, strict=False)),
    )


def _begun(work: Callable[[], Plugins]) -> Callable[[], Plugins]:
    """Begin it in a thread, so that what needs no plugins can be examined meanwhile; who asks for the result waits."""
    future: Future[Plugins] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised again where somebody waits
            future.set_exception(error)

    threading.Thread(target=run, name="plugins", daemon=True).start()
    return future.result


def _key(settings: Settings, environ: Mapping[str, str]) -> str | None:
    keys = settings.security.api_keys
    return environ.get("OLLAMA_API_KEY") or (keys[0] if keys else None)
