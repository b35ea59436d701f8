"""The child's program: `python -m ollmlx.runner --engine package.module:Class --fd N` serves one engine.

The daemon starts it and imports nothing of it. Engines and stores import `ollmlx.runner.kit`. A plugin whose runner is
a program of its own imports the names below, which load on first use: such a program ties itself to its parent process
before it imports anything slow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollmlx._lazy import lazy_exports

if TYPE_CHECKING:
    from ollmlx.runner.parent import confine as confine
    from ollmlx.runner.parent import tie as tie
    from ollmlx.runner.sandbox import enter as enter
    from ollmlx.runner.sandbox import files_of as files_of
    from ollmlx.runner.server import serve as serve
    from ollmlx.runner.startup import CannotStart as CannotStart
    from ollmlx.runner.startup import read_config as read_config
    from ollmlx.runner.startup import start_logging as start_logging

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "ollmlx.runner.parent": "confine tie",
        "ollmlx.runner.sandbox": "enter files_of",
        "ollmlx.runner.server": "serve",
        "ollmlx.runner.startup": "CannotStart read_config start_logging",
    },
)
