"""Coverage-guided fuzzing of the parsers of strangers' bytes, with atheris (`make fuzz-parsers`).

    python -m tests.fuzz.guided [NAME...] [--seconds 600]

What an input makes a parser do that is neither a result nor one of its own errors is a crash; the input is kept in the
working directory, and belongs into the corpus with the repair.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parent / "corpus"
LONGEST = 4096
MEASURED = ("ollmlx", "ollmlx_ollama_api", "ollmlx_openai_api")
"""The packages whose coverage guides the search. They are imported here, not above: atheris changes them then."""


def fuzz(name: str, seconds: int) -> None:
    """Fuzz one parser in this process, which ends with it."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=list(MEASURED)):
        parsers = importlib.import_module("tests.fuzz.parsers")

    def one_input(data: bytes) -> None:
        parsers.replay(name, data)

    with tempfile.TemporaryDirectory() as found:
        arguments = [f"-max_total_time={seconds}", f"-max_len={LONGEST}", "-rss_limit_mb=2048", "-timeout=20"]
        atheris.Setup([sys.argv[0], *arguments, f"-artifact_prefix={name}-", found, str(CORPUS / name)], one_input)
        atheris.Fuzz()


def main() -> int:
    names = sorted(folder.name for folder in CORPUS.iterdir())
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"parsers, of {', '.join(names)} (default: all)")
    parser.add_argument("--seconds", type=int, default=600, help="time for each parser (default: 600)")
    given = parser.parse_args()
    if len(given.names) == 1:
        fuzz(given.names[0], given.seconds)
        return 0
    failed = []
    for name in given.names or names:
        argv = [sys.executable, "-m", "tests.fuzz.guided", name, "--seconds", str(given.seconds)]
        if subprocess.run(argv, check=False).returncode:
            failed.append(name)
    sys.stdout.write(f"failed: {', '.join(failed) or 'none'}\n")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
