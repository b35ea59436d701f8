"""It implements a hook that does not exist."""

from ollmlx import hookimpl


@hookimpl
def register_beckends(register):
    pass
