"""The small project of an agent's trial: a function with a bug, and a test that tells that it was run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from shutil import which

from ollmlx.agents.profile import Task

BROKEN = '"""Adds."""\n\n\ndef add(a, b):\n    return a - b\n'
TEST = '''"""The test of calc.py."""

import unittest
from pathlib import Path

from calc import add

Path(__file__).with_name("runs.log").open("a").write("run\\n")  # tells ollmlx that the test was run


class Adds(unittest.TestCase):
    def test_add(self):
        self.assertEqual(add(2, 3), 5)
'''
PYTHON = "python3" if which("python3") else sys.executable
COMMAND = f"{PYTHON} -B -m unittest"
PROMPT = (
    f"The test in test_calc.py fails. Run it with `{COMMAND}`, find the bug in calc.py, mend it there, and run the "
    "test again. Do not change the test. Stop when it passes."
)
TASK = Task(PROMPT, "calc.py", COMMAND)
TEST_SECONDS = 60


class Project:
    """The files in a folder, and what an agent has done with them."""

    def __init__(self, folder: Path) -> None:
        """Write the files."""
        self.folder = folder
        folder.mkdir(parents=True)
        (folder / "calc.py").write_text(BROKEN, encoding="utf-8")
        (folder / "test_calc.py").write_text(TEST, encoding="utf-8")

    @property
    def tested(self) -> bool:
        """True when the test was run."""
        return (self.folder / "runs.log").exists()

    @property
    def edited(self) -> bool:
        """True when calc.py has changed."""
        return self._read("calc.py") != BROKEN

    def passes(self) -> bool:
        """Run the test, as it was written at first; True when it passes."""
        if self._read("test_calc.py") != TEST:
            return False
        command = [sys.executable, "-P", "-B", "-m", "unittest"]
        ran = subprocess.run(command, cwd=self.folder, capture_output=True, check=False, timeout=TEST_SECONDS)
        return ran.returncode == 0

    def _read(self, name: str) -> str:
        try:
            return (self.folder / name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
