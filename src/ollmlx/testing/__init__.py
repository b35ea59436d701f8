"""The test kit of plugin authors and of ollmlx itself. Needs pytest (`pip install 'ollmlx[dev]'`).

`BackendSuite`, `StoreSuite`, `RoutesSuite` and `CheckSuite` hold a plugin to its contract: a subclass takes five lines.
`FAKE_PLUGIN` is a folder for `[plugins] paths`, with models that have no weights and can misbehave. `eventually` waits
for a condition instead of sleeping. `ollmlx.testing.guards` has pytest fixtures that fail a test that leaks.
Only tests import this package, besides `ollmlx plugin new`.
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
    from ollmlx.testing.fake.store import fake_model as fake_model
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
        "ollmlx.doctor.context": "CheckContext",
        "ollmlx.settings": "Settings",
        "ollmlx.testing.child": "RunnerProcess engine_command fake_runner",
        "ollmlx.testing.fake.store": "fake_model",
        "ollmlx.testing.suites.backend": "BackendSuite",
        "ollmlx.testing.suites.check": "CheckSuite",
        "ollmlx.testing.suites.routes": "RoutesSuite",
        "ollmlx.testing.suites.store": "StoreSuite",
        "ollmlx.testing.waiting": "eventually wait_until",
    },
    renamed={"World": "CheckContext"},
    eager=("FAKE_PLUGIN",),
)
