"""The speech backend takes the models that its libraries run, and its check keeps the contract of every check."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from tests.speech_models import speech_model

from ollmlx import Backend, Check
from ollmlx.doctor.machine import Completed
from ollmlx.errors import StorageError
from ollmlx.plugin.registry import Registry
from ollmlx.protocol import RunnerConfig
from ollmlx.testing import BackendSuite, CheckContext, CheckSuite, fake_model
from ollmlx.types import InstalledModel
from ollmlx_speech.backend import MISSING, SpeechBackend
from ollmlx_speech.check import PROGRAM, SpeechCheck

WHISPER = fake_model("whisper", format="ctranslate2", capabilities=("transcription",))
PIPER = fake_model("joe", format="piper", capabilities=("speech",))
ON_METAL = fake_model("metal", format="mlx", capabilities=("transcription",))
EVERYTHING = ("faster_whisper", "piper", "mlx_audio", "av")


class SpeechModels(BackendSuite):
    """One model from the Python index, as the backend runs it."""

    name: ClassVar[str]

    def make_backend(self) -> Backend:
        return SpeechBackend()

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, tmp_path_factory: pytest.TempPathFactory) -> InstalledModel:
        pytest.importorskip("faster_whisper", reason="pip install 'ollmlx[speech]'")
        return asyncio.run(speech_model(cls.name, tmp_path_factory.mktemp("models")))


@pytest.mark.model
@pytest.mark.slow
class TestWhisper(SpeechModels):
    name = "whisper:tiny"


@pytest.mark.model
@pytest.mark.slow
class TestVoice(SpeechModels):
    name = "piper:joe"


@pytest.mark.parametrize(
    ("model", "installed", "hint"),
    [
        (WHISPER, EVERYTHING, None),
        (ON_METAL, EVERYTHING, None),
        (PIPER, ("av", "piper"), None),
        (PIPER, ("av", "faster_whisper"), "ollmlx[speech]"),
        (WHISPER, ("av",), "ollmlx[speech]"),
        (WHISPER, ("faster_whisper",), "ollmlx[speech]"),
        (ON_METAL, ("faster_whisper", "av"), "Apple silicon"),
    ],
)
def test_a_model_is_run_where_its_libraries_are(
    model: InstalledModel, installed: Sequence[str], hint: str | None
) -> None:
    refusal = SpeechBackend(installed.__contains__).accepts(model)
    assert (refusal is None) is (hint is None)
    if refusal is not None and hint is not None:
        assert refusal.code == MISSING
        assert hint in (refusal.hint or "")


def test_models_of_other_kinds_are_left_to_others() -> None:
    for other in (fake_model(format="mlx"), fake_model(format="gguf", capabilities=("transcription",))):
        refusal = SpeechBackend(lambda _: True).accepts(other)
        assert refusal is not None
        assert refusal.code == "MDL005"


def context(*models: InstalledModel, status: int = 0) -> CheckContext:
    async def listed() -> Sequence[InstalledModel]:
        return models

    async def broken() -> Sequence[InstalledModel]:
        raise OSError

    async def child(argv: Sequence[str], seconds: float) -> Completed:
        assert argv[-1] in EVERYTHING
        return Completed(status, "", "Traceback\nav.codec.UnknownCodecError: opus\n")

    registry = Registry()
    for name, entries in (("broken", broken), ("mlx", listed)):
        registry.stores.add(name, SimpleNamespace(name=name, list=entries), name)
    plugins: Any = SimpleNamespace(registry=registry)
    return CheckContext(load=lambda: plugins, child=child)


class TestSpeechCheck(CheckSuite):
    def make_check(self) -> Check:
        return SpeechCheck(lambda _: True)

    def make_sick_check(self, code: str) -> Check:
        return SpeechCheck(lambda _: False)

    def runbooks(self) -> Traversable:
        return files("ollmlx_speech") / "diagnostics"

    def healthy(self) -> CheckContext:
        return context(WHISPER)

    def sick(self) -> Mapping[str, CheckContext]:
        return {MISSING: context(WHISPER)}

    @pytest.mark.finding("ENV027")
    async def test_what_is_missing_or_broken_is_named_and_nothing_without_a_speech_model(self) -> None:
        (half,) = await SpeechCheck(("av",).__contains__).run(context(WHISPER, fake_model()))
        assert half.code == "ENV027"
        assert half.evidence == ("whisper: faster-whisper is not installed",)
        (broken,) = await SpeechCheck(lambda _: True).run(context(ON_METAL, status=1))
        assert "UnknownCodecError: opus" in broken.evidence[0]
        assert await SpeechCheck(lambda _: False).run(context(fake_model())) == []


async def test_the_codecs_are_those_of_the_real_library() -> None:
    pytest.importorskip("av", reason="pip install 'ollmlx[speech]'")
    done = await CheckContext().child([sys.executable, "-P", "-c", PROGRAM], 60)
    assert (done.status, done.err) == (0, "")


async def test_a_model_that_cannot_be_loaded_is_said_to_be_bad(tmp_path: Path) -> None:
    pytest.importorskip("faster_whisper", reason="pip install 'ollmlx[speech]'")
    from ollmlx_speech.engine.engine import SpeechEngine

    (tmp_path / "model.bin").write_bytes(b"no weights")
    (tmp_path / "a.onnx").write_bytes(b"no network")
    for model, path in ((WHISPER, tmp_path), (WHISPER, tmp_path / "none"), (PIPER, tmp_path)):
        placed = model.model_copy(update={"path": path})
        config = RunnerConfig(runner="x", token="x", model=placed, context_length=448)
        with pytest.raises(StorageError, match="cannot be loaded"):
            await SpeechEngine().load(config)
