"""It registers something that is no store."""

from ollmlx import hookimpl


@hookimpl
def register_stores(register):
    register("a store, honestly")
