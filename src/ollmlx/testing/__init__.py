"""The test kit: what plugin authors, and ollmlx itself, test with. Needs pytest (`pip install 'ollmlx[dev]'`).

`BackendSuite`, `StoreSuite`, `RoutesSuite`, `CheckSuite`: subclass one in five lines, and your plugin is held to the
contract. `FAKE_PLUGIN`: a folder for `[plugins] paths`; models without weights that can misbehave. `eventually`:
waiting without sleeping. `ollmlx.testing.guards`: pytest fixtures that fail a test that leaks.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ollmlx.doctor.context import CheckContext
    from ollmlx.settings import Settings
    from ollmlx.testing.child import RunnerProcess, engine_command, fake_runner
    from ollmlx.testing.models import fake_model
    from ollmlx.testing.suites.backend import BackendSuite
    from ollmlx.testing.suites.check import CheckSuite
    from ollmlx.testing.suites.routes import RoutesSuite
    from ollmlx.testing.suites.store import StoreSuite
    from ollmlx.testing.waiting import eventually, wait_until

FAKE_PLUGIN = Path(__file__).parent / "fake"
"""The plugin with fake models, as a folder for `[plugins] paths`; its table is `[plugins.fake]`."""

_HOMES = {
    "Settings": "ollmlx.settings",
    "CheckContext": "ollmlx.doctor.context",
    "World": "ollmlx.doctor.context",
    "CheckSuite": "ollmlx.testing.suites.check",
    "RoutesSuite": "ollmlx.testing.suites.routes",
    "StoreSuite": "ollmlx.testing.suites.store",
    "BackendSuite": "ollmlx.testing.suites.backend",
    "RunnerProcess": "ollmlx.testing.child",
    "eventually": "ollmlx.testing.waiting",
    "engine_command": "ollmlx.testing.child",
    "fake_model": "ollmlx.testing.models",
    "fake_runner": "ollmlx.testing.child",
    "wait_until": "ollmlx.testing.waiting",
}

RENAMED = {"World": "CheckContext"}
"""Names of API 1 and what they are called today."""

__all__ = [
    "FAKE_PLUGIN",
    "BackendSuite",
    "CheckContext",
    "CheckSuite",
    "RoutesSuite",
    "RunnerProcess",
    "Settings",
    "StoreSuite",
    "engine_command",
    "eventually",
    "fake_model",
    "fake_runner",
    "wait_until",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), RENAMED.get(name, name))
