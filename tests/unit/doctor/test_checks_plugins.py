"""Plugins that are off, and models and settings that need them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tests.unit.doctor.contexts import codes, examined, expect, healthy

from ollmlx.errors.findings import Severity

HOOK = "from ollmlx import hookimpl\n@hookimpl\ndef "
BROKEN = [
    ("PLG001", "import nothing_of_that_name", "No module named", "pip install nothing-of-that-name"),
    ("PLG001", "raise SystemExit(3)", "SystemExit: 3", "ollmlx plugin list"),
    ("PLG001", "1 / 0", "ZeroDivisionError", "ollmlx plugin list"),
    ("PLG001", "def :", "SyntaxError", "ollmlx plugin list"),
    ("PLG005", f"{HOOK}register_wings(): ...", "register_wings", "ollmlx plugin list"),
    ("PLG003", f"{HOOK}register_routes(register): register('ops', lambda s: s)", "already", "ollmlx plugin list"),
    ("PLG004", "ollmlx_api = 99", "plugin API 99", "ollmlx plugin list"),
    ("PLG005", f"{HOOK}register_backends(register): register(3)", "as Backend", "ollmlx plugin list"),
]


@pytest.mark.finding("PLG001", "PLG005", "PLG003", "PLG004", "PLG006")
@pytest.mark.parametrize(("code", "source", "evidence", "fix"), BROKEN)
def test_a_broken_plugin_is_reported_with_its_code(
    tmp_path: Path, code: str, source: str, evidence: str, fix: str
) -> None:
    plugin = tmp_path / "odd.py"
    plugin.write_text(source, encoding="utf-8")
    context = healthy(tmp_path, f'[plugins]\npaths = ["{plugin}"]\nrequired = ["odd"]')
    found = expect(context, code, evidence, fix)
    assert found.severity is Severity.ERROR
    assert found.evidence[0] == f"from {plugin}"
    assert set(codes(context)) == {code}, "that a required plugin is off (PLG006) follows from it"


@pytest.mark.parametrize(
    ("disabled", "set_before", "after"),
    [
        ("", "", "odd,even"),
        ("a b", "", "a b,odd,even"),
        ('$x}"`', "", '$x}"`,odd,even'),
        ("mine", "mine,more", "mine,more,odd,even"),
    ],
)
def test_each_command_for_several_broken_plugins_switches_one_more_off(
    tmp_path: Path, disabled: str, set_before: str, after: str
) -> None:
    for name in ("odd", "even"):
        (tmp_path / f"{name}.py").write_text("1 / 0", encoding="utf-8")
    paths = [str(tmp_path / "odd.py"), str(tmp_path / "even.py")]
    context = healthy(tmp_path, f"[plugins]\npaths = {paths}\ndisabled = {[disabled] if disabled else []}")
    commands = [line for finding in examined(context).findings if finding.code == "PLG001" for line in finding.instead]
    environ = {"OLLMLX_PLUGINS__DISABLED": set_before} if set_before else {}
    shell = "; ".join([*commands, "printenv OLLMLX_PLUGINS__DISABLED"])
    printed = subprocess.run(
        ["/bin/sh", "-c", shell], env={"PATH": os.defpath, **environ}, capture_output=True, check=True
    )
    assert printed.stdout.decode().strip() == after


def test_the_doctor_does_not_wait_for_a_plugin_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ollmlx.doctor.context.PLUGIN_SECONDS", 3.0)
    plugin = tmp_path / "odd.py"
    plugin.write_text("import time\ntime.sleep(600)", encoding="utf-8")
    context = healthy(tmp_path, f'[plugins]\npaths = ["{plugin}"]')
    found = expect(context, "PLG001", "the daemon waits 10s for it", "export OLLMLX_PLUGINS__DISABLED=")
    assert found.severity is Severity.WARNING


def test_a_missing_plugin_is_reported(tmp_path: Path) -> None:
    context = healthy(tmp_path, '[plugins]\npaths = ["/nowhere/odd.py"]')
    expect(context, "PLG001", "there is no such file", "+5 ")
    folder = tmp_path / "wings"
    folder.mkdir()
    context = healthy(tmp_path, f'[plugins]\npaths = ["{folder}"]')
    expect(context, "PLG001", "no __init__.py in this folder", "export OLLMLX_PLUGINS__DISABLED=wings")


@pytest.mark.finding("PLG006")
def test_a_missing_backend_of_a_declared_model_is_reported(tmp_path: Path) -> None:
    context = healthy(tmp_path, '[models.a]\nfrom = "org/x"\nbackend = "flux"')
    found = expect(context, "PLG006", "names the backend 'flux'", "ollmlx plugin list")
    assert found.evidence[0].endswith("ollmlx.toml, line 5")


@pytest.mark.parametrize(
    ("plugin", "file", "evidence"),
    [
        ("ollama_store", "manifests/registry.ollama.ai/library/llama3/latest", "models of Ollama are on this disk (1)"),
        ("hub", "mlx/org_name/config.json", "models for MLX are on this disk (1)"),
    ],
)
def test_models_of_a_store_that_is_switched_off_are_reported(
    tmp_path: Path, plugin: str, file: str, evidence: str
) -> None:
    model = tmp_path / "models" / file
    model.parent.mkdir(parents=True)
    model.write_text("{}", encoding="utf-8")
    expect(healthy(tmp_path, f'[plugins]\ndisabled = ["{plugin}"]'), "PLG006", evidence, "+5 ")
