"""The backend for models that see, with a tiny one, and its check keep the contracts of theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import pytest
from tests.vision_models import seeing_model

from ollmlx import Backend, Check
from ollmlx.doctor.machine import Completed
from ollmlx.plugin.loader import load_plugins
from ollmlx.plugin.registry import Registry
from ollmlx.settings import Settings
from ollmlx.testing import BackendSuite, CheckContext, CheckSuite, fake_model
from ollmlx.types import InstalledModel, ModelDetails
from ollmlx_mlx_vlm.backend import MISSING
from ollmlx_mlx_vlm.check import VisionCheck


@cache
def registered() -> Registry:
    """As the daemon has it."""
    return load_plugins(Settings()).registry


def seeing(path: Path, family: str) -> InstalledModel:
    return fake_model(
        family,
        format="mlx",
        path=path,
        capabilities=("completion", "vision"),
        details=ModelDetails(family=family, context_length=4096),
    )


@pytest.mark.mlx
@pytest.mark.slow
class TestMlxVlmBackend(BackendSuite):
    context_length = 256

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def installed(cls) -> None:
        pytest.importorskip("mlx_vlm")

    def make_backend(self) -> Backend:
        return registered().backend("mlx_vlm")

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, tmp_path_factory: pytest.TempPathFactory) -> InstalledModel:
        return seeing(seeing_model(tmp_path_factory.mktemp("models") / "smolvlm", "smolvlm"), "smolvlm")

    def test_it_runs_models_that_see_and_no_others(self, model: InstalledModel, tmp_path: Path) -> None:
        qwen = seeing(seeing_model(tmp_path / "qwen2_vl", "qwen2_vl"), "qwen2_vl")
        registry = registered()
        assert [registry.backend_for(one).name for one in (model, qwen)] == ["mlx_vlm", "mlx_vlm"]
        assert registry.backend_for(qwen, "mlx").name == "mlx"
        assert [registry.senses(one) for one in (model, qwen)] == [{"vision"}, {"vision"}]
        assert not registry.senses(qwen, "mlx")
        (qwen.path / "config.json").write_text('{"model_type": "qwen2"}', encoding="utf-8")
        assert not registry.senses(qwen)


class Models:
    """A store that only lists."""

    name = "models"

    def __init__(self, *models: InstalledModel) -> None:
        self._models = models

    async def list(self) -> Sequence[InstalledModel]:
        return self._models


def context(*models: InstalledModel, status: int = 0) -> CheckContext:
    registry = Registry()
    registry.stores.add("models", Models(*models), "models")  # type: ignore[arg-type]

    async def child(argv: Sequence[str], seconds: float) -> Completed:
        return Completed(status, "", "Traceback\nImportError: No module named 'cv2'\n")

    plugins = type("Plugins", (), {"registry": registry})()
    return CheckContext(load=lambda: plugins, child=child)


SEEN = [seeing(Path("/none"), "gemma3"), seeing(Path("/none"), "qwen2_vl")]


class TestVisionCheck(CheckSuite):
    def make_check(self) -> Check:
        return VisionCheck(lambda: True)

    def make_sick_check(self, code: str) -> Check:
        return VisionCheck(lambda: False)

    def runbooks(self) -> Traversable:
        return files("ollmlx_mlx_vlm") / "diagnostics"

    def healthy(self) -> CheckContext:
        return context(*SEEN)

    def sick(self) -> Mapping[str, CheckContext]:
        return {MISSING: context(*SEEN)}

    @pytest.mark.finding("ENV025")
    async def test_the_command_the_models_and_a_failed_import_are_named(self) -> None:
        (missing,) = await VisionCheck(lambda: False).run(context(*SEEN))
        assert (missing.code, missing.commands) == ("ENV025", ("pip install 'ollmlx[vision]'",))
        assert missing.evidence == ("gemma3", "qwen2_vl")
        (broken,) = await VisionCheck(lambda: True).run(context(*SEEN, status=1))
        assert broken.evidence[0] == "ImportError: No module named 'cv2'"
        assert await VisionCheck(lambda: False).run(context(fake_model(format="mlx"))) == []
