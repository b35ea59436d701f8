"""Loading plugins: a broken one is switched off by name and the others work."""

from __future__ import annotations

import builtins
import sys
import threading
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ollmlx import Store
from ollmlx.errors import ConfigError, Unsupported
from ollmlx.plugin.discovery import LoadedPlugin
from ollmlx.plugin.loader import Plugins, load_plugins
from ollmlx.plugin.registry import Registry
from ollmlx.settings.model import PluginSettings, Settings
from ollmlx.testing import wait_until

GOOD = """
from ollmlx import hookimpl

class Thing:
    name = "{name}"
    accepts = estimate = command = importer = print

@hookimpl
def register_backends(register):
    register(Thing())
"""

HOOK = "from ollmlx import hookimpl\n@hookimpl\ndef register_{0}(register): register({1})"


def load(tmp_path: Path, section: Mapping[str, object] | None = None, **sources: str) -> Plugins:
    """Load plugin files with these sources. section: other keys of [plugins]."""
    paths = []
    for name, source in sources.items():
        paths.append(tmp_path / f"{name}.py")
        paths[-1].write_text(source, encoding="utf-8")
    plugins = PluginSettings.model_validate({"paths": paths, **(section or {})})
    return load_plugins(Settings(plugins=plugins), points=())


def only(plugins: Plugins, name: str) -> LoadedPlugin:
    return next(plugin for plugin in plugins.loaded if plugin.name == name)


@pytest.mark.parametrize(
    ("source", "code", "problem"),
    [
        ("raise RuntimeError('boom')", "PLG001", "RuntimeError: boom"),
        ("raise SystemExit(3)", "PLG001", "SystemExit"),
        ("raise KeyboardInterrupt", "PLG001", "KeyboardInterrupt"),
        ("def broken(:", "PLG001", "SyntaxError"),
        ("ollmlx_api = 99", "PLG004", "plugin API 99"),
        ("from ollmlx import hookimpl\n@hookimpl\ndef register_backend(register): ...", "PLG005", "register_backend"),
        ("from ollmlx import hookimpl\n@hookimpl\ndef register_backends(register): 1 / 0", "PLG001", "ZeroDivision"),
        (HOOK.format("settings", "3"), "PLG005", "pydantic"),
        (HOOK.format("backends", "3"), "PLG005", "a int as Backend, without accepts, command"),
        (HOOK.format("stores", "None"), "PLG005", "as Store, without"),
        (HOOK.format("sources", "None"), "PLG005", "as Source, without"),
        (HOOK.format("checks", "None"), "PLG005", "as Check, without codes, group, name, run"),
        (HOOK.format("routes", "'x', None"), "PLG005", "a name and a function"),
    ],
)
@pytest.mark.fault(48)
@pytest.mark.finding("PLG001", "PLG004", "PLG005")
def test_a_broken_plugin_is_off_by_name_and_the_others_register(
    tmp_path: Path, source: str, code: str, problem: str
) -> None:
    plugins = load(tmp_path, bad=source, good=GOOD.format(name="thing"))
    bad = only(plugins, "bad")
    assert not bad.enabled
    assert bad.code == code
    assert problem in (bad.problem or "")
    assert plugins.registry.backends.names() == ("thing",)


@pytest.mark.fault(48)
@pytest.mark.finding("PLG003")
def test_a_name_that_is_taken_is_refused_and_names_both_plugins(tmp_path: Path) -> None:
    plugins = load(tmp_path, first=GOOD.format(name="thing"), second=GOOD.format(name="thing"))
    second = only(plugins, "second")
    assert (plugins.registry.backends.owner("thing"), only(plugins, "first").hooks) == ("first", ("register_backends",))
    assert second.code == "PLG003"
    assert "'first'" in (second.problem or "")
    assert "'second'" in (second.problem or "")


def test_a_plugin_that_fails_half_way_leaves_nothing_behind(tmp_path: Path) -> None:
    source = GOOD.format(name="half") + "\n@hookimpl\ndef register_stores(register): raise ValueError('late')\n"
    plugins = load(tmp_path, half=source)
    assert plugins.registry.backends.names() == ()


def test_a_missing_module_comes_with_the_command_that_installs_it(tmp_path: Path) -> None:
    needy = only(load(tmp_path, needy="import no_such_module.inner"), "needy")
    assert (needy.code, needy.hint) == ("PLG001", "pip install no-such-module")


def test_a_disabled_plugin_is_never_imported(tmp_path: Path) -> None:
    plugins = load(tmp_path, {"disabled": ["off"]}, off="import sys; sys.modules['was_imported'] = sys")
    assert not only(plugins, "off").enabled
    assert "was_imported" not in sys.modules


@pytest.mark.fault(48)
@pytest.mark.finding("PLG006")
def test_a_required_plugin_that_is_off_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"required plugin 'guard' is off: .*boom") as refused:
        load(tmp_path, {"required": ["guard"]}, guard="raise RuntimeError('boom')")
    assert refused.value.code == "PLG006"


SETTINGS = """
from pydantic import BaseModel, ConfigDict
from ollmlx import hookimpl

class Own(BaseModel):
    model_config = ConfigDict(extra="forbid")
    width: int = 3

class Thing:
    accepts = estimate = command = importer = print
    def __init__(self, width): self.name = f"thing-{width}"

@hookimpl
def register_settings(register): register(Own)

@hookimpl
def register_backends(register, context): register(Thing(context.own.width))
"""


@pytest.mark.finding("CFG008")
def test_register_settings_validates_the_plugins_own_table(tmp_path: Path) -> None:
    for table, name in (({"width": 5}, "thing-5"), ({}, "thing-3")):
        assert load(tmp_path, {"sized": table}, sized=SETTINGS).registry.backends.names() == (name,)
    wrong = only(load(tmp_path, {"sized": {"widht": 5}}, sized=SETTINGS), "sized")
    assert wrong.code == "CFG008"
    assert "widht" in (wrong.problem or "")


def test_entry_points_are_loaded_one_by_one_and_no_two_plugins_have_one_name() -> None:
    named = (("gone", "no_such_package_here"), ("json", "json"), ("json", "csv"))
    plugins = load_plugins(Settings(), points=tuple(EntryPoint(*one, "ollmlx") for one in named))
    first, second, third = plugins.loaded
    assert [(plugin.name, plugin.enabled) for plugin in (first, second)] == [("gone", False), ("json", True)]
    assert (third.code, third.problem) == ("PLG003", "another plugin is already called 'json'")


HANGS_AT_IMPORT = "import builtins\nbuiltins.ollmlx_test_gate.wait()\n"
HANGS_IN_A_HOOK = GOOD.format(name="late").replace(
    "    register(", "    import builtins\n    builtins.ollmlx_test_gate.wait()\n    register("
)


@pytest.mark.fault(48)
@pytest.mark.parametrize("source", [HANGS_AT_IMPORT, HANGS_IN_A_HOOK], ids=["at import", "in a hook"])
def test_a_plugin_that_hangs_is_off_and_registers_nothing_when_it_wakes(
    tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    monkeypatch.setattr(builtins, "ollmlx_test_gate", gate, raising=False)
    before = threading.active_count()
    plugins = load(tmp_path, {"load_timeout": 2}, bad=source, good=GOOD.format(name="thing"))
    bad = only(plugins, "bad")
    assert (bad.enabled, bad.code) == (False, "PLG001")
    assert bad.problem == "it did not finish loading within 2s"
    assert "load_timeout" in (bad.hint or "")
    gate.set()
    wait_until(lambda: threading.active_count() == before)
    assert plugins.registry.backends.names() == ("thing",)


def test_a_slow_plugin_works_and_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ollmlx.plugin.loader.SLOW_SECONDS", 0.0)
    plugins = load(tmp_path, good=GOOD.format(name="thing"))
    assert only(plugins, "good").seconds > 0
    assert "plugin 'good' took" in caplog.text


class Keeper(SimpleNamespace):
    """A store that keeps GGUF files."""

    keeps = ("gguf",)


MLX = cast(Store, SimpleNamespace(name="mlx"))
OLLAMA = cast(Store, Keeper(name="ollama"))


@pytest.fixture
def registry() -> Registry:
    """The backend mlx imports both formats, and llamacpp runs files as they are."""
    found = Registry()
    for name, program in (("mlx", "a program"), ("llamacpp", None)):
        backend = SimpleNamespace(name=name, importer=lambda format, program=program: program)
        found.backends.add(name, cast(Any, backend), name)
    return found


@pytest.mark.parametrize("stores", [(MLX, OLLAMA), (OLLAMA, MLX)])
@pytest.mark.parametrize(
    ("format", "backend", "home"), [("gguf", "llamacpp", OLLAMA), ("gguf", "mlx", MLX), ("mlx", "mlx", None)]
)
def test_a_file_is_kept_where_its_backend_finds_it(
    registry: Registry, stores: tuple[Store, ...], format: str, backend: str, home: Store | None
) -> None:
    assert registry.store_for(format, backend, stores) is home


def test_a_file_that_no_store_keeps_for_its_backend_is_refused(registry: Registry) -> None:
    with pytest.raises(Unsupported, match="no store keeps the format 'gguf' for the backend 'llamacpp'"):
        registry.store_for("gguf", "llamacpp", (MLX,))
    with pytest.raises(Unsupported, match="no backend 'none' is installed; there is mlx, llamacpp"):
        registry.store_for("gguf", "none", (MLX,))
