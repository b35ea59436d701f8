"""`python -m ollmlx` is the command `ollmlx`."""

from __future__ import annotations

from ollmlx.cli.main import entry

if __name__ == "__main__":
    entry()
