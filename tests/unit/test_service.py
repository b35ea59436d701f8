"""The use cases over fake stores and a fake pool."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast

import pytest
from tests.pictures import base64_of, drawn

from ollmlx.errors import (
    Conflict,
    InvalidRequest,
    NotFound,
    OllmlxError,
    PluginError,
    StorageError,
    Unsupported,
    UpstreamError,
)
from ollmlx.launch.overrides import ModelOverrides
from ollmlx.launch.planner import LaunchPlanner
from ollmlx.launch.spec import LaunchSpec
from ollmlx.model.names import ModelName
from ollmlx.plugin.contracts import Importer, LaunchOptions, Refusal, RunnerCommand, Source
from ollmlx.plugin.registry import Registry
from ollmlx.protocol import RunnerConfig
from ollmlx.service import Service
from ollmlx.settings.model import ModelSettings, RunnerSettings, Settings
from ollmlx.storekit.blobs import Blobs
from ollmlx.supervisor.process.importers import ChildImporter
from ollmlx.testing.routes import installed as model_of
from ollmlx.types import (
    Admitted,
    Caller,
    Capability,
    CreateRequest,
    Done,
    Event,
    GenerateRequest,
    InstalledModel,
    MemoryEstimate,
    Message,
    ModelDefaults,
    ModelDetails,
    Options,
    PullProgress,
    RunnerInfo,
    RunnerState,
    Text,
)

CALLER = Caller(request_id="r1")
PICTURE = base64_of(drawn())
HELLO = GenerateRequest(messages=(Message(role="user", content="hi"),))
MIB = 1024**2


def installed(name: str, **changes: Any) -> InstalledModel:
    path, details = Path("/models") / name.replace("/", "_"), ModelDetails(context_length=8192)
    return model_of(name, **{"store": "first", "format": "mlx", "path": path, "details": details, **changes})


class ListStore:
    def __init__(self, *models: InstalledModel, name: str = "first") -> None:
        self.name = name
        self.models = list(models)
        self.pulled: list[ModelName] = []
        self.created: list[CreateRequest] = []

    async def list(self) -> Sequence[InstalledModel]:
        return self.models

    async def resolve(self, name: ModelName) -> InstalledModel | None:
        return next((model for model in self.models if model.name.same_spelling(name)), None)

    async def pull(
        self, name: ModelName, source: Source, importer: Importer | None, *, insecure: bool = False
    ) -> AsyncIterator[PullProgress]:
        self.pulled.append(name)
        yield PullProgress(status="pulling manifest")
        self.models.append(installed(str(name)))
        yield PullProgress(status="success")

    async def delete(self, name: ModelName) -> None:
        self.models = [model for model in self.models if model.name != name]

    async def copy(self, model: InstalledModel, target: ModelName) -> None:
        self.models.append(model.model_copy(update={"name": target}))

    async def create(self, request: CreateRequest, importer: Importer | None) -> AsyncIterator[PullProgress]:
        self.created.append(request)
        yield PullProgress(status="success")


class NamedSource:
    """The source `org` of names with an organisation, for the first store, or `bare` of all others, for `cellar`."""

    def __init__(self, name: Literal["org", "bare"]) -> None:
        self.name: str = name
        self.store = "first" if name == "org" else "cellar"

    def provides(self, name: ModelName) -> str | None:
        if self.name == "org":
            return f"org:{name.repo_id}" if name.org else None
        return f"bare:{name}" if name.org is None or name.via else None

    def fetch(self, name: ModelName, into: Path, *, insecure: bool = False) -> AsyncIterator[PullProgress]:
        raise AssertionError("the stores of these tests fetch nothing")

    def format(self, name: ModelName) -> str:
        return "mlx"


class PlainBackend:
    def __init__(self, name: str = "plain") -> None:
        self.name = name
        self.estimates = 0

    def accepts(self, model: InstalledModel) -> Refusal | None:
        return None if model.format == "mlx" else Refusal(reason=f"format {model.format}", hint="install it")

    def estimate(self, model: InstalledModel, context: int, parallel: int) -> MemoryEstimate:
        self.estimates += 1
        return MemoryEstimate(weights=10 * MIB, kv_cache=context * 1024, overhead=0)

    def command(self, model: InstalledModel, options: LaunchOptions) -> RunnerCommand:
        return RunnerCommand(argv=("/bin/true", str(options.context_length)))

    def importer(self, format: str) -> RunnerCommand | None:
        return None


class RecordingPool:
    def __init__(self) -> None:
        self.asked: list[tuple[LaunchSpec, GenerateRequest]] = []
        self.unloaded: list[str] = []
        self.loaded: set[str] = set()

    async def generate(
        self, spec: LaunchSpec, request: GenerateRequest, caller: Caller, keep_alive: float | None
    ) -> AsyncIterator[Event]:
        self.asked.append((spec, request))
        self.loaded.add(spec.key)
        yield Admitted()
        yield Text(text="hello")
        yield Done()

    @asynccontextmanager
    async def lease(self, spec: LaunchSpec, *_: Any, **__: Any) -> AsyncIterator[Any]:
        yield SimpleNamespace(load_ns=0)

    async def unload(self, key: str, *, wait: bool = True) -> bool:
        self.unloaded.append(key)
        return True

    def has_runner(self, key: str) -> bool:
        return key in self.loaded

    def runners(self) -> list[RunnerInfo]:
        return [
            RunnerInfo(id=spec.key, model=spec.model, backend=spec.backend, state=RunnerState.READY)
            for spec, _ in self.asked
        ]


class FakeDaemon:
    """A service over these models in one store, or over these stores."""

    def __init__(
        self,
        *models: InstalledModel,
        settings: Settings | None = None,
        budget: int = 10**12,
        stores: Sequence[ListStore] = (),
        backends: Sequence[str] = ("plain",),
    ) -> None:
        settings = settings or Settings()
        stores = stores or [ListStore(*models)]
        self.store, self.pool, registry = stores[0], RecordingPool(), Registry()
        for store in stores:
            registry.stores.add(store.name, store, "test")
        registry.sources.add("org", NamedSource("org"), "test")
        for name in backends:
            self.backend = PlainBackend(name)
            registry.backends.add(name, self.backend, "test")
        overrides = ModelOverrides(settings, {"short": "org/long"})
        self.planner = LaunchPlanner(settings, registry, overrides, ChildImporter, budget, self.pool.has_runner)
        pool = cast("Any", self.pool)
        self.service = Service(settings, registry, pool, overrides, self.planner, Blobs(Path("/nowhere")))

    @property
    def spec(self) -> LaunchSpec:
        """The last request to the pool."""
        return self.pool.asked[-1][0]

    async def answer(self, name: str, request: GenerateRequest = HELLO, **options: Any) -> list[Event]:
        if options:
            request = request.model_copy(update={"options": Options(**options)})
        return [event async for event in self.service.generate(ModelName.parse(name), request, caller=CALLER)]


async def test_an_installed_model_answers() -> None:
    daemon = FakeDaemon(installed("org/long"))
    assert [event.type for event in await daemon.answer("org_long")] == ["admitted", "text", "done"]
    spec, request = daemon.pool.asked[0]
    assert (spec.backend, spec.context_length, request.request_id) == ("plain", 8192, "r1")


async def test_the_memory_settings_are_part_of_the_runners_configuration() -> None:
    settings = Settings.model_validate({"memory": {"wired": "model", "prompt_cache": "1GiB"}})
    daemon = FakeDaemon(installed("org/long"), settings=settings)
    await daemon.answer("org/long")
    spec = daemon.spec
    assert (spec.runner_settings["wired"], spec.prompt_cache_bytes) == ("model", 1024**3)
    RunnerConfig(runner="r", token="t", model=spec.model, context_length=1, **spec.runner_settings)


@pytest.mark.finding("MDL002")
async def test_a_missing_model_is_an_error_with_the_command_that_pulls_it() -> None:
    with pytest.raises(NotFound) as missing:
        await FakeDaemon().answer("nope")
    assert (missing.value.message, missing.value.hint) == ("model 'nope' not found", "ollmlx pull nope")
    assert missing.value.code == "MDL002"


async def test_an_alias_answers_and_is_listed_beside_its_target() -> None:
    daemon = FakeDaemon(installed("org/long"))
    await daemon.answer("short")
    assert [str(model.name) for model in await daemon.service.list()] == ["org/long:latest", "short:latest"]


@pytest.mark.parametrize(
    ("order", "listed", "answers"),
    [
        ((), {"org/long": "first", "short": "first", "other": "cellar"}, "org/long"),
        (("cellar",), {"org/long": "first", "short": "cellar", "other": "cellar"}, "short"),
    ],
)
async def test_a_name_that_two_stores_have_means_the_first_ones(
    order: tuple[str, ...], listed: dict[str, str], answers: str
) -> None:
    """`short` is an alias of org/long in the first store, and a model of its own in the second."""
    cellar = ListStore(installed("short", store="cellar"), installed("other", store="cellar"), name="cellar")
    settings = Settings.model_validate({"storage": {"stores": order}})
    daemon = FakeDaemon(settings=settings, stores=[ListStore(installed("org/long")), cellar])
    assert {model.name.short: model.store for model in await daemon.service.list()} == listed
    assert (await daemon.service.show(ModelName.parse("short"))).store == listed["short"]
    await daemon.answer("short")
    assert daemon.pool.asked[0][0].model.path == installed(answers).path
    await daemon.service.delete(ModelName.parse("short"))
    assert daemon.store.models == ([] if answers == "org/long" else [installed("org/long")])


async def test_a_model_of_the_settings_has_its_system_prompt_and_parameters() -> None:
    settings = Settings(
        models={"helper": ModelSettings(from_="org/long", system="Be brief.", parameters={"top_k": 3}, keep_alive=7)}
    )
    daemon = FakeDaemon(installed("org/long"), settings=settings)
    request = HELLO.model_copy(update={"options": Options(temperature=0)})
    await daemon.answer("helper", request)
    spec, sent = daemon.pool.asked[0]
    assert [message.content for message in sent.messages] == ["Be brief.", "hi"]
    assert sent.options.stated == {"top_k": 3, "temperature": 0.0}
    assert spec.keep_alive == 7
    assert "helper:latest" in {str(model.name) for model in await daemon.service.list()}


SHOTS = (Message(role="user", content="q"), Message(role="assistant", content="a"))
SYSTEM = Message(role="system", content="mine")


@pytest.mark.parametrize(
    ("request_", "sent"),
    [
        (GenerateRequest(messages=(SYSTEM, *HELLO.messages)), ["mine", "q", "a", "hi"]),
        (HELLO, ["default", "q", "a", "hi"]),
        (GenerateRequest(prompt="once"), []),
    ],
    ids=["the request's own system message wins", "the model's default", "a prompt has no messages"],
)
async def test_the_models_defaults_come_before_the_request(request_: GenerateRequest, sent: list[str]) -> None:
    daemon = FakeDaemon(installed("org/long", defaults=ModelDefaults(system="default", messages=SHOTS)))
    await daemon.answer("org/long", request_)
    assert [message.content for message in daemon.pool.asked[0][1].messages] == sent


@pytest.mark.parametrize(
    ("capabilities", "sent"),
    [
        (("completion",), ("one\n[an image, which this model cannot see]", ())),
        (("completion", "vision"), ("one", (PICTURE,))),
    ],
)
async def test_an_image_in_a_tools_result_is_described_to_a_model_that_cannot_see(
    capabilities: tuple[Capability, ...], sent: tuple[str, tuple[str, ...]]
) -> None:
    daemon = FakeDaemon(installed("org/long", capabilities=capabilities))
    result = Message(role="tool", content="one", images=(PICTURE,))
    await daemon.answer("org/long", GenerateRequest(messages=(*HELLO.messages, result)))
    last = daemon.pool.asked[0][1].messages[-1]
    assert (last.content, last.images) == sent


async def test_a_request_for_a_loaded_model_plans_nothing() -> None:
    settings = Settings(models={"helper": ModelSettings(from_="org/long", request_timeout=7)})
    daemon = FakeDaemon(installed("org/long"), settings=settings)
    for name in ("org/long", "helper", "org/long", "helper", "short"):
        await daemon.answer(name)
    await daemon.service.load(ModelName.parse("org/long"), caller=CALLER)
    assert daemon.backend.estimates == 3, "one plan for each of the three names"
    assert len({spec.key for spec, _ in daemon.pool.asked}) == 1
    assert [spec.request_timeout for spec, _ in daemon.pool.asked] == [math.inf, 7, math.inf, 7, math.inf]


@pytest.mark.parametrize("change", ["the runner is gone", "another context", "the settings", "the files"])
async def test_a_request_for_a_loaded_model_plans_again_when_this_changed(change: str) -> None:
    daemon = FakeDaemon(installed("org/long"))
    await daemon.answer("org/long")
    options: dict[str, Any] = {}
    if change == "the runner is gone":
        daemon.pool.loaded.clear()
    elif change == "another context":
        options = {"num_ctx": 100}
    elif change == "the settings":
        settings = Settings(runners=RunnerSettings(context_length=4096))
        daemon.service.reconfigure(settings, ModelOverrides(settings, {}))
    else:
        daemon.store.models = [installed("org/long", digest="b" * 64, details=ModelDetails(context_length=512))]
    await daemon.answer("org/long", **options)
    assert daemon.backend.estimates == 2
    contexts = {"the runner is gone": 8192, "another context": 100, "the settings": 4096, "the files": 512}
    assert daemon.spec.context_length == contexts[change]


async def test_a_model_that_was_looked_up_before_is_not_looked_up_again() -> None:
    daemon = FakeDaemon(installed("org/long"))
    model = await daemon.service.show(ModelName.parse("short"))
    daemon.store.models = []
    assert [event.type async for event in daemon.service.generate(model, HELLO, caller=CALLER)][-1] == "done"
    assert daemon.pool.asked[0][0].name == "short:latest"


@pytest.mark.parametrize(("num_ctx", "context"), [(None, 8192), (100, 100), (10**6, 8192)])
async def test_a_requested_context_is_at_most_the_models_own(num_ctx: int | None, context: int) -> None:
    daemon = FakeDaemon(installed("org/long"))
    await daemon.answer("org/long", num_ctx=num_ctx)
    assert daemon.spec.context_length == context


@pytest.mark.parametrize(("fixed", "context"), [(0, 4096), (8192, 8192)], ids=["automatic", "fixed"])
async def test_an_automatic_context_shrinks_until_it_fits_and_a_fixed_one_does_not(fixed: int, context: int) -> None:
    settings = Settings(runners=RunnerSettings(context_length=fixed))
    daemon = FakeDaemon(installed("org/long"), budget=14 * MIB, settings=settings)
    await daemon.answer("org/long")
    assert daemon.spec.context_length == context


@pytest.mark.finding("MDL005")
async def test_a_format_that_no_backend_runs_lists_every_refusal() -> None:
    with pytest.raises(Unsupported, match=r"no backend can run org/long \(plain: format gguf\)") as refusal:
        await FakeDaemon(installed("org/long", format="gguf")).answer("org/long")
    assert (refusal.value.hint, refusal.value.code) == ("install it", "MDL005")


@pytest.mark.finding("PLG006")
async def test_a_backend_that_is_not_installed_is_named() -> None:
    with pytest.raises(Unsupported, match="no backend 'llamacpp' is installed; there is plain") as refusal:
        await FakeDaemon(installed("org/long")).answer("org/long", backend="llamacpp")
    assert (refusal.value.hint, refusal.value.code) == ("ollmlx plugin list", "PLG006")


async def test_a_name_no_source_provides_is_refused_before_anything_is_fetched() -> None:
    with pytest.raises(NotFound, match="no source provides 'mystery'"):
        FakeDaemon().service.pull(ModelName.parse("mystery"))


class Lacking(ListStore):
    """A store that raises NotFound for every model; `late`: after the download has begun."""

    late = False

    async def pull(
        self, name: ModelName, source: Source, importer: Importer | None, *, insecure: bool = False
    ) -> AsyncIterator[PullProgress]:
        self.pulled.append(name)
        if self.late:
            yield PullProgress(status="pulling", total=10, completed=1)
        raise NotFound(f"the hub has no {name.short}", code="MDL002", hint="look there")


def two_sources(*stores: ListStore, order: Sequence[str] = ("org", "bare")) -> FakeDaemon:
    daemon = FakeDaemon(settings=Settings.model_validate({"storage": {"sources": order}}), stores=stores)
    daemon.service.registry.sources.add("bare", NamedSource("bare"), "test")
    return daemon


@pytest.mark.parametrize(
    ("order", "typed", "hub", "bare"),
    [
        (("org", "bare"), "short", ["org/long"], ["short"]),
        (("bare", "org"), "short", [], ["short"]),
        (("org",), "mystery", [], ["mystery"]),
        (("org", "bare"), "registry.ollama.ai/library/short", [], ["short"]),
        (("org", "bare"), "hf.co/org/x:Q4", ["org/x:Q4"], ["org/x:Q4"]),
    ],
)
async def test_the_next_source_is_tried_when_one_has_no_such_model(
    order: tuple[str, ...], typed: str, hub: list[str], bare: list[str]
) -> None:
    lacking, cellar = Lacking(), ListStore(name="cellar")
    daemon = two_sources(lacking, cellar, order=order)
    steps = [step.status async for step in daemon.service.pull(ModelName.parse(typed))]
    assert steps[-1] == "success"
    assert [name.short for name in lacking.pulled] == hub
    assert [name.short for name in cellar.pulled] == bare


class Unreachable(ListStore):
    """A store whose source fails: with the code of one that does not answer, or with another."""

    code: str | None = "NET005"

    async def pull(
        self, name: ModelName, source: Source, importer: Importer | None, *, insecure: bool = False
    ) -> AsyncIterator[PullProgress]:
        yield PullProgress(status="pulling manifest")
        raise UpstreamError("cannot reach the hub", code=self.code, hint="check the network")


async def test_the_next_source_is_tried_when_one_does_not_answer_and_the_pull_says_so() -> None:
    cellar = ListStore(name="cellar")
    daemon = two_sources(Unreachable(), cellar)
    steps = [step.status async for step in daemon.service.pull(ModelName.parse("short"))]
    assert "cannot reach the hub; asking the next source" in steps
    assert (steps[-1], len(cellar.pulled)) == ("success", 1)


async def test_a_source_that_answers_something_suspicious_ends_the_pull() -> None:
    hub, cellar = Unreachable(), ListStore(name="cellar")
    hub.code = "STO013"
    with pytest.raises(UpstreamError):
        async for _ in two_sources(hub, cellar).service.pull(ModelName.parse("short")):
            pass
    assert cellar.pulled == []


async def test_a_misspelt_name_is_answered_with_the_one_that_is_installed_or_known() -> None:
    daemon = FakeDaemon(installed("org/longer"))
    with pytest.raises(NotFound) as missing:
        await daemon.service.show(ModelName.parse("org/longr"))
    assert missing.value.hint == "did you mean org/longer? else: ollmlx pull org/longr"
    with pytest.raises(NotFound) as failed:
        async for _ in two_sources(Lacking(), Lacking(name="cellar")).service.pull(ModelName.parse("shrt")):
            pass
    assert failed.value.hint == "did you mean short? else: look there"


async def test_a_pull_that_fails_in_the_middle_tries_no_other_source() -> None:
    lacking, cellar = Lacking(), ListStore(name="cellar")
    lacking.late = True
    with pytest.raises(NotFound):
        async for _ in two_sources(lacking, cellar).service.pull(ModelName.parse("short")):
            pass
    assert cellar.pulled == []


async def test_when_every_source_refuses_the_error_has_all_messages() -> None:
    daemon = two_sources(Lacking(), Lacking(name="cellar"))
    with pytest.raises(NotFound, match="the hub has no org/long; the hub has no short") as failed:
        async for _ in daemon.service.pull(ModelName.parse("short")):
            pass
    assert (failed.value.code, failed.value.hint) == ("MDL002", "look there")


async def test_a_name_typed_with_its_host_is_no_alias() -> None:
    daemon = FakeDaemon(installed("org/long"))
    with pytest.raises(NotFound):
        await daemon.service.show(ModelName.parse("registry.ollama.ai/library/short"))


async def test_a_backend_that_is_named_has_a_runner_of_its_own_only_when_it_is_another() -> None:
    daemon = FakeDaemon(installed("org/long"), backends=("plain", "other"))
    for backend in (None, "plain", "other"):
        await daemon.answer("org/long", backend=backend)
    first, named, apart = (spec for spec, _ in daemon.pool.asked)
    assert [first.backend, named.backend, apart.backend] == ["plain", "plain", "other"]
    assert first.key == named.key != apart.key
    await daemon.service.unload(ModelName.parse("org/long"))
    assert {first.key, apart.key} <= set(daemon.pool.unloaded)


async def test_the_settings_choose_between_backends_and_a_request_overrules_them() -> None:
    declared = Settings(models={"helper": ModelSettings(from_="org/long", backend="other")})
    daemon = FakeDaemon(installed("org/long"), settings=declared, backends=("plain", "other"))
    for backend in (None, "plain"):
        await daemon.answer("helper", backend=backend)
    await daemon.answer("org/long")
    assert [spec.backend for spec, _ in daemon.pool.asked] == ["other", "plain", "plain"]
    assert (await daemon.service.engine(await daemon.service.show(ModelName.parse("helper")))).backend == "other"


class Broken:
    """A plugin's store, source and backend in one, whose every attribute raises."""

    name = store = "broken"

    def __getattr__(self, name: str) -> Any:
        raise KeyError(name)


@pytest.mark.finding("PLG008")
async def test_a_plugin_that_fails_in_use_is_named_and_the_others_serve(
    caplog: pytest.LogCaptureFixture,
) -> None:
    daemon = FakeDaemon(installed("org/long"))
    registry = daemon.service.registry
    for registered in (registry.stores, registry.sources, registry.backends):
        sound: Any = registered.values()[0]
        registered.remove_owner("test")
        registered.add("broken", cast("Any", Broken()), "wreck")
        registered.add(sound.name, sound, "test")
    old = daemon.service
    service = Service(old.settings, registry, old.pool, old.overrides, daemon.planner, old.blobs)
    assert [model.name.short for model in await service.list()] == ["org/long", "short"]
    model = await service.show(ModelName.parse("org/long"))
    assert (await service.engine(model)).backend == "plain"
    assert daemon.planner.importer("gguf") is None
    assert [step.status async for step in service.pull(ModelName.parse("org/other"))][-1] == "success"
    assert "plugin 'wreck': its source 'broken' failed with KeyError" in caplog.text
    with pytest.raises(PluginError, match="plugin 'wreck': its store 'broken' failed with KeyError") as failed:
        await service.show(ModelName.parse("org/missing"))
    assert failed.value.code == "PLG008"
    with pytest.raises(Unsupported, match="its backend 'broken' failed with KeyError") as refused:
        await service.engine(installed("m", format="strange"))
    assert refused.value.code == "PLG008"


@pytest.mark.parametrize("error", [StorageError("short a byte"), Unsupported("it is on another machine")])
async def test_a_model_that_cannot_be_used_can_still_be_deleted(error: OllmlxError) -> None:
    class Damaged(ListStore):
        async def resolve(self, name: ModelName) -> InstalledModel | None:
            found = await super().resolve(name)
            if found is not None and daemon.pool.asked:
                raise error
            return found

    damaged = Damaged(installed("org/long"), name="second")
    daemon = FakeDaemon(stores=[ListStore(), damaged])
    await daemon.answer("short")
    await daemon.service.delete(ModelName.parse("short"))
    assert damaged.models == []
    assert daemon.pool.unloaded == [daemon.pool.asked[0][0].key]
    with pytest.raises(NotFound):
        await daemon.service.delete(ModelName.parse("short"))


async def test_a_model_of_the_settings_has_no_files_to_delete() -> None:
    settings = Settings(models={"helper": ModelSettings(from_="org/long")})
    with pytest.raises(Conflict, match="declared in the settings"):
        await FakeDaemon(installed("org/long"), settings=settings).service.delete(ModelName.parse("helper"))


@pytest.mark.finding("STO007")
async def test_a_copy_that_would_share_a_folder_with_another_model_is_refused() -> None:
    class Clashing(ListStore):
        async def resolve(self, name: ModelName) -> InstalledModel | None:
            return next((model for model in self.models if model.name == name), None)

    daemon = FakeDaemon(stores=[Clashing(installed("a/b_c"))])
    with pytest.raises(Conflict, match="share a folder") as refused:
        await daemon.service.copy(ModelName.parse("a/b_c"), ModelName.parse("a_b/c"))
    assert refused.value.code == "STO007"


class Picky(ListStore):
    """A store that takes no files."""

    refusal: OllmlxError = Unsupported("no backend imports it")

    async def create(self, request: CreateRequest, importer: Importer | None) -> AsyncIterator[PullProgress]:
        if self.refusal:
            raise self.refusal
        yield PullProgress(status="never")


async def created(
    name: str, *stores: ListStore, base: str | None = None, files: Sequence[str] = ("w.gguf",)
) -> list[str]:
    steps = FakeDaemon(stores=stores).service.create(
        ModelName.parse(name),
        base=ModelName.parse(base) if base else None,
        files={file: Path("/nowhere") for file in files},
        defaults=ModelDefaults(system="x"),
    )
    return [step.status async for step in steps]


async def test_creating_over_a_missing_base_pulls_it_first() -> None:
    store = ListStore()
    assert await created("mine", store, base="org/long", files=()) == ["pulling manifest", "success"]
    assert store.created[0].base is not None


async def test_a_file_that_one_store_cannot_import_is_left_to_the_next() -> None:
    taker = ListStore(name="taker")
    assert await created("new", Picky(), taker) == ["made in store taker: no backend imports it", "success"]
    assert len(taker.created) == 1


async def test_when_no_store_takes_a_file_the_error_is_the_first_ones() -> None:
    second = Picky(name="second")
    second.refusal = InvalidRequest("a damaged file")
    with pytest.raises(Unsupported, match="no backend imports it"):
        await created("new", Picky(), second)
    broken = Picky(name="broken")
    broken.refusal = InvalidRequest("config.json is missing")
    with pytest.raises(InvalidRequest, match=r"config\.json is missing"):
        await created("new", broken, ListStore(name="never asked"))


async def test_creating_from_nothing_is_refused_in_ollamas_words() -> None:
    with pytest.raises(OllmlxError, match="neither 'from' or 'files' was specified"):
        await created("mine", files=())
