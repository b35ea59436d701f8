"""`ollmlx plugin list`: a line for each plugin, and the reasons why some are off."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ollmlx.cli import plugin
from ollmlx.cli.formatting import cells
from ollmlx.cli.main import main
from ollmlx.plugin.discovery import LoadedPlugin

PLUGINS = (
    LoadedPlugin("lantern", "ollmlx-lantern 1.2.3", "1.2.3", hooks=("register_backends", "register_stores")),
    LoadedPlugin("tidy", "/home/ada/a/folder/of/my/own/plugins/that/is/deep/tidy.py"),
    LoadedPlugin(
        "hangs",
        "ollmlx-wrecks 0.0.1",
        "0.0.1",
        problem="it did not finish loading within 10s",
        code="PLG001",
        hint="raise load_timeout in [plugins], if it is only slow",
    ),
    LoadedPlugin("pypi", "ollmlx 0.1.0", "0.1.0", problem="switched off in [plugins] disabled"),
)


def test_every_plugin_has_a_line_and_a_plugin_that_is_off_has_its_reason() -> None:
    assert plugin.listing(PLUGINS[:1] + PLUGINS[2:], None).splitlines() == [
        "NAME       VERSION    FROM              REGISTERS           STATE",
        "lantern    1.2.3      ollmlx-lantern    backends, stores    on",
        "hangs      0.0.1      ollmlx-wrecks                         off",
        "pypi       0.1.0      ollmlx                                off",
        "",
        "hangs is off: it did not finish loading within 10s; raise load_timeout in [plugins], if it is only slow"
        " (PLG001)",
        "",
        "pypi is off: switched off in [plugins] disabled",
    ]


@pytest.mark.parametrize("columns", [50, 60, 80, 200])
def test_it_fits_the_terminal_and_no_reason_is_cut(columns: int) -> None:
    shown = plugin.listing(PLUGINS, columns)
    assert max(map(cells, shown.splitlines())) <= columns
    assert "raise load_timeout in [plugins], if it is only slow (PLG001)" in " ".join(shown.split())


def test_a_reason_of_several_lines_is_one_paragraph() -> None:
    broken = LoadedPlugin("broken", "x.py", problem="SyntaxError: bad\n  line 3\n")
    assert plugin.listing([broken], None).endswith("\n\nbroken is off: SyntaxError: bad line 3")


def test_as_json_it_has_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.py").write_text("raise RuntimeError('boom')", encoding="utf-8")
    config = tmp_path / "ollmlx.toml"
    config.write_text("[plugins]\npaths = ['bad.py']\nrequired = ['bad']\ndisabled = ['hub']\n", encoding="utf-8")
    assert main(["--config", str(config), "plugin", "list", "--json"]) == 0
    reported = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert reported["bad"].pop("seconds") >= 0
    assert reported["bad"] == {
        "name": "bad",
        "version": "",
        "origin": str(tmp_path / "bad.py"),
        "hooks": [],
        "enabled": False,
        "problem": "RuntimeError: boom",
        "code": "PLG001",
        "hint": None,
    }
    assert reported["hub"]["problem"] == "switched off in [plugins] disabled"
    assert reported["mlx"]["enabled"]
    assert "register_backends" in reported["mlx"]["hooks"]
