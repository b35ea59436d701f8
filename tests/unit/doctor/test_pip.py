"""Whatever pip the terminal has, what the doctor prints installs into the Python that runs ollmlx."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from ollmlx.doctor.pip import own_pip

BESIDE, ELSEWHERE = {"pip": "/venv/bin/pip"}, {"pip": "/usr/bin/pip"}


@pytest.mark.parametrize(
    ("found", "has_pip", "expected"),
    [
        (BESIDE, True, "pip install x"),
        (ELSEWHERE, True, "/venv/bin/python -m pip install x"),
        ({}, True, "/venv/bin/python -m pip install x"),
        ({"uv": "/usr/bin/uv"}, False, "uv pip install x --python /venv/bin/python"),
        ({"uv": "/usr/bin/uv"}, True, "/venv/bin/python -m pip install x"),
    ],
)
def test_pip_is_the_one_of_this_python(found: Mapping[str, str], has_pip: bool, expected: str) -> None:
    typed, python = ("pip install x", "ollmlx serve"), "/venv/bin/python"
    assert own_pip(typed, python=python, which=found.get, has_pip=lambda: has_pip) == (expected, "ollmlx serve")
