"""`ollmlx upgrade`: which version the index has, and the command for each way to install."""

from __future__ import annotations

import json
from importlib.metadata import Distribution
from pathlib import Path

import pytest
from tests.servers.serving import Answer, Served

import ollmlx.cli.upgrade
from ollmlx.cli.main import main
from ollmlx.cli.upgrade import newest_version, upgrade_command
from ollmlx.errors import NotFound


def page(*names: str, yanked: str = "") -> str:
    files = [{"filename": name, "url": f"https://files/{name}", "yanked": name == yanked} for name in names]
    return json.dumps({"meta": {"api-version": "1.1"}, "name": "ollmlx", "files": files})


def wheel(version: str) -> str:
    return f"ollmlx-{version}-py3-none-any.whl"


HTML = f"""<!DOCTYPE html><html><body>
<a href="../x/{wheel("0.9.0")}#sha256=00" data-requires-python="&gt;=3.11">{wheel("0.9.0")}</a>
<a href="../x/{wheel("0.10.0")}#sha256=00">{wheel("0.10.0")}</a>
<a href="../x/{wheel("0.11.0")}#sha256=00" data-yanked="broken">{wheel("0.11.0")}</a></body></html>"""


@pytest.mark.parametrize(
    ("kind", "body", "installed", "newest"),
    [
        ("application/json", page(wheel("0.9.0"), wheel("0.10.0"), "ollmlx-0.8.0.tar.gz"), "0.1.0", "0.10.0"),
        ("application/json", page("ollmlx-0.2.0.tar.gz", wheel("0.3.0"), yanked=wheel("0.3.0")), "0.1.0", "0.2.0"),
        ("application/json", page(wheel("0.2.0"), wheel("0.3.0rc1"), wheel("junk"), "other-9.whl"), "0.1.0", "0.2.0"),
        ("application/json", page(wheel("0.2.0"), wheel("0.3.0rc1")), "0.3.0b1", "0.3.0rc1"),
        ("text/html", HTML, "0.1.0", "0.10.0"),
    ],
)
def test_the_newest_version_is_found(kind: str, body: str, installed: str, newest: str) -> None:
    assert newest_version("https://index/simple/", installed, lambda url: (kind, body)) == newest


def test_an_index_without_a_version_says_so() -> None:
    with pytest.raises(NotFound):
        newest_version("https://index/simple", "0.1.0", lambda url: ("application/json", page()))


@pytest.mark.parametrize(
    ("prefix", "files", "metadata", "command"),
    [
        ("venv", [], {"INSTALLER": "pip\n"}, "/py -m pip install --upgrade ollmlx"),
        ("venv", [], {"INSTALLER": "uv"}, "uv pip install --python /py --upgrade ollmlx"),
        ("uv/tools/ollmlx", ["uv-receipt.toml"], {"INSTALLER": "uv"}, "uv tool upgrade ollmlx"),
        ("pipx/venvs/ollmlx", ["pipx_metadata.json"], {"INSTALLER": "pip"}, "pipx upgrade ollmlx"),
        ("Cellar/ollmlx/0.1.0/libexec", [], {"INSTALLER": "pip"}, "brew upgrade ollmlx"),
        ("venv", [], {"direct_url.json": '{"url": "file:///src/a%20b", "dir_info": {"editable": true}}'},
         "git -C /src/a b pull"),
    ],
)  # fmt: skip
def test_the_command_is_that_of_the_installer(
    tmp_path: Path, prefix: str, files: list[str], metadata: dict[str, str], command: str
) -> None:
    folder, info = tmp_path / prefix, tmp_path / "ollmlx-0.1.0.dist-info"
    for each in (folder, info):
        each.mkdir(parents=True)
    for name in files:
        (folder / name).touch()
    for name, text in metadata.items():
        (info / name).write_text(text)
    assert upgrade_command(Distribution.at(info), folder, "/py") == command


@pytest.mark.parametrize(
    ("status", "body", "code", "said"),
    [
        (200, page(wheel("99.0")), 1, "ollmlx 99.0 is available"),
        (200, page(wheel("0.0.1")), 0, "is the newest version"),
        (404, "", 1, "does not know ollmlx"),
        (500, "", 1, "status 500"),
    ],
)
def test_the_verb_tells_and_installs_nothing(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    status: int,
    body: str,
    code: int,
    said: str,
) -> None:
    served = Served(
        lambda asked: Answer(status, body.encode(), {"content-type": "application/vnd.pypi.simple.v1+json"})
    )
    for name in ollmlx.cli.upgrade.INDEX_VARIABLES:
        monkeypatch.setenv(name, f"{served.url}/simple")
    try:
        assert main(["upgrade"]) == code
    finally:
        served.close()
    captured = capsys.readouterr()
    assert said in captured.out + captured.err


def test_a_silent_index_is_told(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], free_port: int
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://127.0.0.1:{free_port}/simple")
    assert main(["upgrade"]) == 1
    assert "does not answer" in capsys.readouterr().err
