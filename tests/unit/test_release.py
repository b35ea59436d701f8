"""The files of a release beside its distributions: Homebrew's formula, Dockerfiles, bills of materials."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
from release.container import IMAGES, dockerfile, requirements
from release.formula import formula
from release.lock import LockedPackage, packages

ROOT = Path(__file__).parents[2]
FILES = "https://files.example"


def locked(name: str, *wheels: str, marker: str = "") -> LockedPackage:
    return LockedPackage(name, "1.0", marker, {f"{FILES}/{name}-1.0-{tags}.whl": tags for tags in wheels})


LOCKED = [
    locked("pure", "py3-none-any"),
    locked("fast", "cp313-cp313-macosx_10_13_universal2", "cp313-cp313-macosx_11_0_arm64",
           "cp312-cp312-macosx_11_0_arm64", "cp313-cp313-manylinux_2_28_x86_64", "py3-none-any"),
    locked("stable", "cp39-abi3-macosx_14_0_arm64", "cp39-abi3-macosx_15_0_arm64"),
    locked("metal", "py3-none-macosx_14_0_arm64", marker="sys_platform == 'darwin'"),
    locked("elsewhere", "py3-none-win_amd64", marker="sys_platform == 'win32' or platform_machine == 'x86_64'"),
]  # fmt: skip


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "ollmlx-1.2.3-py3-none-any.whl"
    path.write_bytes(b"a wheel")
    return path


def test_the_formula_has_the_wheels_that_pip_would_take_on_the_oldest_mac(wheel: Path) -> None:
    text = formula(wheel, LOCKED)
    resources = dict(re.findall(r'resource "(\w+)" do\n    url ".*", using: :nounzip\n    sha256 "(.*)"', text))
    assert resources == {
        "pure": "py3-none-any",
        "fast": "cp313-cp313-macosx_11_0_arm64",
        "stable": "cp39-abi3-macosx_14_0_arm64",
        "metal": "py3-none-macosx_14_0_arm64",
    }
    assert f'/{wheel.name}"' in text
    with pytest.raises(ValueError, match=r"late 1\.0 has no wheel"):
        formula(wheel, [locked("late", "cp313-cp313-macosx_26_0_arm64")])


def test_ruby_reads_the_formula(wheel: Path, tmp_path: Path) -> None:
    if (ruby := shutil.which("ruby")) is None:
        pytest.skip("ruby is not installed")
    file = tmp_path / "ollmlx.rb"
    file.write_text(formula(wheel, LOCKED))
    assert subprocess.run([ruby, "-wc", file], capture_output=True, text=True, check=False).stdout == "Syntax OK\n"


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_as_a_user_keeps_its_data_and_says_that_it_lives(image: str, tmp_path: Path) -> None:
    text = dockerfile(image, "ollmlx-1.2.3-py3-none-any.whl")
    steps = [line.split(" ", 1) for line in text.replace("\\\n", "").splitlines() if re.match(r"[A-Z]+ ", line)]
    words = dict(steps)
    assert (words["USER"], words["VOLUME"], words["EXPOSE"]) == ("1000", "/data", "11434")
    assert "/livez" in words["HEALTHCHECK"]
    assert [word for word, _ in steps].index("USER") > max(n for n, (word, _) in enumerate(steps) if word == "RUN")
    assert f"--require-hashes --only-binary :all: -r /tmp/ollmlx/requirements.{image}.txt" in text
    if lint := shutil.which("hadolint"):
        file = tmp_path / "Dockerfile"
        file.write_text(text)
        assert subprocess.run([lint, file], capture_output=True, text=True, check=False).stdout == ""


def test_an_image_gets_no_package_without_a_hash() -> None:
    assert requirements(LOCKED[3:]) == (
        "metal==1.0 ; sys_platform == 'darwin' \\\n    --hash=sha256:py3-none-macosx_14_0_arm64\n"
        "elsewhere==1.0 ; sys_platform == 'win32' or platform_machine == 'x86_64' \\\n"
        "    --hash=sha256:py3-none-win_amd64\n"
    )


def test_a_lock_file_is_read() -> None:
    one = {"name": "a", "version": "2", "wheels": [{"url": f"{FILES}/a.whl", "hashes": {"sha256": "00"}}]}
    assert packages({"packages": [one, {**one, "name": "b", "marker": "m"}]}) == [
        LockedPackage("a", "2", "", {f"{FILES}/a.whl": "00"}),
        LockedPackage("b", "2", "m", {f"{FILES}/a.whl": "00"}),
    ]


def test_the_bills_of_materials_are_valid_and_name_what_is_installed_and_bundled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cyclonedx", reason="pip install 'ollmlx[release]'")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator
    from release import sbom

    pluggy = LockedPackage("pluggy", version("pluggy"), "", {f"{FILES}/pluggy.whl": "0" * 64})
    monkeypatch.setattr(
        sbom, "lock", lambda *extras, python: [pluggy, *(LockedPackage(one.name, "1.0", "", {}) for one in LOCKED)]
    )
    page, whole, again = (tmp_path / name for name in ("page.json", "whole.json", "again.json"))
    sbom.write_page_bom(page, "1.2.3")
    sbom.write_bom(whole, "1.2.3")
    sbom.write_bom(again, "1.2.3")
    for file in (page, whole):
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(file.read_text()) is None
    assert whole.read_bytes() == again.read_bytes()
    in_page, in_all = ({one["purl"] for one in json.loads(file.read_text())["components"]} for file in (page, whole))
    assert {purl.partition("@")[0] for purl in in_page} >= {"pkg:npm/preact", "pkg:npm/katex", "pkg:npm/dompurify"}
    assert in_all - in_page == {f"pkg:pypi/{one.name}@{one.version}" for one in (pluggy, *(LOCKED))}
    edges = {one["ref"]: one.get("dependsOn", []) for one in json.loads(whole.read_text())["dependencies"]}
    assert {*in_page, f"pkg:pypi/pluggy@{pluggy.version}"} == set(edges["pkg:pypi/ollmlx@1.2.3"])
