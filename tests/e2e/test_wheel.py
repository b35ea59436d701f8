"""The contents of `pip install ollmlx`: built from the checkout and from its source archive, run without either."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from tests.audit import wheel_faults

from ollmlx.errors.findings import CODES

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
OWN_PAGES = {f"ollmlx/diagnostics/{page.name}" for page in (ROOT / "diagnostics").glob("*.md")}
PLUGIN_PAGES = {str(page.relative_to(ROOT / "plugins")) for page in ROOT.glob("plugins/*/diagnostics/*.md")}


def built(source: Path, folder: Path) -> Path:
    """The wheel of a source tree."""
    from hatchling.builders.wheel import WheelBuilder

    (path,) = WheelBuilder(str(source)).build(directory=str(folder), versions=["standard"])
    return Path(path)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Built from the checkout, and from what its source archive holds."""
    pytest.importorskip("hatchling", reason="distributions are built with hatchling: pip install 'ollmlx[dev]'")
    pytest.importorskip("cyclonedx", reason="pip install 'ollmlx[release]'")
    from hatchling.builders.sdist import SdistBuilder

    subprocess.run([sys.executable, "-m", "release", "page"], cwd=ROOT, check=True)  # as `make dist` does
    place = tmp_path_factory.mktemp("distributions")
    (archive,) = SdistBuilder(str(ROOT)).build(directory=str(place / "sdist"), versions=["standard"])
    with tarfile.open(archive) as packed:
        packed.extractall(place / "unpacked", filter="data")
    (unpacked,) = (place / "unpacked").iterdir()
    return {"checkout": built(ROOT, place / "one"), "archive": built(unpacked, place / "two")}


def test_every_page_is_in_the_wheel_and_nothing_of_the_tests_wherever_it_was_built(wheels: dict[str, Path]) -> None:
    names, others = (set(zipfile.ZipFile(wheel).namelist()) for wheel in wheels.values())
    assert names == others
    assert {f"ollmlx/diagnostics/{code}.md" for code in CODES} | OWN_PAGES | PLUGIN_PAGES <= names
    assert "ollmlx/py.typed" in names
    assert not [name for name in names if name.startswith("tests/") or "__pycache__" in name]


def test_the_wheel_names_each_package_in_the_files_of_its_page_with_the_licence(wheels: dict[str, Path]) -> None:
    with zipfile.ZipFile(wheels["archive"]) as wheel:
        (info,) = {name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
        materials = json.loads(wheel.read(f"{info}/sboms/ollmlx-page.cdx.json"))
        licences = wheel.read(f"{info}/licenses/plugins/ollmlx_page/static/licences.txt").decode()
        metadata = wheel.read(f"{info}/METADATA").decode()
    bundled = {(one["name"], one["version"]) for one in materials["components"]}
    assert {name for name, _ in bundled} >= {"preact", "marked", "dompurify", "highlight.js", "katex"}
    assert set(re.findall(r"^(\S+) ([\d.]+): ", licences, re.MULTILINE)) == bundled
    assert "License-Expression: Apache-2.0 AND BSD-3-Clause AND MIT\n" in metadata


def test_the_wheel_has_what_belongs_there_and_each_fault_is_found(wheels: dict[str, Path], tmp_path: Path) -> None:
    assert wheel_faults(wheels["checkout"]) == []
    spoilt = tmp_path / "spoilt.whl"
    with zipfile.ZipFile(wheels["checkout"]) as good, zipfile.ZipFile(spoilt, "w") as bad:
        for name in good.namelist():
            if not name.endswith(("LICENSE", "ollmlx_page/routes.py", "catalogue.toml", "ollmlx_hub/__init__.py")):
                bad.writestr(name, good.read(name))
        for name in ("tests/x.py", "page/main.ts", "../up.py", "ollmlx_page/static/app.js.map"):
            bad.writestr(name, b"")
        bad.writestr("ollmlx/where.txt", str(ROOT))
    assert sorted(fault.partition(":")[0] for fault in wheel_faults(spoilt)) == [
        "../up.py", "ollmlx/model/catalogue.toml", "ollmlx/where.txt", "ollmlx_hub/__init__.py",
        "ollmlx_page/routes.py", "ollmlx_page/static/app.js.map", "page/main.ts", "tests/x.py",
        "the entry point ollmlx_hub has no module", "the licence is missing",
    ]  # fmt: skip


def test_an_installed_wheel_explains_its_codes_and_its_plugins(wheels: dict[str, Path], tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheels["archive"]).extractall(site)
    (tmp_path / "empty").mkdir()

    def python(*words: str) -> str:
        """Run what was unpacked, in an empty folder: nothing of the checkout is near."""
        environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(site)}
        argv = [sys.executable, *words]
        done = subprocess.run(argv, capture_output=True, text=True, env=environ, cwd=tmp_path / "empty", check=True)
        return done.stdout

    where = "from ollmlx.doctor.runbooks import folder; print(folder())"
    assert python("-c", where).strip() == str(site / "ollmlx/diagnostics")
    assert python("-m", "ollmlx", "doctor", "--explain", "ENV021").startswith("# ENV021: ")
    listed = {one["code"] for one in json.loads(python("-m", "ollmlx", "doctor", "--list", "--json"))}
    assert listed == {*CODES, *(Path(page).stem for page in PLUGIN_PAGES)}
