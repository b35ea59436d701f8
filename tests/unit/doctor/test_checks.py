"""The machine is broken in many ways; each time the doctor names the code, the evidence and the command."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from ollmlx import __version__
from ollmlx.address import Address
from ollmlx.doctor.checks import OWN
from ollmlx.doctor.daemon import Answer, Daemon, Silent
from ollmlx.doctor.machine import Disk, Machine
from ollmlx.doctor.processes import Completed, Process, Processes
from ollmlx.doctor.report import Report
from ollmlx.doctor.run import Examination, examine
from ollmlx.doctor.world import World, look
from ollmlx.findings import Severity

GB = 1000**3
HEALTHY = Machine(
    "linux",
    ram=64 * GB,
    available=40 * GB,
    swap_total=8 * GB,
    files_limit=65536,
    disk=lambda _: Disk(900 * GB, 400 * GB),
)
MAC = replace(HEALTHY, system="darwin", architecture="arm64", macos=(15, 1))
NOW = 1_800_000_000.0
VERSIONS = {"mlx": "0.32.4", "mlx-cpu": "0.32.4"}
READY = {"/api/version": Answer(200, {"version": "0.12.0", "ollmlx": __version__}), "/readyz": Answer(200, {})}


class FakeDaemon(Daemon):
    """Answers from a table; Silent for what is not in it."""

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        super().__init__(Address.parse(""))
        self.answers = answers

    async def get(self, path: str, seconds: float = 1.0) -> Answer:
        if path not in self.answers:
            raise Silent("connection refused")
        return self.answers[path]


@dataclass
class FakeProcesses(Processes):
    """Ports and processes from a table."""

    listening: Process | None = None
    open: bool = False
    refusal: str | None = None
    environments: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    living: Sequence[int] = ()

    def listener(self, port: int) -> Process | None:
        return self.listening

    def connects(self, host: str, port: int, seconds: float = 1.0) -> bool:
        return self.open

    def bindable(self, host: str, port: int) -> str | None:
        return self.refusal

    def variables(self, pid: int) -> Mapping[str, str]:
        return self.environments.get(pid, {})

    def get(self, pid: int) -> Process | None:
        return Process(pid, "python") if pid in self.living else None


def child(status: int | None, err: str = "") -> Callable[[Sequence[str], float], Any]:
    async def run(argv: Sequence[str], seconds: float) -> Completed:
        return Completed(status, "", err)

    return run


def healthy(tmp_path: Path, toml: str = "", environ: Mapping[str, str] | None = None) -> World:
    """A machine on which all is well, with these settings. The plugins are the real ones."""
    (tmp_path / "models" / "mlx").mkdir(parents=True, exist_ok=True)
    (tmp_path / "state").mkdir(mode=0o700, exist_ok=True)
    file = tmp_path / "ollmlx.toml"
    storage = f'models = "{tmp_path / "models"}"\nstate = "{tmp_path / "state"}"'
    if not file.exists():
        file.write_text(f"[storage]\n{storage}\n{toml}", encoding="utf-8")
        file.chmod(0o600)
    world = look(environ={"HOME": str(tmp_path), **(environ or {})}, cwd=tmp_path)
    assert world.plugins is None or world.plugins.registry.backends.get("mlx") is not None
    return replace(
        world,
        machine=HEALTHY,
        daemon=FakeDaemon(READY),
        processes=FakeProcesses(),
        child=child(0),
        version_of=VERSIONS.get,
        now=lambda: NOW,
    )


def findings(world: World, *, blas: bool = False) -> Report:
    """Everything the doctor says; without the timing of BLAS, which belongs to the machine the test runs on."""
    chosen = [check for check in OWN if blas or check.name != "blas"]
    return examine([Examination(check, "ollmlx") for check in chosen], world, patience=20)


def codes(world: World) -> list[str]:
    return [finding.code for finding in findings(world).findings]


def test_a_healthy_machine_gives_no_finding(tmp_path: Path) -> None:
    assert findings(healthy(tmp_path)).findings == ()


SETTINGS = [
    ("CFG003", '[server]\nhosst = "x"', "did you mean 'host'?", "ollmlx.toml, line 5"),
    ("CFG003", "[runners]\nlevel = 1", "it belongs to [logging]", "line 5"),
    ("CFG003", "[serverr]\nhost = 1", "did you mean [server]?", "line 4"),
    ("CFG003", "[models.a]\nfro = 'b'", "did you mean 'from'?", "line 5"),
    ("CFG003", "[models.a]\nparameters = {temperatur = 1}", "did you mean 'temperature'?", "line 5"),
    ("CFG003", "[plugins]\npathss = []", "did you mean 'paths'?", "line 5"),
    ("CFG004", '[runners]\nparallel = "many"', "must be a whole number", "line 5"),
    ("CFG004", "[runners]\nparallel = -1", "must be at least 0", "line 5"),
    ("CFG004", '[runners]\nkeep_alive = "soon"', "invalid duration 'soon'", "line 5"),
    ("CFG004", '[memory]\nlimit = "lots"', "invalid size 'lots'", "line 5"),
    ("CFG004", "[memory]\nshare = 2", "must be at most 1", "line 5"),
    ("CFG004", '[server]\nhost = "1.2.3.4:99999"', "99999", "line 5"),
    ("CFG004", '[server]\norigins = "x"', "must be a list", "line 5"),
    ("CFG004", '[logging]\nlevel = "INFO"', "did you mean 'info'?", "line 5"),
    ("CFG004", "[models.a]\nparameters = {seed = 'x'}", "must be a whole number", "line 5"),
    ("CFG004", "[security]\napi_keys = 3", "must be a list", "line 5"),
    ("CFG010", '[aliases]\na = "b"\nb = "a"', "a -> b -> a", "line 5"),
    ("CFG011", '[models."../x"]\npin = true', "is a path", "line 5"),
    ("CFG011", '[aliases]\na = "x/y/z/w"', "invalid model name", "line 5"),
    ("CFG002", "[server", "not valid TOML", "line 4"),
    ("CFG002", "host = ", "not valid TOML", "line 4"),
]


@pytest.mark.finding("CFG002", "CFG003", "CFG004", "CFG010", "CFG011")
@pytest.mark.parametrize(("code", "toml", "title", "source"), SETTINGS)
def test_a_fault_of_the_file_is_told_with_its_line(
    tmp_path: Path, code: str, toml: str, title: str, source: str
) -> None:
    found = findings(healthy(tmp_path, toml)).findings[0]
    assert found.code == code
    assert title in found.title
    assert source in found.evidence[0]
    assert found.commands == ("ollmlx config check",)


VARIABLES = [
    ("CFG006", {"OLLAMA_KEEP_ALIVE": "abc"}, "OLLAMA_KEEP_ALIVE"),
    ("CFG006", {"OLLAMA_NUM_PARALLEL": "-2"}, "OLLAMA_NUM_PARALLEL"),
    ("CFG006", {"OLLAMA_HOST": "ftp://x"}, "OLLAMA_HOST"),
    ("CFG006", {"OLLAMA_KV_CACHE_TYPE": "q3"}, "OLLAMA_KV_CACHE_TYPE"),
    ("CFG007", {"OLLMLX_SERVER__HOSTT": "x"}, "OLLMLX_SERVER__HOSTT"),
    ("CFG007", {"OLLMLX___X": "x"}, "OLLMLX___X"),
    ("CFG004", {"OLLMLX_RUNNERS__PARALLEL": "x"}, "OLLMLX_RUNNERS__PARALLEL"),
    ("CFG001", {"OLLMLX_CONFIG": "/nowhere/o.toml"}, "/nowhere/o.toml"),
    ("CFG001", {"OLLMLX_CONFIG": "/"}, "/"),
]


@pytest.mark.finding("CFG001", "CFG006", "CFG007")
@pytest.mark.parametrize(("code", "environ", "source"), VARIABLES)
def test_a_fault_of_a_variable_is_told_with_its_name(
    tmp_path: Path, code: str, environ: Mapping[str, str], source: str
) -> None:
    found = findings(healthy(tmp_path, environ=environ)).findings[0]
    assert (found.code, found.evidence[0]) == (code, source)


@pytest.mark.finding("CFG005", "CFG008", "CFG009")
@pytest.mark.parametrize(
    ("code", "toml", "environ", "title", "command"),
    [
        ("CFG005", "[runners]\nkeep_alive = 9", {"OLLAMA_KEEP_ALIVE": "5m"}, "OLLAMA_KEEP_ALIVE wins", "config show"),
        ("CFG008", "[plugins.nothing]\na = 1", {}, "no plugin is called 'nothing'", "plugin list"),
        ("CFG008", "[plugins.mlx]\nbblas = 1", {}, "plugin 'mlx' is off", "plugin list"),
        ("CFG009", '[models.a]\nfrom = "org/x"', {}, "org/x", "ollmlx pull org/x"),
        ("CFG009", '[aliases]\na = "org/x"', {}, "[aliases] 'a'", "ollmlx pull org/x"),
    ],
)
def test_settings_that_do_not_mean_what_they_say(
    tmp_path: Path, code: str, toml: str, environ: Mapping[str, str], title: str, command: str
) -> None:
    if "bblas" in toml:
        world = replace(look_with(tmp_path, toml), machine=HEALTHY, daemon=FakeDaemon(READY), child=child(0))
    else:
        world = healthy(tmp_path, toml, environ)
    found = next(found for found in findings(world).findings if found.code == code)
    assert title in found.title
    assert command in found.commands[0]


def look_with(tmp_path: Path, toml: str) -> World:
    (tmp_path / "ollmlx.toml").write_text(f'[storage]\nmodels = "{tmp_path}"\n{toml}', encoding="utf-8")
    return look(environ={"HOME": str(tmp_path)}, cwd=tmp_path)


MACHINES = [
    ("ENV001", {"child": child(1, "ModuleNotFoundError: No module named 'mlx'")}, "No module named", "ollmlx[cpu]"),
    ("ENV001", {"child": child(-4)}, "signal 4", "ollmlx[cpu]"),
    ("ENV001", {"child": child(None)}, "not ready", "ollmlx[cpu]"),
    ("ENV005", {"machine": replace(MAC, rosetta=True, architecture="x86_64")}, "x86_64", "brew install"),
    ("ENV006", {"machine": replace(MAC, macos=(13, 6))}, "macOS 14", ""),
    ("ENV007", {"machine": replace(HEALTHY, nvidia_gpu=True)}, "", "ollmlx[cuda]"),
    ("ENV003", {"machine": replace(HEALTHY, ram=2 * GB)}, "2.0 GB", "config show"),
    ("ENV009", {"machine": replace(HEALTHY, swap_used=7 * GB, available=GB)}, "free memory", "ollmlx ps"),
    ("ENV010", {"machine": replace(HEALTHY, container_limit=8 * GB)}, "", ""),
    ("ENV004", {"machine": replace(HEALTHY, files_limit=256)}, "", "ulimit -n"),
    ("ENV012", {"now": lambda: 0.0}, "certificates", ""),
    ("STO003", {"machine": replace(HEALTHY, disk=lambda _: Disk(GB, 0))}, "free: 0", "ollmlx list"),
    ("STO005", {"machine": replace(HEALTHY, disk=lambda _: Disk(90 * GB, GB))}, "models", "ollmlx list"),
    (
        "ENV008",
        {
            "machine": replace(HEALTHY, nvidia_gpu=True),
            "version_of": {"mlx": "0.32.4", "mlx-cuda-12": "0.32.4"}.get,
        },
        "mlx-cuda-12 needs 525",
        "",
    ),
    (
        "ENV008",
        {
            "machine": replace(HEALTHY, nvidia_gpu=True, nvidia_driver="470.82.01"),
            "version_of": {"mlx": "0.32.4", "mlx-cuda-12": "0.32.4"}.get,
        },
        "525",
        "",
    ),
    ("ENV011", {"version_of": {"mlx": "0.32.4", "mlx-cpu": "0.31.0"}.get}, "mlx 0.32.4", "mlx-cpu==0.32.4"),
]


@pytest.mark.finding("ENV001", "ENV003", "ENV004", "ENV005", "ENV006", "ENV007", "ENV008", "ENV009", "ENV010")
@pytest.mark.finding("ENV011", "ENV012", "STO003", "STO005")
@pytest.mark.parametrize(("code", "change", "evidence", "command"), MACHINES)
def test_a_machine_that_does_not_do(
    tmp_path: Path, code: str, change: dict[str, Any], evidence: str, command: str
) -> None:
    found = findings(replace(healthy(tmp_path), **change)).findings
    assert [one.code for one in found] == [code]
    assert evidence in "\n".join(found[0].evidence)
    assert command in "\n".join(found[0].commands)


def version(**told: str) -> Answer:
    return Answer(200, {"version": "0.12.0", **told})


DAEMONS: list[tuple[str, dict[str, Any], str]] = [
    ("NET003", {"daemon": FakeDaemon({})}, "ollmlx serve"),
    ("NET004", {"daemon": FakeDaemon({"/api/version": version()})}, "OLLAMA_HOST=127.0.0.1:11435"),
    ("NET004", {"daemon": FakeDaemon({"/api/version": Answer(404, None)})}, "OLLAMA_HOST=127.0.0.1:11435"),
    ("NET004", {"daemon": FakeDaemon({"/api/version": version(ollmlx="0.0.1")})}, "ollmlx serve"),
    ("SEC004", {"daemon": FakeDaemon({"/api/version": Answer(401, {})})}, "OLLAMA_API_KEY"),
    ("NET001", {"daemon": FakeDaemon({}), "processes": FakeProcesses(open=True)}, "OLLAMA_HOST=127.0.0.1:11435"),
    ("NET001", {"daemon": FakeDaemon({}), "processes": FakeProcesses(refusal="no such address")}, "11435"),
    ("NET008", {"daemon": FakeDaemon({**READY, "/readyz": Answer(503, {"problems": ["it drains"]})})}, "ollmlx logs"),
    ("NET009", {"processes": FakeProcesses(listening=Process(7, "ollmlx", user="eve", uid=os.getuid() + 1))}, ""),
    ("NET007", {"environ": {"HTTP_PROXY": "http://proxy:3128"}}, "export NO_PROXY=127.0.0.1,localhost"),
    (
        "RUN002",
        {"daemon": FakeDaemon({**READY, "/api/ps": Answer(200, {"models": [{"name": "m", "restarts": 2}]})})},
        "ollmlx logs",
    ),
]


@pytest.mark.finding("NET001", "NET003", "NET004", "NET007", "NET008", "NET009", "SEC004", "RUN002")
@pytest.mark.parametrize(("code", "change", "command"), DAEMONS)
def test_a_daemon_that_is_not_as_it_should(tmp_path: Path, code: str, change: dict[str, Any], command: str) -> None:
    found = findings(replace(healthy(tmp_path), **change)).findings
    assert [one.code for one in found] == [code]
    assert command in "\n".join(found[0].commands)


@pytest.mark.finding("SEC001", "SEC006", "SEC007", "SEC008")
@pytest.mark.parametrize(
    ("toml", "mode", "expected"),
    [
        ('[server]\nhost = "0.0.0.0"', 0o600, [("SEC001", "warning")]),
        ('[server]\nhost = "[::]:1"\n[security]\nallow_no_auth = true', 0o600, [("SEC001", "error")]),
        (f'[server]\nhost = "0.0.0.0"\n[security]\napi_keys = ["{"k" * 40}"]', 0o600, []),
        ('[server]\norigins = ["*"]', 0o600, [("SEC006", "warning")]),
        ('[security]\napi_keys = ["short"]', 0o600, [("SEC008", "warning")]),
        (f'[security]\napi_keys = ["{"k" * 40}"]', 0o644, [("SEC007", "warning")]),
    ],
)
def test_who_may_call_and_read(tmp_path: Path, toml: str, mode: int, expected: list[tuple[str, str]]) -> None:
    world = healthy(tmp_path, toml)
    (tmp_path / "ollmlx.toml").chmod(mode)
    assert [(one.code, one.severity.value) for one in findings(world).findings] == expected


def model(folder: Path, *, name: str = "", **files: str) -> Path:
    """A folder that looks like a model; what is wrong with it is the test's."""
    folder.mkdir(parents=True)
    for path, text in files.items():
        (folder / path.replace("__", ".")).write_text(text, encoding="utf-8")
    if name:
        manifest = {"version": 1, "name": name, "created": "2026-01-01T00:00:00Z", "files": []}
        (folder / "ollmlx.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


BROKEN = [
    ({}, "no config.json"),
    ({"config__json": "{"}, "not valid JSON"),
    ({"config__json": "[]"}, "not a JSON object"),
    ({"config__json": "{}"}, "names no model_type"),
    ({"config__json": '{"model_type": "llama"}'}, "no model*.safetensors"),
    ({"config__json": '{"model_type": "llama"}', "model__safetensors": "xx"}, "damaged"),
    ({"config__json": '{"model_type": "llama"}', "ollmlx__json": "{"}, "damaged"),
]


@pytest.mark.finding("MDL003")
@pytest.mark.parametrize(("files", "title"), BROKEN)
def test_a_damaged_model_is_named(tmp_path: Path, files: dict[str, str], title: str) -> None:
    world = healthy(tmp_path)
    model(tmp_path / "models/mlx/org_name", **files)
    (found,) = findings(world).findings
    assert (found.code, found.subject) == ("MDL003", "org_name")
    assert title in found.title
    assert found.evidence == (str(tmp_path / "models/mlx/org_name"),)


@pytest.mark.finding("STO007", "STO008")
def test_folders_that_disagree_with_their_manifests(tmp_path: Path) -> None:
    world = healthy(tmp_path)
    model(tmp_path / "models/mlx/org_a", name="org/a:latest")
    model(tmp_path / "models/mlx/org_b", name="org/a:latest")
    model(tmp_path / "models/mlx/org_c", name="org/d:latest")
    told = {one.code: one for one in findings(world).findings}
    assert "org_a and org_b both hold org/a" in told["STO008"].title
    assert str(tmp_path / "models/mlx/org_d") in told["STO007"].commands[0]


@pytest.mark.finding("MDL008")
def test_contents_are_compared_only_when_asked(tmp_path: Path) -> None:
    world = healthy(tmp_path)
    folder = model(tmp_path / "models/mlx/org_a", config__json="{}")
    manifest = {"name": "org/a", "files": [{"path": "config.json", "sha256": "0" * 64}]}
    (folder / "ollmlx.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert "MDL008" not in codes(world)
    assert "MDL008" in codes(replace(world, deep=True))


@pytest.mark.finding("STO001", "STO002", "STO006", "STO009")
def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    world = healthy(tmp_path)
    (tmp_path / "models/mlx/.staging/x").mkdir(parents=True)
    (tmp_path / "models/mlx/.staging/x/part").write_text("half", encoding="utf-8")
    assert codes(world) == ["STO006"]
    nowhere = world.settings.storage.model_copy(update={"models": tmp_path / "none"})
    assert codes(replace(world, settings=world.settings.model_copy(update={"storage": nowhere}))) == ["STO001"]
    (tmp_path / "file").write_text("", encoding="utf-8")
    files = world.settings.storage.model_copy(update={"models": tmp_path / "file", "state": tmp_path / "file"})
    assert codes(replace(world, settings=world.settings.model_copy(update={"storage": files}))) == ["STO002", "STO009"]


@pytest.mark.finding("RUN007")
@pytest.mark.parametrize(("living", "nonce", "expected"), [((), "n", ["RUN007"]), ((), "m", []), ((5,), "n", [])])
def test_a_runner_that_was_left_behind(tmp_path: Path, living: Sequence[int], nonce: str, expected: list[str]) -> None:
    processes = FakeProcesses(environments={9: {"OLLMLX_RUNNER_NONCE": nonce}}, living=living)
    world = replace(healthy(tmp_path), processes=processes)
    (tmp_path / "state/runners").mkdir()
    record = {"runner": "m", "pid": 9, "started": "", "boot": "", "nonce": "n"}
    (tmp_path / "state/runners/9.json").write_text(json.dumps(record), encoding="utf-8")
    (tmp_path / "state/ollmlx.lock").write_text("5\n", encoding="ascii")
    assert codes(world) == expected


@pytest.mark.finding("PLG001", "PLG002", "PLG004", "PLG007")
@pytest.mark.parametrize(
    ("source", "code", "command"),
    [
        ("import nothing_of_that_name", "PLG001", "pip install nothing-of-that-name"),
        ("raise SystemExit(3)", "PLG001", "ollmlx plugin list"),
        ("ollmlx_api = 99", "PLG004", "ollmlx plugin list"),
        ("from ollmlx import hookimpl\n@hookimpl\ndef register_wings(): ...", "PLG002", "ollmlx plugin list"),
    ],
)
def test_a_plugin_that_is_broken(tmp_path: Path, source: str, code: str, command: str) -> None:
    plugin = tmp_path / "odd.py"
    plugin.write_text(source, encoding="utf-8")
    world = healthy(tmp_path, f'[plugins]\npaths = ["{plugin}"]\nrequired = ["odd"]')
    found = {one.code: one for one in findings(world).findings}
    assert set(found) == {code, "PLG007"}
    assert found[code].commands == (command,)
    assert found[code].severity is Severity.ERROR
