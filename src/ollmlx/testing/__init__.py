"""The test kit: what plugin authors, and ollmlx itself, test with. Needs pytest (`pip install 'ollmlx[dev]'`).

`BackendSuite`, `StoreSuite`, `RoutesSuite`, `CheckSuite`: subclass one in five lines, and your plugin is held to the
contract. `FAKE_PLUGIN`: a folder for `[plugins] paths`; models without weights that can misbehave. `eventually`:
waiting without sleeping. `ollmlx.testing.guards`: pytest fixtures that fail a test that leaks.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ollmlx._lazy import lazy_exports

if TYPE_CHECKING:
    from ollmlx.doctor.context import CheckContext as CheckContext
    from ollmlx.settings import Settings as Settings
    from ollmlx.testing.child import RunnerProcess as RunnerProcess
    from ollmlx.testing.child import engine_command as engine_command
    from ollmlx.testing.child import fake_runner as fake_runner
    from ollmlx.testing.models import fake_model as fake_model
    from ollmlx.testing.suites.backend import BackendSuite as BackendSuite
    from ollmlx.testing.suites.check import CheckSuite as CheckSuite
    from ollmlx.testing.suites.routes import RoutesSuite as RoutesSuite
    from ollmlx.testing.suites.store import StoreSuite as StoreSuite
    from ollmlx.testing.waiting import eventually as eventually
    from ollmlx.testing.waiting import wait_until as wait_until

FAKE_PLUGIN = Path(__file__).parent / "fake"
"""The plugin with fake models, as a folder for `[plugins] paths`; its table is `[plugins.fake]`."""

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "ollmlx.doctor.context": ("CheckContext",),
        "ollmlx.settings": ("Settings",),
        "ollmlx.testing.child": ("RunnerProcess", "engine_command", "fake_runner"),
        "ollmlx.testing.models": ("fake_model",),
        "ollmlx.testing.suites.backend": ("BackendSuite",),
        "ollmlx.testing.suites.check": ("CheckSuite",),
        "ollmlx.testing.suites.routes": ("RoutesSuite",),
        "ollmlx.testing.suites.store": ("StoreSuite",),
        "ollmlx.testing.waiting": ("eventually", "wait_until"),
    },
    renamed={"World": "CheckContext"},
    eager=("FAKE_PLUGIN",),
)
