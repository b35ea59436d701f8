"""`ollmlx doctor` with a real daemon."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from tests.unit.doctor.test_checks_storage import put, truncated

pytestmark = pytest.mark.e2e


def test_a_healthy_daemon_gives_no_findings(daemon: Any) -> None:
    started = daemon()
    reported = json.loads(started.cli("doctor", "server", "--deep", "--json").stdout)
    assert reported["findings"] == []
    wrong = started.cli("doctor", "nothing")
    assert wrong.returncode == 2
    assert "groups: config, machine" in wrong.stderr


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_every_problem_is_named_although_a_plugin_and_a_port_never_answer(daemon: Any, silent_port: int) -> None:
    started = daemon()
    started.stop()
    hanging = started.folder / "hanging.py"
    hanging.write_text("import time\ntime.sleep(3600)", encoding="utf-8")
    put(started.models / "mlx/one", config__json=b"{")
    truncated(put(started.models / "mlx/org_two", name="org/two:latest"))
    put(started.models / "mlx/three", name="org/four:latest")
    started.config.write_text(
        f'[server]\nhosst = 1\n[runners]\nparallel = "x"\n[plugins]\npaths = ["{hanging}"]\nrequired = ["nobody"]\n',
        encoding="utf-8",
    )
    started.environment |= {
        "OLLAMA_KEEP_ALIVE": "abc",
        "OLLMLX_PLUGINS__LOAD_TIMEOUT": "5",
        "HTTP_PROXY": "http://127.0.0.1:1",
        "OLLAMA_MODELS": str(started.models),
        "OLLMLX_SERVER__HOST": f"127.0.0.1:{silent_port}",
    }
    # --deep gives plugins and checks their time: on a busy machine four seconds may not be enough for all of them
    done = started.cli("doctor", "--deep", "--json", "--config", str(started.config))
    reported = json.loads(done.stdout)
    assert done.returncode == 1
    found = [(one["code"], one["subject"]) for one in reported["findings"]]
    assert found[:2] == [("CFG003", f"{started.config}, line 2"), ("CFG004", f"{started.config}, line 4")]
    assert ("CFG004", "OLLAMA_KEEP_ALIVE") in found
    assert ("PLG001", "hanging") in found
    assert ("MDL003", "org_two") in found
    assert {"NET001", "NET007", "PLG006", "STO007"} <= {code for code, _ in found}
    explained = started.cli("doctor", "--explain", "CFG001", "--config", str(started.config))
    assert explained.stdout.startswith("# CFG001: ")
