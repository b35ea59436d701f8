"""The daemon says early which package is newer than those that ollmlx was tested with."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, requires

import pytest
from packaging.requirements import Requirement

from ollmlx.cli.requirements import check_versions
from ollmlx.errors import ConfigError

WANTED = ("hypercorn<0.19,>=0.18", "h11>=0.16,<0.17", "rich>=14", 'mlx[cuda]<1; extra == "cuda"')


def check(**installed: str) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    check_versions(WANTED, version)


def test_what_is_installed_here_was_tested() -> None:
    check_versions()
    bounded = {Requirement(line).name for line in requires("ollmlx") or () if "<" in line.partition(";")[0]}
    assert {"hypercorn", "h11", "jinja2", "filelock"} <= bounded


@pytest.mark.parametrize("version", ["0.19", "0.19.1", "0.17"])
def test_another_version_is_named_with_the_command_that_installs_a_tested_one(version: str) -> None:
    with pytest.raises(ConfigError, match=f"not tested with hypercorn {version}, and") as refused:
        check(hypercorn=version, h11="0.16.2", rich="1", mlx="9")
    assert refused.value.hint == "pip install 'hypercorn<0.19,>=0.18'"


def test_packages_that_fit_or_are_missing_are_no_concern() -> None:
    check(hypercorn="0.18.1", rich="1")
