"""Checks of the settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.unit.doctor.contexts import examined, expect, healthy
from tests.unit.doctor.test_checks_storage import put

SETTINGS = [
    ("CFG003", '[server]\nhosst = "x"', "did you mean 'host'?", 5),
    ("CFG003", "[runners]\nlevel = 1", "it belongs to [logging]", 5),
    ("CFG003", "[serverr]\nhost = 1", "did you mean [server]?", 4),
    ("CFG003", "[models.a]\nfro = 'b'", "did you mean 'from'?", 5),
    ("CFG003", "[models.a]\nparameters = {temperatur = 1}", "did you mean 'temperature'?", 5),
    ("CFG003", "[plugins]\npathss = []", "did you mean 'paths'?", 5),
    ("CFG004", '[runners]\nparallel = "many"', "must be a whole number", 5),
    ("CFG004", "[runners]\nparallel = -1", "must be at least 0", 5),
    ("CFG004", '[runners]\nkeep_alive = "soon"', "invalid duration 'soon'", 5),
    ("CFG004", '[memory]\nlimit = "lots"', "invalid size 'lots'", 5),
    ("CFG004", "[memory]\nshare = 2", "must be at most 1", 5),
    ("CFG004", '[server]\nhost = "1.2.3.4:99999"', "99999", 5),
    ("CFG004", '[server]\norigins = "x"', "must be a list", 5),
    ("CFG004", '[logging]\nlevel = "INFO"', "did you mean 'info'?", 5),
    ("CFG004", "[models.a]\nparameters = {seed = 'x'}", "must be a whole number", 5),
    ("CFG004", "[security]\napi_keys = 3", "must be a list", 5),
    ("CFG004", '[aliases]\na = "b"\nb = "a"', "a -> b -> a", 5),
    ("CFG004", '[models."../x"]\npin = true', "is a path", 5),
    ("CFG004", '[aliases]\na = "x/y/z/w"', "invalid model name", 5),
    ("CFG001", "[server", "not valid TOML", 4),
    ("CFG001", "host = ", "at column 8", 4),
]


@pytest.mark.finding("CFG001", "CFG003", "CFG004")
@pytest.mark.parametrize(("code", "toml", "evidence", "line"), SETTINGS)
def test_a_fault_of_the_file_is_reported_with_its_line(
    tmp_path: Path, code: str, toml: str, evidence: str, line: int
) -> None:
    found = expect(healthy(tmp_path, toml), code, evidence, "ollmlx config check")
    assert found.evidence[0].endswith(f"ollmlx.toml, line {line}")


def test_folders_are_skipped_with_a_note_if_the_settings_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # the default folders are there
    (note,) = examined(healthy(tmp_path, "[server")).notes("storage")
    assert note.title == "skipped: the settings have a fault, so the folders are not known; see ollmlx doctor config"


def test_the_daemon_is_skipped_with_a_note_if_its_address_is_not_valid(tmp_path: Path) -> None:
    report = examined(healthy(tmp_path, environ={"OLLAMA_HOST": "localhost:abc"}))
    assert [finding.code for finding in report.findings] == ["CFG004"]
    assert [note.title for note in report.notes("server")] == [
        "skipped: the address of the daemon is not valid; see ollmlx doctor config"
    ]


VARIABLES = [
    ("CFG004", {"OLLAMA_KEEP_ALIVE": "abc"}, "OLLAMA_KEEP_ALIVE"),
    ("CFG004", {"OLLAMA_NUM_PARALLEL": "-2"}, "OLLAMA_NUM_PARALLEL"),
    ("CFG004", {"OLLAMA_HOST": "ftp://x"}, "OLLAMA_HOST"),
    ("CFG004", {"OLLAMA_KV_CACHE_TYPE": "q3"}, "OLLAMA_KV_CACHE_TYPE"),
    ("CFG003", {"OLLMLX_SERVER__HOSTT": "x"}, "OLLMLX_SERVER__HOSTT"),
    ("CFG003", {"OLLMLX___X": "x"}, "OLLMLX___X"),
    ("CFG004", {"OLLMLX_RUNNERS__PARALLEL": "x"}, "OLLMLX_RUNNERS__PARALLEL"),
    ("CFG001", {"OLLMLX_CONFIG": "/nowhere/o.toml"}, "/nowhere/o.toml"),
    ("CFG001", {"OLLMLX_CONFIG": "/"}, "/"),
]


@pytest.mark.finding("CFG001", "CFG004", "CFG003")
@pytest.mark.parametrize(("code", "environ", "source"), VARIABLES)
def test_a_fault_of_a_variable_is_reported_with_its_name(
    tmp_path: Path, code: str, environ: Mapping[str, str], source: str
) -> None:
    found = expect(healthy(tmp_path, environ=environ), code, source, "ollmlx config check")
    assert found.evidence[0] == source


MEANING = [
    ("CFG003", "[runners]\nswap_wait = 1", {}, "swap_wait: this setting is gone", "config check"),
    ("CFG005", "[runners]\nkeep_alive = 9", {"OLLAMA_KEEP_ALIVE": "5m"}, "OLLAMA_KEEP_ALIVE overrides", "config show"),
    ("CFG008", "[plugins.nothing]\na = 1", {}, "no plugin is called 'nothing'", "plugin list"),
    ("CFG008", "[plugins.mlx]\nbblas = 1", {}, "plugin 'mlx' is off", "plugin list"),
    ("CFG009", '[models.a]\nfrom = "org/x"', {}, "org/x", "ollmlx pull org/x"),
    ("CFG009", '[aliases]\na = "org/x"', {}, '[aliases] "a"', "ollmlx pull org/x"),
]


@pytest.mark.finding("CFG005", "CFG008", "CFG009", "CFG003")
@pytest.mark.parametrize(("code", "toml", "environ", "evidence", "fix"), MEANING)
def test_settings_without_the_effect_that_they_seem_to_have_are_reported(
    tmp_path: Path, code: str, toml: str, environ: Mapping[str, str], evidence: str, fix: str
) -> None:
    expect(healthy(tmp_path, toml, environ), code, evidence, fix)


def test_no_pull_is_advised_for_a_model_that_no_source_offers(tmp_path: Path) -> None:
    context = healthy(tmp_path, '[aliases]\na = "mylocal-model"')
    found = next(one for one in examined(context).findings if one.code == "CFG009")
    offered = any("no source offers it" in line for line in found.evidence)
    assert offered == (not any(command.startswith("ollmlx pull") for command in found.commands))


def test_a_memory_limit_below_every_model_is_named(tmp_path: Path) -> None:
    context = healthy(tmp_path, "[memory]\nlimit = 8")
    put(tmp_path / "models/mlx/org_one")
    expect(context, "RUN005", "a size without a unit counts bytes", "config check")
    context = healthy(tmp_path, '[memory]\nlimit = "8GiB"')
    assert "RUN005" not in [one.code for one in examined(context).findings]
