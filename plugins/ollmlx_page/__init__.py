"""The web page at `/ui/`: chat, models, runners, and how to connect other programs.

Its sources are in the folder `page` of the repository; `static` has the built files, so that nobody needs node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ollmlx import hookimpl


@hookimpl
def register_routes(register: Callable[[str, Any], None]) -> None:
    def make(service: Any) -> Any:
        from ollmlx_page.routes import blueprint

        return blueprint(service)

    register("page", make)
