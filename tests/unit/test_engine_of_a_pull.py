"""Which engine a GGUF file gets: kept for llama.cpp or imported for MLX, as machine, settings or request say."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from tests.servers.ollama_folder import tiny_gguf

from ollmlx.errors import NotFound
from ollmlx.launch.overrides import ModelOverrides
from ollmlx.launch.planner import LaunchPlanner
from ollmlx.model.names import ModelName
from ollmlx.plugin.contracts import Importer, LaunchOptions, Refusal, RunnerCommand, Source
from ollmlx.plugin.registry import Registry
from ollmlx.service import Service
from ollmlx.settings import Settings
from ollmlx.storekit.blobs import Blobs
from ollmlx.supervisor.process.importers import ChildImporter
from ollmlx.types import CreateRequest, InstalledModel, MemoryEstimate, ModelDefaults, PullCandidate, PullProgress

NAME = ModelName.parse("small:1b")


class FormatBackend:
    """Runs one format on one device, and imports GGUF if it is the backend of MLX models."""

    device = "cpu"
    runs: tuple[str, ...] = ()

    def __init__(self, name: str, device: str, *, runs: tuple[str, ...] = ()) -> None:
        self.name, self.device, self.runs = name, device, runs

    def accepts(self, model: InstalledModel) -> Refusal | None:
        mine = model.format in self.runs or (model.format == "mlx" and not self.runs)
        return None if mine else Refusal(reason=f"not {model.format}")

    def estimate(self, model: InstalledModel, context: int, parallel: int) -> MemoryEstimate:
        return MemoryEstimate(weights=1, kv_cache=1, overhead=1)

    def command(self, model: InstalledModel, options: LaunchOptions) -> RunnerCommand:
        return RunnerCommand(argv=("/bin/true",))

    def importer(self, format: str) -> RunnerCommand | None:
        return RunnerCommand(argv=("/bin/true",)) if format == "gguf" and not self.runs else None


class MemoryStore:
    """Keeps models in memory, all in one format."""

    def __init__(self, name: str, format: str) -> None:
        self.name, self._format = name, format
        self.models: dict[ModelName, InstalledModel] = {}

    async def list(self) -> Sequence[InstalledModel]:
        return list(self.models.values())

    async def resolve(self, name: ModelName) -> InstalledModel | None:
        return self.models.get(name)

    async def delete(self, name: ModelName) -> None:
        del self.models[name]

    async def pull(
        self, name: ModelName, source: Source, importer: Importer | None, *, insecure: bool = False
    ) -> AsyncIterator[PullProgress]:
        yield self._add(name)

    async def create(self, request: CreateRequest, importer: Importer | None) -> AsyncIterator[PullProgress]:
        yield self._add(request.name)

    def _add(self, name: ModelName) -> PullProgress:
        self.models[name] = InstalledModel(
            name=name, store=self.name, format=self._format, path=Path("/x"), digest="a" * 64, size=1,
            modified_at=datetime(2026, 1, 1, tzinfo=UTC),
        )  # fmt: skip
        return PullProgress(status="success")


class KeepingStore(MemoryStore):
    keeps = ("gguf",)


class GgufSource:
    name, store = "files", "mlx"

    def provides(self, name: ModelName) -> str | None:
        return f"files:{name}"

    def format(self, name: ModelName) -> str:
        return "gguf"

    def fetch(self, name: ModelName, into: Path, *, insecure: bool = False) -> AsyncIterator[PullProgress]:
        raise AssertionError("the stores of these tests fetch nothing")


class HubLikeSource(GgufSource):
    """Has the MLX models of organisations."""

    name = "hub"

    def provides(self, name: ModelName) -> str | None:
        return f"hub:{name}" if name.org else None

    def format(self, name: ModelName) -> str:
        return "mlx"


class PreviewedSource(GgufSource):
    """Tells what it has: first a file, then one that nothing can read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    async def preview(self, name: ModelName, into: Path, *, insecure: bool = False) -> AsyncIterator[PullCandidate]:
        yield PullCandidate(origin="files:whole", format="gguf", size=5, path=self.file)
        yield PullCandidate(origin="files:missing", format="gguf", size=5, path=self.file.with_name("no.gguf"))
        yield PullCandidate(origin="files:unread", format="gguf", size=5)
        raise NotFound("that is all")


class QuietPool:
    def __init__(self) -> None:
        self.unloaded = 0

    async def unload(self, key: str, *, wait: bool = True) -> bool:
        self.unloaded += 1
        return True

    def has_runner(self, key: str) -> bool:
        return False


class Machine:
    """A daemon on a machine where MLX has this device, with or without llama.cpp."""

    def __init__(
        self,
        device: str,
        *,
        llamacpp: bool = True,
        backend: str | None = None,
        source: Source | None = None,
        catalogue: dict[str, str] | None = None,
        aliases: dict[str, str] | None = None,
    ) -> None:
        models = {"small:1b": {"backend": backend}} if backend else {}
        settings = Settings.model_validate({"models": models, "aliases": aliases or {}})
        registry, self.pool = Registry(), QuietPool()
        self.imports, self.files = MemoryStore("mlx", "mlx"), KeepingStore("ollama", "gguf")
        for store in (self.imports, self.files):
            registry.stores.add(store.name, cast("Any", store), "test")
        registry.sources.add("hub", HubLikeSource(), "test")
        registry.sources.add("files", source or GgufSource(), "test")
        registry.backends.add("mlx", FormatBackend("mlx", device), "test")
        if llamacpp:
            registry.backends.add("llamacpp", FormatBackend("llamacpp", "cpu", runs=("gguf",)), "test")
        overrides = ModelOverrides(settings, catalogue or {})
        planner = LaunchPlanner(settings, registry, overrides, ChildImporter, 1 << 40, self.pool.has_runner)
        blobs = Blobs(Path("/nowhere"))
        self.service = Service(settings, registry, cast("Any", self.pool), overrides, planner, blobs)

    async def pull(self, backend: str | None = None) -> list[str]:
        """Pull the model; returns the steps."""
        return [step.status async for step in self.service.pull(NAME, backend=backend)]

    async def create(self) -> None:
        """Create the model from a GGUF file."""
        files, defaults = {"weights.gguf": Path("/weights.gguf")}, ModelDefaults()
        async for _ in self.service.create(NAME, base=None, files=files, defaults=defaults):
            pass

    async def engine(self) -> tuple[str, str]:
        """Return the engine of the model, and why."""
        choice = await self.service.engine(await self.service.show(NAME))
        return choice.backend, choice.why


async def test_a_machine_without_a_gpu_for_mlx_keeps_a_gguf_file_for_llama_cpp() -> None:
    machine = Machine("cpu")
    assert await machine.pull() == ["success"]
    backend, why = await machine.engine()
    assert backend == "llamacpp"
    assert "without a GPU for MLX" in why


@pytest.mark.parametrize("machine", [Machine("metal"), Machine("cuda"), Machine("cpu", llamacpp=False)])
async def test_an_import_is_made_where_mlx_has_a_gpu_or_nothing_else_runs_the_file(machine: Machine) -> None:
    await machine.pull()
    assert (await machine.engine())[0] == "mlx"
    assert not machine.files.models


async def test_a_model_created_from_a_gguf_file_gets_the_same_engine_as_a_pulled_one() -> None:
    for device, expected in (("cpu", "llamacpp"), ("metal", "mlx")):
        machine = Machine(device)
        await machine.create()
        assert (await machine.engine())[0] == expected


async def test_the_request_and_the_settings_overrule_the_machine() -> None:
    asked, declared, kept = Machine("cpu"), Machine("cpu", backend="mlx"), Machine("metal")
    await asked.pull(backend="mlx")
    await declared.pull()
    await kept.pull(backend="llamacpp")
    assert [(await each.engine())[0] for each in (asked, declared, kept)] == ["mlx", "mlx", "llamacpp"]
    assert "chosen by" in (await declared.engine())[1]


async def test_pulling_again_replaces_an_earlier_import_that_would_hide_the_file() -> None:
    machine = Machine("cpu")
    await machine.pull(backend="mlx")
    steps = await machine.pull()
    assert steps == ["removing the import of small:1b in store mlx", "success"]
    assert (await machine.engine())[0] == "llamacpp"
    assert machine.pool.unloaded > 0


async def test_a_file_that_another_program_may_use_is_not_removed_by_an_import() -> None:
    machine = Machine("cpu")
    await machine.pull()
    await machine.pull(backend="mlx")
    assert NAME in machine.files.models
    assert (await machine.engine())[0] == "mlx"


async def test_a_preview_judges_each_candidate_by_engine_context_and_memory(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(tiny_gguf())
    machine = Machine("cpu", source=PreviewedSource(tmp_path / "a.gguf"))
    whole, missing, unread, end = await machine.service.preview(NAME)
    assert (whole.backend, whole.memory, whole.fits, whole.error) == ("llamacpp", 3, True, "")
    assert 0 < whole.context_length <= whole.model_context
    assert (missing.origin, missing.fits) == ("files:missing", None)
    assert "no.gguf" in missing.error
    assert (unread.size, unread.memory, unread.error) == (5, None, "")
    assert (end.source, end.error) == ("files", "that is all")


async def test_a_file_in_ollamas_own_dialect_is_left_for_the_next_source_before_it_is_downloaded(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.gguf").write_bytes(tiny_gguf(architecture="gptoss"))
    source = PreviewedSource(tmp_path / "a.gguf")
    machine = Machine("cpu", source=source, catalogue={"small:1b": "mlx-community/Small-4bit"})
    first, last = await machine.pull()
    assert "Ollama's own dialect" in first
    assert first.endswith("asking the next source")
    assert (last, list(machine.files.models)) == ("success", [])

    alone = Machine("cpu", source=source)
    assert await alone.pull() == ["success"]
    assert list(alone.files.models) == [NAME]


class BrokenPreview(GgufSource):
    def preview(self, name: ModelName, into: Path, *, insecure: bool = False) -> AsyncIterator[PullCandidate]:
        raise RuntimeError("a fault of the plugin")


async def test_a_preview_that_fails_ends_no_pull() -> None:
    machine = Machine("cpu", source=BrokenPreview(), catalogue={"small:1b": "mlx-community/Small-4bit"})
    assert await machine.pull() == ["success"]
    assert len(machine.files.models) == 1


async def test_a_source_without_a_preview_says_so() -> None:
    (found,) = await Machine("cpu").service.preview(NAME)
    assert found.error == "the source does not tell what it would fetch"


@pytest.mark.parametrize(
    ("device", "target", "aliases", "backend", "installed"),
    [
        ("cpu", "mlx-community/Small-4bit", {}, None, "gguf"),
        ("cpu", "mlx-community/Small-4bit", {}, "mlx", "mlx"),
        ("cpu", "mlx-community/Small-4bit", {"small:1b": "mlx-community/Other"}, None, "mlx"),
        ("cpu", "authors/encoder", {}, None, "mlx"),
        ("metal", "mlx-community/Small-4bit", {}, None, "mlx"),
    ],
)
async def test_a_name_of_the_catalogue_brings_the_gguf_file_where_that_is_faster(
    device: str, target: str, aliases: dict[str, str], backend: str | None, installed: str
) -> None:
    machine = Machine(device, catalogue={"small:1b": target}, aliases=aliases)
    await machine.pull(backend=backend)
    found = [*machine.imports.models.values(), *machine.files.models.values()]
    assert [model.format for model in found] == [installed]
