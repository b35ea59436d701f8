"""The llama.cpp backend's check keeps the contract of every check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from types import SimpleNamespace
from typing import Any

import pytest

from ollmlx import Check, ModelName
from ollmlx.doctor.machine import Completed
from ollmlx.errors import StorageError
from ollmlx.plugin.registry import Registry
from ollmlx.settings import Settings
from ollmlx.testing import CheckContext, CheckSuite, fake_model
from ollmlx.types import InstalledModel, ModelDetails
from ollmlx_llamacpp.backend import MISSING
from ollmlx_llamacpp.check import BROKEN, SLOWER, LlamaCppCheck


class Models:
    """A store that only lists."""

    def __init__(self, name: str, *models: InstalledModel) -> None:
        self.name, self._models = name, models

    async def list(self) -> Sequence[InstalledModel]:
        if self.name == "broken":
            raise StorageError("damaged")
        return self._models


class GgufSource:
    """Offers the GGUF file of every model without an organisation."""

    name, store = "files", "mlx"

    def provides(self, name: ModelName) -> str | None:
        return None if name.org else f"files:{name}"

    def format(self, name: ModelName) -> str:
        return "gguf"


def context(
    *models: InstalledModel, status: int = 0, mlx_device: str = "cpu", settings: Settings | None = None
) -> CheckContext:
    registry = Registry()
    registry.sources.add("files", GgufSource(), "files")  # type: ignore[arg-type]
    registry.backends.add("mlx", SimpleNamespace(name="mlx", device=mlx_device), "mlx")
    for store in (Models("broken"), Models("ollama", *models)):
        registry.stores.add(store.name, store, store.name)  # type: ignore[arg-type]

    async def child(argv: Sequence[str], seconds: float) -> Completed:
        return Completed(status, "", "Traceback\nImportError: libcuda.so.1: cannot open shared object file\n")

    plugins: Any = SimpleNamespace(registry=registry)
    return CheckContext(load=lambda: plugins, child=child, settings=settings or Settings())


IMPORTED = fake_model("small", format="mlx", source="files:small")
GGUF = [fake_model(f"model-{number}", format="gguf") for number in range(12)]


class TestLlamaCppCheck(CheckSuite):
    def make_check(self) -> Check:
        return LlamaCppCheck(lambda: True)

    def make_sick_check(self, code: str) -> Check:
        return LlamaCppCheck(lambda: code != MISSING)

    def runbooks(self) -> Traversable:
        return files("ollmlx_llamacpp") / "diagnostics"

    def healthy(self) -> CheckContext:
        return context(*GGUF)

    def sick(self) -> Mapping[str, CheckContext]:
        slow = context(IMPORTED)
        return {MISSING: context(*GGUF), BROKEN: context(GGUF[0], status=1), SLOWER: slow}

    async def test_without_gguf_models_there_is_no_finding(self) -> None:
        check = LlamaCppCheck(lambda: False)
        assert await check.run(context(fake_model(format="mlx"))) == []
        assert await check.run(CheckContext()) == []

    @pytest.mark.finding("ENV021")
    async def test_the_command_and_the_models_are_named(self) -> None:
        (finding,) = await LlamaCppCheck(lambda: False).run(context(*GGUF))
        assert finding.code == "ENV021"
        assert finding.commands == ("pip install 'ollmlx[llamacpp]'",)
        assert len(finding.evidence) == 11
        assert finding.evidence[-1] == "and 2 more"

    async def test_models_that_hear_need_pyav(self) -> None:
        ears = fake_model("ears", format="gguf", projector_info={"clip.has_audio_encoder": True})
        (finding,) = await LlamaCppCheck(lambda: True, lambda: False).run(context(*GGUF, ears))
        assert (finding.code, finding.evidence) == ("ENV021", ("ears",))
        assert await LlamaCppCheck(lambda: True, lambda: False).run(context(*GGUF)) == []

    @pytest.mark.finding("ENV022")
    async def test_the_last_line_of_the_failed_import_is_evidence(self) -> None:
        (finding,) = await LlamaCppCheck(lambda: True).run(context(*GGUF, status=1))
        assert finding.code == "ENV022"
        assert finding.evidence[0] == "ImportError: libcuda.so.1: cannot open shared object file"

    @pytest.mark.finding("ENV007")
    async def test_an_import_that_llama_cpp_would_run_faster_is_named_with_the_command(self) -> None:
        of_the_hub = fake_model("org/small", format="mlx", source="files:org/small")
        copied = fake_model("copied", format="mlx", source="local")
        (finding,) = await LlamaCppCheck(lambda: True).run(context(IMPORTED, of_the_hub, copied))
        assert finding.code == "ENV007"
        assert finding.subject == "small"
        assert "3 to 7 times" in finding.title
        assert finding.commands == ("ollmlx pull small",)

    @pytest.mark.finding("ENV007")
    @pytest.mark.parametrize(
        ("changes", "base"),
        [
            ({"source": "gguf:notes.Q4_0.gguf"}, "notes.Q4_0.gguf"),
            ({"source": IMPORTED.source, "details": ModelDetails(parent_model="small:1b")}, "small:1b"),
        ],
        ids=["from a file", "from an installed model"],
    )
    async def test_an_import_that_a_person_created_is_named_with_what_it_was_made_from(
        self, changes: dict[str, Any], base: str
    ) -> None:
        own = fake_model("own", format="mlx", **changes)
        (finding,) = await LlamaCppCheck(lambda: True).run(context(own))
        assert finding.commands == ("ollmlx create own -f Modelfile",)
        assert base in finding.evidence[-1]

    async def test_an_import_stays_unnamed_on_a_gpu_and_when_the_settings_want_it(self) -> None:
        model, wanted = IMPORTED, {"models": {"small": {"backend": "mlx"}}}
        for calm in (
            context(model, mlx_device="metal"),
            context(model, settings=Settings.model_validate(wanted)),
        ):
            assert await LlamaCppCheck(lambda: True).run(calm) == []
