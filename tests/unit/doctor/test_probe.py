"""Foreign plugins are looked at from a child process: whatever one does is a finding, and the rest is examined."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from tests.unit.doctor.contexts import examined, healthy

from ollmlx.doctor.report import Report
from ollmlx.errors.findings import Finding
from ollmlx.testing.waiting import wait_until

pytestmark = pytest.mark.slow

CHECK = """
import os
from ollmlx import Finding, hookimpl

class OddCheck:
    name, group, codes = "odd", "machine", ("ENV001",)
    async def run(self, context):
        {body}

@hookimpl
def register_checks(register):
    register(OddCheck())
"""


def report_of(tmp_path: Path, **plugins: str) -> Report:
    """Return the report with these plugins: their names with their source."""
    for name, source in plugins.items():
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
    paths = json.dumps([str(tmp_path / f"{name}.py") for name in plugins])
    return examined(healthy(tmp_path, f"[plugins]\npaths = {paths}"))


def about(report: Report, subject: str) -> Finding:
    return next(one for one in report.findings if one.subject == subject)


@pytest.mark.finding("PLG001")
@pytest.mark.finding("PLG005")
def test_a_plugin_that_ends_crashes_or_changes_the_process_is_a_finding_and_the_rest_is_examined(
    tmp_path: Path,
) -> None:
    report = report_of(
        tmp_path,
        leaver="import os; os._exit(0)",
        crasher="import ctypes; ctypes.string_at(0)",
        printer="print('hello')",
        mover="import os; os.chdir('/')",
        threads="import threading, time; threading.Thread(target=time.sleep, args=(99,), daemon=True).start()",
        fine="",
    )
    assert {one.subject: (one.code, one.title.partition("' ")[2]) for one in report.of_group("plugins")} == {
        "leaver": ("PLG001", "ends the process with exit status 0 while it is loaded"),
        "crasher": ("PLG001", "crashes Python (SIGSEGV) while it is loaded"),
        "printer": ("PLG005", "prints to standard output: hello"),
        "mover": ("PLG005", "changes the working directory of the whole process: /"),
        "threads": ("PLG005", "starts threads: Thread-1 (sleep)"),
    }
    assert {"machine", "storage", "server"} <= set(report.groups())


def test_a_check_that_ends_the_process_is_a_finding(tmp_path: Path) -> None:
    report = report_of(tmp_path, odd=CHECK.format(body="os._exit(0)"))
    assert about(report, "odd").code == "DOC001"


def test_a_foreign_check_reports_what_it_finds(tmp_path: Path) -> None:
    report = report_of(tmp_path, odd=CHECK.format(body='return [Finding.of("ENV001", "odd", commands=["ollmlx ps"])]'))
    assert [one.title for one in report.findings] == ["odd"]


def test_a_killed_doctor_leaves_no_process_of_a_plugin(tmp_path: Path) -> None:
    started = tmp_path / "started"
    hangs = f"import os, pathlib, time; pathlib.Path('{started}').write_text(str(os.getpid())); time.sleep(600)"
    (tmp_path / "hangs.py").write_text(hangs, encoding="utf-8")
    (tmp_path / "o.toml").write_text('[plugins]\npaths = ["hangs.py"]', encoding="utf-8")
    command = [sys.executable, "-m", "ollmlx", "doctor", "--deep", "--config", "o.toml"]
    environ = {**os.environ, "HOME": str(tmp_path), "OLLAMA_HOST": "127.0.0.1:1"}
    with subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=subprocess.DEVNULL) as doctor:
        try:
            wait_until(lambda: started.exists() and started.read_text())
        finally:
            doctor.kill()
    pid = int(started.read_text())
    wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_json_is_not_broken_by_a_plugin_that_prints_or_exits(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("print('x')", encoding="utf-8")
    (tmp_path / "b.py").write_text("import os; os._exit(0)", encoding="utf-8")
    (tmp_path / "o.toml").write_text('[plugins]\npaths = ["a.py", "b.py"]', encoding="utf-8")
    command = [sys.executable, "-m", "ollmlx", "doctor", "--deep", "plugins", "--json", "--config", "o.toml"]
    environ = {**os.environ, "HOME": str(tmp_path), "OLLAMA_HOST": "127.0.0.1:1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environ, timeout=120)
    assert done.returncode == 1
    named = {one["subject"]: one["code"] for one in json.loads(done.stdout)["findings"]}
    assert named == {"a": "PLG005", "b": "PLG001"}
