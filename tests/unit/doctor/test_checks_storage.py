"""Checks of folders and models."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.servers.tiny import tiny_files, write_model
from tests.unit.doctor.contexts import NOW, codes, examined, expect, healthy

from ollmlx import Refusal
from ollmlx.doctor.context import CheckContext
from ollmlx.doctor.fixes import other_folder
from ollmlx.doctor.run import all_checks
from ollmlx.errors.findings import Finding, Severity
from ollmlx.plugin.registry import RegisteredCheck
from ollmlx.storekit import sha256_of


def put(folder: Path, *, name: str = "", **changes: bytes | None) -> Path:
    """Write a tiny model, and its manifest if it has a name; `changes` as those of `write_model`."""
    write_model(folder, **changes)
    if name:
        sign(folder, name)
    return folder


def sign(folder: Path, name: str) -> None:
    """Write the manifest of a model that was pulled."""
    listed = [
        {"path": file.name, "size": file.stat().st_size, "mtime_ns": 0, "sha256": sha256_of(file)}
        for file in folder.iterdir()
    ]
    source = f"hub:{name.removesuffix(':latest')}@main"
    manifest = {"version": 1, "name": name, "source": source, "created": "2026-01-01T00:00:00Z"}
    (folder / "ollmlx.json").write_text(json.dumps({**manifest, "files": listed}), encoding="utf-8")


CONFIG = json.loads(tiny_files()["config.json"])


def config(**changes: Any) -> bytes:
    return json.dumps({**CONFIG, **changes}).encode()


def truncated(folder: Path) -> None:
    path = next(folder.glob("model*.safetensors"))
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.finding("STO002")
@pytest.mark.parametrize(("key", "variable"), [("models", "OLLAMA_MODELS"), ("state", "OLLMLX_STORAGE__STATE")])
def test_a_folder_on_a_disk_that_does_not_answer_is_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, variable: str
) -> None:
    context, asked, release = healthy(tmp_path), os.path.exists, threading.Event()
    hung = str(tmp_path / key)
    monkeypatch.setattr("os.path.exists", lambda path: release.wait() if str(path) == hung else asked(path))
    monkeypatch.setattr("ollmlx.doctor.checks.storage.ANSWER_SECONDS", 0.0 if key == "models" else 0.3)
    try:
        found = expect(context, "STO002", f"the {key} folder {hung} does not answer", f"export {variable}=")
    finally:
        release.set()
    assert found.subject == hung


DAMAGES: list[tuple[str, dict[str, Any], str, str]] = [
    ("MDL003", {"config__json": None}, "no config.json", "ollmlx pull org/name"),
    ("MDL003", {"config__json": b"{"}, "config.json is not valid JSON", "ollmlx pull org/name"),
    ("MDL003", {"model__safetensors": None}, "no model*.safetensors", "mv "),
    ("MDL003", {"ollmlx__json": b"{"}, "ollmlx.json", "mv "),
    ("MDL004", {"config__json": config(model_type="unheard_of")}, "'unheard_of'", "pip install --upgrade mlx-lm"),
    ("MDL003", {"tokenizer__json": None}, "no tokenizer", "ollmlx pull org/name"),
    ("MDL010", {"tokenizer_config__json": b"{}"}, "chat needs a template", "ollmlx show org/name"),
    ("SEC005", {"config__json": config(model_file="evil.py")}, "allow_remote_code", "ollmlx show org/name"),
    ("SEC005", {"config__json": config(auto_map={"AutoModel": "evil.M"})}, "auto_map", "ollmlx show org/name"),
]


@pytest.mark.finding("MDL003", "MDL004", "MDL010", "SEC005")
@pytest.mark.parametrize(("code", "changes", "evidence", "fix"), DAMAGES)
def test_a_model_that_cannot_be_used_is_reported(
    tmp_path: Path, code: str, changes: dict[str, Any], evidence: str, fix: str
) -> None:
    context = healthy(tmp_path)
    put(tmp_path / "models/mlx/org_name", **changes)
    expect(context, code, evidence, fix)
    assert codes(context) == [code]


@pytest.mark.parametrize(
    ("damage", "evidence"),
    [
        (truncated, "model.safetensors has"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda folder: (folder / "tokenizer.json").write_bytes(b"{}"), "its manifest says"),
        (lambda folder: (folder / "stray").symlink_to("/etc/passwd"), "leads out of the models folder"),
        (lambda folder: os.mkfifo(folder / "pipe"), "is not a regular file"),
    ],
)
def test_files_that_differ_from_the_manifest_are_named(
    tmp_path: Path, damage: Callable[[Path], None], evidence: str
) -> None:
    context = healthy(tmp_path)
    damage(put(tmp_path / "models/mlx/org_name", name="org/name:latest"))
    assert expect(context, "MDL003", evidence, "ollmlx pull org/name").severity.value == "error"


@pytest.mark.finding("MDL001")
def test_a_folder_whose_name_is_no_model_name_is_reported(tmp_path: Path) -> None:
    context = healthy(tmp_path)
    put(tmp_path / "models/mlx/org_na\nme")
    expect(context, "MDL001", "models/mlx", "mv ")


@pytest.mark.finding("STO007")
def test_folders_that_disagree_with_their_manifests_are_reported(tmp_path: Path) -> None:
    context = healthy(tmp_path)
    put(tmp_path / "models/mlx/org_a", name="org/a:latest")
    put(tmp_path / "models/mlx/org_b", name="org/a:latest")
    put(tmp_path / "models/mlx/org_c", name="org/d:latest")
    root = tmp_path / "models/mlx"
    expect(context, "STO007", "org_a and org_b both hold org/a", f"mv {root / 'org_b'} {root / '.org_b'}")
    expect(context, "STO007", "org_c", f"mv {root / 'org_c'} {root / 'org_d'}")


def test_of_two_folders_for_one_model_the_one_with_the_wrong_name_is_moved_away(tmp_path: Path) -> None:
    context = healthy(tmp_path)
    root = tmp_path / "models/mlx"
    put(root / "another", name="org/name:latest")
    put(root / "org_name", name="org/name:latest")
    assert codes(context) == ["STO007"]
    expect(context, "STO007", "org_name and another both", f"mv {root / 'another'} {root / '.another'}")
    (root / "another").rename(root / ".another")
    assert codes(context) == []


@pytest.mark.finding("MDL003")
def test_contents_are_compared_only_when_asked(tmp_path: Path) -> None:
    context = healthy(tmp_path)
    folder = put(tmp_path / "models/mlx/org_name", name="org/name:latest")
    assert codes(replace(context, deep=True)) == []
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert codes(context) == []
    found = expect(
        replace(context, deep=True), "MDL003", "org_name/model.safetensors is not what", "ollmlx pull org/name"
    )
    assert found.commands[0] == f"mv {weights} {weights.with_name('.' + weights.name)}"


@pytest.mark.finding("MDL005")
def test_a_model_of_a_format_that_no_backend_runs_is_named(tmp_path: Path) -> None:
    context = healthy(tmp_path)
    put(tmp_path / "models/mlx/org_name")
    context.plugins.registry.backends.remove_owner("mlx")
    expect(context, "MDL005", "no backend can run org/name", "ollmlx plugin list")


def test_a_backend_that_is_switched_off_is_named_with_the_models_that_need_it(tmp_path: Path) -> None:
    put(tmp_path / "models/mlx/org_name")
    found = expect(healthy(tmp_path, '[plugins]\ndisabled = ["mlx"]'), "MDL005", "switched off: mlx", "+5 ")
    assert found.commands[-1] == "ollmlx plugin list"


@pytest.mark.parametrize(("declared", "evidence"), [((), ["MDL005"]), (("XYZ001",), [])])
def test_a_refusal_with_its_own_code_is_left_to_the_check_that_declares_the_code(
    tmp_path: Path, declared: tuple[str, ...], evidence: list[str]
) -> None:
    async def run(context: CheckContext) -> list[Finding]:
        return []

    context = healthy(tmp_path)
    put(tmp_path / "models/mlx/org_name")
    registry = context.plugins.registry
    registry.backends.remove_owner("mlx")
    refuses = SimpleNamespace(name="moody", accepts=lambda model: Refusal(reason="not today", code="XYZ001"))
    registry.backends.add("moody", cast("Any", refuses), "ollmlx-moody")
    check = SimpleNamespace(name="mood", group="machine", codes=declared, run=run)
    registry.checks.add("mood", RegisteredCheck(cast("Any", check), None), "ollmlx-moody")
    assert codes(context) == evidence


@pytest.mark.finding("PLG008")
def test_a_store_that_fails_is_reported_with_the_name_of_its_plugin(tmp_path: Path) -> None:
    context = healthy(tmp_path)
    context.plugins.registry.stores.add("wreck", cast("Any", SimpleNamespace(name="wreck")), "ollmlx-wreck")
    expect(
        context, "PLG008", "plugin 'ollmlx-wreck': its store 'wreck' failed with AttributeError", "ollmlx plugin list"
    )


@pytest.mark.finding("STO006")
def test_interrupted_pulls_are_reported_and_running_ones_are_not(tmp_path: Path) -> None:
    context = healthy(tmp_path)
    part = tmp_path / "models/mlx/.staging/org_name/model.safetensors"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"half")
    os.utime(part, (NOW - 5, NOW - 5))
    assert codes(context) == []
    os.utime(part, (NOW - 3600, NOW - 3600))
    found = expect(context, "STO006", "a pull of org/name stopped half-way", "ollmlx pull org/name")
    assert found.instead == (f"rm -r {part.parent}",)
    part.parent.rename(part.parent.with_suffix(".import"))
    assert expect(context, "STO006", "an interrupted change left", "rm -r ").severity.value == "info"


def moved(context: CheckContext, **storage: Path) -> CheckContext:
    """Return the same context with other folders."""
    changed = context.settings.storage.model_copy(update=storage)
    return replace(context, settings=context.settings.model_copy(update={"storage": changed}))


@pytest.mark.finding("STO001", "STO002")
def test_folders_that_cannot_be_used_are_reported(tmp_path: Path) -> None:
    context = healthy(tmp_path)
    expect(moved(context, models=tmp_path / "none"), "STO001", "does not exist yet", "ollmlx pull smollm2:135m")
    (tmp_path / "file").write_text("", encoding="utf-8")
    expect(moved(context, models=tmp_path / "file"), "STO002", "is not a folder", "mkdir -p")
    expect(moved(context, state=tmp_path / "file"), "STO002", "is not a folder", "mkdir -p")
    assert "SEC007" not in codes(moved(context, state=tmp_path / "file"))
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    command = f"mkdir -p {tmp_path / 'gone'}"
    expect(moved(context, state=tmp_path / "link"), "STO002", "is a link to", command)


Denied = Callable[[Path, int], bool]


def denied(place: Path, right: int) -> Denied:
    """Return an `os.access` that denies one permission of a folder; root, which may run the tests, is denied none."""
    return lambda path, mode: not (Path(path) == place and mode & right)


@pytest.mark.parametrize(
    ("right", "evidence", "severity"),
    [(os.R_OK, "cannot be read", Severity.ERROR), (os.W_OK, "is not writable", Severity.WARNING)],
)
def test_a_models_folder_without_permissions_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right: int, evidence: str, severity: Severity
) -> None:
    context = healthy(tmp_path)
    models = tmp_path / "models"
    monkeypatch.setattr("ollmlx.doctor.checks.storage.os.access", denied(models, right))
    monkeypatch.setenv("HOME", str(tmp_path))
    found = expect(context, "STO002", evidence, f"chmod u+rwx {models}")
    assert (found.severity, found.instead) == (severity, ())
    assert "mode 755" in found.evidence[0]
    monkeypatch.setenv("HOME", "/home/somebody")
    found = expect(context, "STO002", evidence, "export OLLAMA_MODELS=")
    assert found.instead == (f"chmod u+rwx {models}",)
    found = expect(replace(context, user=context.user + 1), "STO002", evidence, "sudo chown -R")


def test_a_state_folder_without_permissions_and_folders_that_cannot_be_created_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = healthy(tmp_path)
    monkeypatch.setattr("ollmlx.doctor.checks.storage.os.access", denied(tmp_path / "state", os.W_OK))
    expect(context, "STO002", "cannot be used", f"chmod u+rwx {tmp_path / 'state'}")
    context = moved(context, models=tmp_path / "locked/models", state=tmp_path / "locked/state")
    (tmp_path / "locked").mkdir()
    monkeypatch.setattr("ollmlx.doctor.checks.storage.os.access", denied(tmp_path / "locked", os.W_OK))
    expect(context, "STO002", "locked is not writable", "sudo mkdir -p")
    expect(context, "STO002", "locked/state cannot be created", "export OLLMLX_STORAGE__STATE=")


def test_a_model_whose_file_may_not_be_read_is_not_pulled_again_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = healthy(tmp_path)
    folder = put(tmp_path / "models/mlx/org_name", config__json=b"{")
    monkeypatch.setattr("ollmlx_hub.check.os.access", denied(folder / "config.json", os.R_OK))
    found = expect(context, "MDL003", "config.json", f"chmod -R u+rX {folder}")
    assert found.instead[0].startswith("mv "), "a person put it there; perhaps no registry has it"
    theirs = expect(replace(context, user=context.user + 1), "MDL003", "config.json", "sudo chown -R")
    assert len(theirs.commands) == 2


def test_folders_that_may_not_be_read_crash_no_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("ollmlx_hub.layout.os.scandir", refuse)
    assert codes(healthy(tmp_path)) == []


@pytest.mark.parametrize("home", [None, "", "relative", "/nowhere", "FILE"])
def test_where_the_home_folder_is_the_problem_no_command_uses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str | None
) -> None:
    (tmp_path / "FILE").touch()
    if home is None:
        monkeypatch.delenv("HOME")
    else:
        monkeypatch.setenv("HOME", str(tmp_path / home) if home == "FILE" else home)
    commands = (*other_folder("OLLAMA_MODELS", "models"), *other_folder("TMPDIR", "tmp", create=True))
    assert not any("$HOME" in command for command in commands)
    assert commands[0] == 'mkdir -p "/var/tmp/$(id -un)/models"'


def test_a_mode_that_only_the_owner_may_change_is_not_changed_first(tmp_path: Path) -> None:
    context = healthy(tmp_path, f'[security]\napi_keys = ["{"k" * 40}"]')
    (tmp_path / "ollmlx.toml").chmod(0o644)
    (tmp_path / "state").chmod(0o755)
    theirs = [one for one in examined(replace(context, user=context.user + 1)).findings if one.code == "SEC007"]
    assert len(theirs) == 2
    assert all(one.commands[0].startswith('sudo chown "$(id -un)" ') and not one.safe for one in theirs)
    mine = [one for one in examined(context).findings if one.code == "SEC007"]
    assert all(one.commands[0].startswith("chmod ") and one.safe for one in mine)


def test_the_largest_models_are_named_when_the_disk_is_full(tmp_path: Path) -> None:
    context = healthy(tmp_path)
    put(tmp_path / "models/mlx/org_small", name="org/small:latest")
    put(tmp_path / "models/mlx/org_big", name="org/big:latest", extra__bin=b"x" * 50_000)
    full = replace(context, machine=replace(context.machine, free_space=lambda _: 0))
    found = expect(full, "STO003", "the largest models: org/big (", "ollmlx list")
    assert found.instead == ("ollmlx rm org/big",)


def test_models_that_lie_one_level_too_deep_are_moved_up_and_nothing_is_removed(tmp_path: Path) -> None:
    context, root = healthy(tmp_path), tmp_path / "models/mlx"
    put(root / "org/one")
    put(root / "org/two")
    found = expect(context, "MDL003", "one level too deep", f"mv {root / 'org/one'} {root / 'org_one'}")
    assert (len(found.commands), found.instead) == (2, ())
    for command in found.commands:
        assert subprocess.run(command, shell=True, check=False).returncode == 0
    (root / "org").rmdir()
    assert codes(context) == []


REMOVES = re.compile(r"\b(rm|ollmlx rm|unlink|rmdir|truncate|dd)\b")


def test_no_finding_about_a_model_begins_with_a_command_that_removes(tmp_path: Path) -> None:
    context, root = healthy(tmp_path), tmp_path / "models/mlx"
    put(root / "broken", config__json=None)
    put(root / "org_na\nme")
    put(root / "evil", config__json=config(auto_map={"AutoModel": "evil.M"}))
    put(root / "org/nested")
    put(root / "copy", name="org/name:latest")
    put(root / "org_name", name="org/name:latest")
    findings = examined(context).findings
    assert len(findings) >= 5
    assert [one for one in findings for command in one.commands if REMOVES.search(command)] == []


@pytest.mark.parametrize("name", ["models", "runnable", "loadable"])
def test_models_for_which_there_is_no_time_are_said_to_be_unexamined(tmp_path: Path, name: str) -> None:
    for folder in ("org_a", "org_b"):
        put(tmp_path / "models/mlx" / folder)
    context = replace(healthy(tmp_path), until=0.0)
    (check,) = (one.check for one in all_checks(context) if one.check.name == name)
    (note,) = asyncio.run(check.run(context))
    assert note.severity is Severity.SKIPPED
    assert "for lack of time" in note.title
    assert re.search(r"org.a.*ollmlx doctor storage --deep", note.title)


def test_the_models_are_listed_once_for_all_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "models/mlx/org_a")
    context, listed = healthy(tmp_path), list[str]()
    for store in context.stores:
        monkeypatch.setattr(store, "list", partial(_counted, store.list, store.name, listed))
    examined(context)
    assert sorted(listed) == sorted(store.name for store in context.stores)


async def _counted(list_models: Callable[[], Any], name: str, listed: list[str]) -> Any:
    listed.append(name)
    return await list_models()
