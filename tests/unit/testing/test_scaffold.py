"""`ollmlx plugin new`: what it writes is right at once; what it cannot write it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ollmlx.errors import Conflict, InvalidRequest
from ollmlx.testing.scaffold import KINDS, write_plugin


@pytest.mark.parametrize("name", ["", "My", "my_store", "-x", "x-", "../x", "x" * 41, "1x", "a b"])
def test_a_name_that_cannot_be_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="plugin name"):
        write_plugin(name, "store", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_kind_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as refused:
        write_plugin("mine", "engine", tmp_path)
    assert refused.value.hint == f"use one of: {', '.join(KINDS)}"


def test_nothing_is_overwritten_and_no_name_is_taken_twice(tmp_path: Path) -> None:
    write_plugin("mine", "store", tmp_path)
    with pytest.raises(Conflict, match="exists"):
        write_plugin("mine", "store", tmp_path)
    with pytest.raises(Conflict, match="already"):
        write_plugin("hub", "store", tmp_path)


def test_what_is_written_has_clean_code(tmp_path: Path) -> None:
    """That it passes its own tests, installed, is seen in tests/e2e/test_third_party.py."""
    for kind in KINDS:
        write_plugin(f"my-{kind}", kind, tmp_path)
    rules = ["--isolated", "--no-cache", "--line-length", "120", "--select", "E,F,I,UP,B,RUF100"]
    argv = [sys.executable, "-m", "ruff", "check", *rules, "."]
    for top in tmp_path.iterdir():
        done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=top, timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr
