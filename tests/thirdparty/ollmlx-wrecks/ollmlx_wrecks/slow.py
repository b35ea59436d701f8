"""It takes its time, and works."""

import time

from ollmlx import hookimpl

time.sleep(1.1)


@hookimpl
def register_checks(register):
    pass
