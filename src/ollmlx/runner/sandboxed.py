"""`python -m ollmlx.runner.sandboxed --read PATH --write FOLDER -- PROGRAM ARGUMENTS`: runs a program in the sandbox.

For programs that read strangers' files and are no runners: importers. What they cannot do is inherited by all that they
start. The program takes this process's place.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from ollmlx.runner import sandbox


def main() -> NoReturn:
    parser = argparse.ArgumentParser(prog="python -m ollmlx.runner.sandboxed")
    parser.add_argument("--read", action="append", default=[], type=Path)
    parser.add_argument("--write", action="append", default=[], type=Path)
    parser.add_argument("program", nargs="+")
    given = parser.parse_args()
    named = [Path(word) for word in given.program if word.startswith("/")]
    readable = [*named, *(file for path in given.read for file in sandbox.files_of(path))]
    sandbox.enter(readable, [Path(tempfile.gettempdir()), *given.write], os.environ.get(sandbox.VARIABLE, "on"))
    sys.stdout.flush()
    os.execv(given.program[0], given.program)  # noqa: S606 - no shell is meant


if __name__ == "__main__":
    main()
