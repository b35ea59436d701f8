"""Running checks, and the report: crashes and hangs are findings, causes come before consequences."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from tests.unit.doctor.contexts import settle

from ollmlx.doctor.causes import CONSEQUENCES, OF_ONE_SUBJECT
from ollmlx.doctor.check import check, found, noted, skipped
from ollmlx.doctor.context import CheckContext, build_context
from ollmlx.doctor.fixes import own_pip
from ollmlx.doctor.machine import Processes
from ollmlx.doctor.report import CheckResult, Report
from ollmlx.doctor.run import OwnedCheck, examine, examine_here
from ollmlx.errors.findings import CODES, Finding, Severity
from ollmlx.testing.waiting import wait_until


@check("crashing", "server", "NET003")
def crashing(context: CheckContext) -> Iterator[Finding]:
    raise SystemExit(3)


@check("honest", "server", "NET003")
def honest(context: CheckContext) -> Iterator[Finding]:
    yield found("NET003", "no daemon", commands=("ollmlx serve",))


@check("undeclared", "server", "NET001")
def undeclared(context: CheckContext) -> Iterator[Finding]:
    yield found("NET003", "no daemon")


def examined(*checks: object, patience: float = 60.0) -> Report:
    return examine([OwnedCheck(one, "test") for one in checks], CheckContext(), patience=patience)  # type: ignore[arg-type]


@pytest.mark.finding("DOC001")
@pytest.mark.parametrize(("broken", "reason"), [(crashing, "SystemExit"), (undeclared, "it did not declare")])
def test_a_check_that_crashes_or_reports_other_codes_is_a_finding_and_the_others_run(
    broken: object, reason: str
) -> None:
    report = examined(broken, honest)
    assert [one.code for one in report.findings] == ["DOC001", "NET003"]
    assert reason in report.findings[0].title
    assert report.failed


def test_commands_repeat_the_config_option() -> None:
    context = CheckContext(config=Path("my settings.toml"))
    report = examine([OwnedCheck(honest, "test")], context)
    assert report.findings[0].commands == ("ollmlx --config 'my settings.toml' serve",)


@pytest.mark.finding("DOC002")
def test_a_check_that_blocks_is_a_finding_and_does_not_delay_the_others() -> None:
    release = threading.Event()

    @check("blocking", "server", "NET003")
    def blocking(context: CheckContext) -> Iterator[Finding]:
        release.wait()
        yield found("NET003", "late")

    @check("waiting", "storage", "STO001")
    async def waiting(context: CheckContext) -> list[Finding]:
        await asyncio.to_thread(release.wait)
        return []

    def clock() -> float:
        """Return a time after the limit, once the honest check has ended."""
        return 99.0 if answered.wait(60) else 0.0

    answered = threading.Event()
    times = itertools.chain([0.0], iter(clock, None))

    @check("honest", "server", "NET003")
    def answers(context: CheckContext) -> Iterator[Finding]:
        yield from honest.function(context)  # type: ignore[misc]

    def listed() -> Iterator[OwnedCheck]:
        yield from (OwnedCheck(one, "test") for one in (blocking, waiting, answers))
        wait_until(lambda: "honest" not in {thread.name for thread in threading.enumerate()})
        answered.set()
        release.wait()  # a plugin that is loaded for ever

    try:
        report = examine(listed(), CheckContext(), patience=4.0, now=lambda: next(times))
        assert [one.code for one in report.findings] == ["NET003", "DOC002"]
        named = "the plugins are still being loaded, blocking, waiting"
        assert report.findings[1].title == f"the examination was not finished within 4 s: {named}"
        assert report.findings[1].evidence[1] == "blocking, of the group server, from test"
    finally:
        release.set()


@pytest.mark.finding("DOC002")
def test_settings_on_a_disk_that_does_not_answer_are_a_finding_with_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLMLX_CONFIG", "/mnt/gone/ollmlx.toml")
    release = threading.Event()

    def build() -> CheckContext:
        release.wait()
        return CheckContext()

    try:
        context, report = examine_here(build, patience=0.0)
    finally:
        release.set()
    assert context is None
    assert report.failed
    (finding,) = report.findings
    assert finding.evidence[0] == "OLLMLX_CONFIG=/mnt/gone/ollmlx.toml"
    assert finding.safe == ("unset OLLMLX_CONFIG",)


@pytest.mark.finding("ENV004")
def test_a_limit_at_which_no_thread_starts_is_a_finding() -> None:
    def no_threads(context: CheckContext) -> Iterator[OwnedCheck]:
        raise RuntimeError("can't start new thread")

    _, report = examine_here(CheckContext, no_threads, patience=60)
    assert report.failed
    (finding,) = report.findings
    assert (finding.code, finding.commands[0]) == ("ENV004", "ulimit -v unlimited")
    assert "can't start new thread" in finding.title


def test_checks_that_need_no_plugins_run_while_plugins_are_loaded() -> None:
    done = threading.Event()

    @check("early", "server", "NET003")
    def early(context: CheckContext) -> Iterator[Finding]:
        done.set()
        yield found("NET003", "no daemon")

    def later() -> Iterator[OwnedCheck]:
        yield OwnedCheck(early, "test")
        assert done.wait(60), "it waits for the check that comes after it"
        yield OwnedCheck(honest, "test")

    assert [one.check for one in examine(later(), CheckContext(), patience=60).results] == ["early", "honest"]


def report_of(findings: Sequence[tuple[str, str]]) -> Report:
    results = [CheckResult(code, group, "test", (found(code, f"title of {code}"),), 0.1) for group, code in findings]
    return Report(tuple(results), 0.1)


def test_causes_come_first_and_hide_their_consequences() -> None:
    report = report_of([("storage", "STO007"), ("machine", "ENV007"), ("machine", "ENV001"), ("config", "CFG003")])
    assert [one.code for one in report.findings] == ["CFG003", "ENV001", "STO007"]


FOLDED: list[tuple[str, list[Finding], dict[str, str]]] = [
    ("a folder that is gone", [found("STO002", "a"), found("CFG009", "b"), found("DOC002", "c"), found("SEC008", "d")],
     {"CFG009": "STO002", "DOC002": "STO002"}),
    ("worse than its cause", [found("STO002", "a", severity=Severity.INFO), found("CFG009", "b")], {}),
    ("one model", [found("MDL003", "a", subject="Org_Name"), found("RUN002", "b", subject="org/name:latest")],
     {"RUN002": "MDL003"}),
    ("two models", [found("MDL003", "a", subject="x"), found("RUN002", "b", subject="y")], {}),
    ("a chain", [found("ENV005", "a"), found("ENV001", "b"), found("RUN001", "c")],
     {"ENV001": "ENV005", "RUN001": "ENV005"}),
    ("said twice", [found("SEC008", "a"), found("SEC008", "a", evidence=["from another check"])], {}),
]  # fmt: skip


@pytest.mark.parametrize(("findings", "follows"), [pytest.param(*case[1:], id=case[0]) for case in FOLDED])
def test_consequences_are_folded_under_their_cause_and_kept_in_json(
    findings: list[Finding], follows: dict[str, str]
) -> None:
    results = [CheckResult(str(number), "storage", "t", (one,), 0.1) for number, one in enumerate(findings)]
    report = Report(tuple(results), 0.1)
    listed = report.as_json()["findings"]
    assert {one["code"]: one["follows_from"] for one in listed if one["follows_from"]} == follows
    assert {one["code"] for one in listed} == {one.code for one in findings}
    assert len(listed) == len({(one.code, one.title) for one in findings})
    assert not {one.code for one in report.findings} & set(follows)
    text, number = report.as_text(), len(follows)
    assert (f"{number} more finding{'s follow' if number > 1 else ' follows'} from this: " in text) == bool(follows)


def test_no_code_follows_from_itself() -> None:
    def all_of(code: str, seen: frozenset[str]) -> None:
        assert code not in seen, f"{code} follows from itself"
        for later in CONSEQUENCES.get(code, frozenset()) | OF_ONE_SUBJECT.get(code, frozenset()):
            assert later in CODES, later
            all_of(later, seen | {code})

    for code in (*CONSEQUENCES, *OF_ONE_SUBJECT):
        assert code in CODES
        all_of(code, frozenset())


def test_the_json_has_stable_fields() -> None:
    reported = report_of([("config", "CFG003")]).as_json()
    assert set(reported) == {"version", "ok", "seconds", "findings", "notes", "checks"}
    assert reported["ok"] is False
    assert reported["findings"] == [
        {
            "group": "config",
            "code": "CFG003",
            "severity": "error",
            "title": "title of CFG003",
            "evidence": [],
            "commands": [],
            "instead": [],
            "subject": "",
            "safe": [],
            "follows_from": None,
            "explain": "ollmlx doctor --explain CFG003",
        }
    ]
    assert set(reported["checks"][0]) == {"name", "group", "owner", "seconds", "findings"}


@pytest.mark.parametrize(
    ("note", "mark", "severity", "summary"),
    [
        (noted("NET003", "a note"), "[✓]", "ok", "No problems found."),
        (skipped("NET003", "a note"), "[-]", "skipped", "No problems found, but some checks were skipped."),
    ],
)
def test_a_note_is_no_finding_and_a_group_that_was_skipped_has_no_tick(
    note: Finding, mark: str, severity: str, summary: str
) -> None:
    report = Report((CheckResult("x", "server", "t", (note,), 0.1),), 0.1)
    assert report.findings == ()
    assert report.as_text().splitlines() == [f"{mark} Server", "    a note", summary]
    reported = report.as_json()
    assert reported["notes"] == [{"group": "server", "text": "a note", "severity": severity}]
    assert (reported["findings"], reported["checks"][0]["findings"]) == ([], 0)


def test_a_report_is_grouped_counted_and_fits_the_terminal() -> None:
    shown = report_of([("machine", "MDL010"), ("config", "CFG003"), ("machine", "ENV004")])
    assert shown.as_text().splitlines() == [
        "[✗] Settings",
        "    CFG003 title of CFG003",
        "           more: ollmlx doctor --explain CFG003",
        "[!] Machine",
        "    ENV004 title of ENV004",
        "           more: ollmlx doctor --explain ENV004",
        "    MDL010 title of MDL010",
        "1 error, 1 warning.",
    ]
    two_ways = found("STO006", "half a pull", commands=("ollmlx pull a",), instead=("rm -r a",))
    assert Report((CheckResult("x", "storage", "t", (two_ways,), 0.1),), 0.1).as_text().splitlines()[1:5] == [
        "    STO006 half a pull",
        "           $ ollmlx pull a",
        "           or:",
        "           $ rm -r a",
    ]
    long = Report((CheckResult("x", "config", "t", (found("CFG003", "word " * 40),), 0.1),), 0.1)
    assert max(len(line) for line in long.as_text(60).splitlines()) <= 60


BESIDE, ELSEWHERE = {"pip": "/venv/bin/pip"}, {"pip": "/usr/bin/pip"}


@pytest.mark.parametrize(
    ("found", "has_pip", "expected"),
    [
        (BESIDE, True, "pip install x"),
        (ELSEWHERE, True, "/venv/bin/python -P -m pip install x"),
        ({}, True, "/venv/bin/python -P -m pip install x"),
        ({"uv": "/usr/bin/uv"}, False, "uv pip install x --python /venv/bin/python"),
        ({"uv": "/usr/bin/uv"}, True, "/venv/bin/python -P -m pip install x"),
    ],
)
def test_pip_commands_install_into_the_python_that_runs_ollmlx(
    found: Mapping[str, str], has_pip: bool, expected: str
) -> None:
    commands, python = ("pip install x", "ollmlx serve"), "/venv/bin/python"
    assert own_pip(commands, python=python, which=found.get, has_pip=lambda: has_pip) == (expected, "ollmlx serve")


def test_a_context_that_cannot_be_built_is_a_finding() -> None:
    def build() -> CheckContext:
        raise TimeoutError("of its own")

    context, report = examine_here(build, patience=60.0)
    assert context is None
    (finding,) = report.findings
    assert (finding.code, finding.title) == ("DOC001", "the examination could not begin: TimeoutError: of its own")


def test_a_working_directory_that_was_removed_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def removed() -> Path:
        raise FileNotFoundError(2, "No such file or directory")

    settle(tmp_path)
    monkeypatch.setattr(Path, "cwd", removed)
    environ = {"HOME": str(tmp_path), "OLLMLX_CONFIG": str(tmp_path / "ollmlx.toml")}
    assert build_context(environ=environ).settings.models_folder == tmp_path / "models"


@pytest.mark.parametrize("pid", [-1, 10**30])
def test_a_number_that_is_no_process_is_none(pid: int) -> None:
    assert Processes().variables(pid) == {}
    assert Processes().get(pid) is None


def test_many_models_with_one_fault_are_told_a_few_times() -> None:
    """300 models that were cloned without Git LFS were 900 lines, and what else was wrong was lost among them."""
    pointers = [found("MDL003", f"org_m{i}/x is damaged: it is a pointer", subject=f"org_m{i}") for i in range(300)]
    other = found("MDL003", "org_other has no config.json", subject="org_other")
    report = Report((CheckResult("x", "storage", "t", (*pointers, other), 0.1),), 0.1)
    text = report.as_text()
    assert text.count("is a pointer") == 3
    assert "MDL003 297 more like these: ollmlx doctor storage --json" in text
    assert "org_other has no config.json" in text
    assert text.endswith("301 errors, 0 warnings.")
    assert len(report.as_json()["findings"]) == 301
