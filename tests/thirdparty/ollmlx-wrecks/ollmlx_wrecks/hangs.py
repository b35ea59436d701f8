"""It never comes back from its hook."""

import threading

from ollmlx import hookimpl


@hookimpl
def register_routes(register):
    threading.Event().wait()
