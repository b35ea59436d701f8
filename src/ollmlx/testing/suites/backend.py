"""The suite of backends: the calls that the daemon makes before a process starts, and the suite of their engines."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ollmlx import Backend, LaunchOptions
from ollmlx.testing.suites.engine import EngineSuite
from ollmlx.types import InstalledModel

HEAVY = ("mlx", "mlx_lm", "torch", "transformers", "numpy", "llama_cpp", "xllamacpp")


class BackendSuite(EngineSuite):
    """Tests a backend, and its engine with the command that it returns. Subclass it, and make a backend and a model.

    class TestMyBackend(BackendSuite):
        def make_backend(self):
            return MyBackend()

        def make_model(self, folder):
            return fake_model(format="mine", path=folder)
    """

    def make_backend(self) -> Backend:
        """Return the backend under test."""
        raise NotImplementedError

    @pytest.fixture
    def backend(self) -> Backend:
        return self.make_backend()

    @pytest.fixture
    def launch(self) -> LaunchOptions:
        return self.make_launch()

    def test_it_is_a_backend_with_a_name(self, backend: Backend) -> None:
        assert isinstance(backend, Backend)
        assert backend.name
        assert backend.name == backend.name.strip().lower()

    def test_it_accepts_its_own_models(self, backend: Backend, model: InstalledModel) -> None:
        assert backend.accepts(model) is None

    def test_it_refuses_other_formats_with_a_reason(self, backend: Backend, model: InstalledModel) -> None:
        refusal = backend.accepts(model.model_copy(update={"format": "no-such-format"}))
        assert refusal is not None
        assert refusal.reason

    def test_its_estimate_is_positive_and_grows_with_the_context(self, backend: Backend, model: InstalledModel) -> None:
        small, large = backend.estimate(model, 512, 1), backend.estimate(model, 1024, 1)
        assert 0 < small.total <= large.total
        assert small.weights == large.weights
        assert min(small.kv_cache, small.overhead, small.kv_per_token) >= 0

    def test_its_estimate_does_not_shrink_with_the_batch(self, backend: Backend, model: InstalledModel) -> None:
        assert backend.estimate(model, 512, 1).total <= backend.estimate(model, 512, 4).total

    def test_its_command_names_an_executable_and_takes_the_socket(
        self, backend: Backend, model: InstalledModel, launch: LaunchOptions
    ) -> None:
        command = backend.command(model, launch)
        assert Path(command.argv[0]).is_absolute()
        assert Path(command.argv[0]).exists()
        assert any("{fd}" in part for part in command.argv)

    def test_asking_twice_gives_the_same_command(
        self, backend: Backend, model: InstalledModel, launch: LaunchOptions
    ) -> None:
        assert backend.command(model, launch) == backend.command(model, launch)

    def test_it_imports_no_format_that_nobody_has(self, backend: Backend) -> None:
        assert backend.importer("no-such-format") is None

    def test_importing_it_imports_nothing_heavy(self, backend: Backend) -> None:
        module = type(backend).__module__
        program = f"import sys, {module}; print(*sorted({set(HEAVY)!r} & set(sys.modules)))"
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120, env=env
        )
        assert (done.returncode, done.stdout.split()) == (0, []), done.stderr
