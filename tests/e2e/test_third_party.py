"""Third-party distributions, installed with pip into a fresh environment beside ollmlx, driven over HTTP."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from ollmlx.testing.daemon import Daemon
from ollmlx.testing.scaffold import KINDS

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SETTLE = """
import sys
from pathlib import Path
from ollmlx import ModelName
from ollmlx_lantern.store import LanternStore
made = Path(sys.argv[1])
LanternStore(made.parent).settle(ModelName.parse("bright"), made, format="lantern", source="local")
"""
"""Put a model into the lantern's store, as its own pull would."""
LANTERN = Path(__file__).parents[1] / "thirdparty" / "ollmlx-lantern"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of an environment that has all their distributions, and sees what is installed here."""
    pytest.importorskip("hatchling", reason="distributions are built with hatchling: pip install 'ollmlx[dev]'")
    place: Path = tmp_path_factory.mktemp("environment")
    ran(sys.executable, "-m", "venv", "--without-pip", str(place))
    interpreter = str(place / "bin" / "python")
    packages = Path(ran(interpreter, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (packages / "beside.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    written(interpreter, place / "src")
    sources = [str(folder) for folder in sorted((place / "src").iterdir())]
    ran(sys.executable, "-m", "pip", "--python", interpreter, "install", *options, *sources)
    return interpreter


def written(interpreter: str, folder: Path) -> None:
    """A copy of the distribution in the test tree, which building would write into; and a new one of each kind."""
    shutil.copytree(LANTERN, folder / LANTERN.name, ignore=shutil.ignore_patterns("__pycache__"))
    for kind in KINDS:
        new = ran(interpreter, "-m", "ollmlx", "plugin", "new", f"my-{kind}", "--kind", kind, "--into", str(folder))
        assert f"next: cd {folder / f'ollmlx-my-{kind}'} && pip install -e '.[dev]' && pytest" in new


def ran(*argv: str, cwd: Path | None = None, **variables: str) -> str:
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, cwd=cwd, timeout=200, env={**os.environ, **variables}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def daemon(python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder: Path = tmp_path_factory.mktemp("daemon")
    one = Daemon(folder, python=python, settings={"plugins": {"lantern": {"oil": 2}, "disabled": ["pypi"]}})
    making = folder / "models" / "lantern" / ".making"
    making.mkdir(parents=True)
    (making / "light.txt").write_text("Light!", encoding="utf-8")
    ran(python, "-c", SETTLE, str(making))
    yield one.start()
    assert one.stop() == 0, one.log_text


def test_their_own_tests_pass_where_they_are_installed(python: str, tmp_path: Path) -> None:
    written_here = Path(python).parents[1] / "src"
    names = ["ollmlx-lantern", *(f"ollmlx-my-{kind}" for kind in KINDS)]
    config = written_here / names[-1] / "pyproject.toml"
    options = ["-q", "-p", "pytest_asyncio.plugin", "-p", "no:cacheprovider", "-c", str(config), "-o", "pythonpath="]
    said = ran(
        python, "-m", "pytest", *options, *(str(written_here / name / "tests") for name in names), cwd=tmp_path,
        PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", PYTHONDONTWRITEBYTECODE="1",
    )  # fmt: skip
    assert "failed" not in said


def test_every_plugin_is_on_and_those_that_plugin_new_wrote_answer(daemon: Daemon) -> None:
    listed = json.loads(daemon.cli("plugin", "list", "--json", "--config", str(daemon.config)).stdout)
    plugins = {plugin["name"]: plugin for plugin in listed}
    hooks = {name: plugin["hooks"] for name, plugin in plugins.items() if "my-" in name and plugin["enabled"]}
    known = {"backend": "register_backends", "store": "register_stores", "routes": "register_routes"}
    assert hooks == {f"my-{kind}": [known.get(kind, "register_checks")] for kind in KINDS}
    assert daemon.get("/my-routes/models").json() == ["bright"]
    lantern = plugins["lantern"]
    assert (lantern["origin"], lantern["enabled"], len(lantern["hooks"])) == ("ollmlx-lantern 1.2.3", True, 5)


def test_its_store_backend_and_routes_answer_over_http(daemon: Daemon) -> None:
    (model,) = daemon.get("/api/tags").json()["models"]
    assert model["name"] == "bright:latest"
    shown = daemon.post("/api/show", {"model": "bright"}).json()
    assert (shown["store"], shown["backend"]) == ("lantern", "lantern")
    asked = {"model": "bright", "prompt": "abc def", "raw": True, "stream": False}
    assert daemon.post("/api/generate", asked).json()["response"] == "cba fed Light!"
    assert daemon.get("/lantern").json() == {"oil": 2}
    assert daemon.post("/lantern/say", {"model": "bright", "text": "on"}).json() == {"said": "no Light!"}
    assert daemon.post("/lantern/say", {"model": "dark", "text": "on"}).status_code == 404
    (loaded,) = daemon.loaded()
    assert loaded["backend"] == "lantern"
    assert "/lantern/say" in daemon.get("/openapi.json").json()["paths"]


def test_its_check_finds_and_its_page_explains(daemon: Daemon) -> None:
    report = daemon.cli("doctor", "lantern", "--deep", "--json", "--config", str(daemon.config))
    assert [finding["code"] for finding in json.loads(report.stdout)["findings"]] == ["LAN001"]
    page = daemon.cli("doctor", "--explain", "LAN001", "--config", str(daemon.config))
    assert page.stdout.startswith("# LAN001: little oil is left")
