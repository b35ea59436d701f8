"""The use cases over fake stores and a fake pool."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ollmlx.errors import Conflict, InvalidRequest, NotFound, OllmlxError, PluginError, StorageError, Unsupported
from ollmlx.launch.overrides import ModelOverrides
from ollmlx.launch.planner import LaunchPlanner
from ollmlx.launch.spec import LaunchSpec
from ollmlx.model.names import ModelName
from ollmlx.plugin.contracts import Importer, LaunchOptions, Refusal, RunnerCommand, Source
from ollmlx.plugin.registry import Registry
from ollmlx.service import Service
from ollmlx.settings import ModelSettings, RunnerSettings, Settings
from ollmlx.storekit.blobs import Blobs
from ollmlx.supervisor.process.importers import Importers
from ollmlx.types import (
    Admitted,
    Caller,
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
HELLO = GenerateRequest(messages=(Message(role="user", content="hi"),))
MIB = 1024**2


def installed(name: str, **changes: Any) -> InstalledModel:
    fields: dict[str, Any] = {
        "name": ModelName.parse(name),
        "store": "shelf",
        "format": "mlx",
        "path": Path("/models") / name.replace("/", "_"),
        "digest": "a" * 64,
        "size": 1,
        "modified_at": datetime(2026, 1, 1, tzinfo=UTC),
        "details": ModelDetails(context_length=8192),
    }
    return InstalledModel(**(fields | changes))


class ShelfStore:
    def __init__(self, *models: InstalledModel, name: str = "shelf") -> None:
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


class OrgSource:
    name = "org"
    store = "shelf"

    def provides(self, name: ModelName) -> str | None:
        return f"org:{name.repo_id}" if name.org else None

    def fetch(self, name: ModelName, into: Path, *, insecure: bool = False) -> AsyncIterator[PullProgress]:
        raise AssertionError("the store of these tests fetches nothing")

    def format(self, name: ModelName) -> str:
        return "mlx"


class PlainBackend:
    name = "plain"
    estimates = 0

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
            RunnerInfo(id=launch.key, model=launch.model, backend=launch.backend, state=RunnerState.READY)
            for launch, _ in self.asked
        ]


class House:
    def __init__(
        self,
        *models: InstalledModel,
        settings: Settings | None = None,
        budget: int = 10**12,
        second: ShelfStore | None = None,
        stores: Sequence[ShelfStore] = (),
    ) -> None:
        settings = settings or Settings()
        self.store, self.pool, registry = ShelfStore(*models), RecordingPool(), Registry()
        for store in stores or ([self.store] if second is None else [self.store, second]):
            registry.stores.add(store.name, store, "test")
        registry.sources.add("org", OrgSource(), "test")
        self.backend = PlainBackend()
        registry.backends.add("plain", self.backend, "test")
        overrides = ModelOverrides(settings, {"short": "org/long"})
        self.planner = LaunchPlanner(settings, registry, overrides, Importers(dict).make, budget)
        pool = cast("Any", self.pool)
        self.service = Service(settings, registry, pool, overrides, self.planner, Blobs(Path("/nowhere")))

    async def answer(self, name: str, request: GenerateRequest = HELLO) -> list[Event]:
        return [event async for event in self.service.generate(ModelName.parse(name), request, caller=CALLER)]


async def test_an_installed_model_answers() -> None:
    house = House(installed("org/long"))
    assert [event.type for event in await house.answer("org_long")] == ["admitted", "text", "done"]
    launch, request = house.pool.asked[0]
    assert (launch.backend, launch.context_length, request.request_id) == ("plain", 8192, "r1")


async def test_the_memory_settings_travel_to_the_runner() -> None:
    settings = Settings.model_validate({"memory": {"wired": "model", "prompt_cache": "1GiB"}})
    house = House(installed("org/long"), settings=settings)
    await house.answer("org/long")
    launch, _ = house.pool.asked[0]
    config = launch.config(runner="r", token="t", memory_limit=3, cache_limit=2, prompt_cache=1)
    assert (config.wired, config.memory_limit, config.cache_limit, config.prompt_cache_bytes) == ("model", 3, 2, 1)
    assert launch.prompt_cache_bytes == 1024**3


@pytest.mark.finding("MDL002")
async def test_a_missing_model_is_named_with_the_command_that_brings_it() -> None:
    with pytest.raises(NotFound) as missing:
        await House().answer("nope")
    assert (missing.value.message, missing.value.hint) == ("model 'nope' not found", "ollmlx pull nope")
    assert missing.value.code == "MDL002"


async def test_an_alias_answers_and_is_listed_beside_its_target() -> None:
    house = House(installed("org/long"))
    await house.answer("short")
    assert [str(model.name) for model in await house.service.list()] == ["org/long:latest", "short:latest"]


@pytest.mark.parametrize(
    ("order", "listed", "answers"),
    [
        ((), {"org/long": "shelf", "short": "shelf", "other": "cellar"}, "org/long"),
        (("cellar",), {"org/long": "shelf", "short": "cellar", "other": "cellar"}, "short"),
    ],
)
async def test_a_name_that_two_stores_have_means_the_first_ones(
    order: tuple[str, ...], listed: dict[str, str], answers: str
) -> None:
    """`short` is an alias of org/long in the first store, and a model of its own in the second."""
    cellar = ShelfStore(installed("short", store="cellar"), installed("other", store="cellar"), name="cellar")
    settings = Settings.model_validate({"storage": {"stores": order}})
    house = House(installed("org/long"), settings=settings, second=cellar)
    assert {model.name.short: model.store for model in await house.service.list()} == listed
    assert (await house.service.show(ModelName.parse("short"))).store == listed["short"]
    await house.answer("short")
    assert house.pool.asked[0][0].model.path == installed(answers).path
    await house.service.delete(ModelName.parse("short"))
    assert house.store.models == ([] if answers == "org/long" else [installed("org/long")])


async def test_the_backend_of_a_model_is_told_or_why_there_is_none() -> None:
    house = House()
    assert await house.service.backend(installed("m")) == "plain"
    with pytest.raises(Unsupported, match="no backend can run m"):
        await house.service.backend(installed("m", format="gguf"))


async def test_a_declared_assistant_brings_its_system_prompt_and_parameters() -> None:
    settings = Settings(
        models={"helper": ModelSettings(from_="org/long", system="Be brief.", parameters={"top_k": 3}, keep_alive=7)}
    )
    house = House(installed("org/long"), settings=settings)
    request = HELLO.model_copy(update={"options": Options(temperature=0)})
    await house.answer("helper", request)
    launch, sent = house.pool.asked[0]
    assert [message.content for message in sent.messages] == ["Be brief.", "hi"]
    assert sent.options.stated == {"top_k": 3, "temperature": 0.0}
    assert launch.keep_alive == 7
    assert "helper:latest" in {str(model.name) for model in await house.service.list()}


async def test_the_requests_own_system_message_wins_and_few_shot_turns_follow_it() -> None:
    shots = (Message(role="user", content="q"), Message(role="assistant", content="a"))
    house = House(installed("org/long", defaults=ModelDefaults(system="default", messages=shots)))
    asked = (Message(role="system", content="mine"), Message(role="user", content="hi"))
    await house.answer("org/long", GenerateRequest(messages=asked))
    assert [message.content for message in house.pool.asked[0][1].messages] == ["mine", "q", "a", "hi"]


async def test_plain_text_is_sent_as_it_is() -> None:
    house = House(installed("org/long", defaults=ModelDefaults(system="default")))
    await house.answer("org/long", GenerateRequest(prompt="once"))
    assert house.pool.asked[0][1].messages == ()


async def test_one_runner_serves_all_models_over_the_same_weights() -> None:
    settings = Settings(models={"helper": ModelSettings(from_="org/long", system="Be brief.")})
    house = House(installed("org/long"), settings=settings)
    await house.answer("helper")
    await house.answer("org/long")
    assert len({launch.key for launch, _ in house.pool.asked}) == 1


async def test_a_request_for_a_loaded_model_plans_nothing() -> None:
    settings = Settings(models={"helper": ModelSettings(from_="org/long", request_timeout=7)})
    house = House(installed("org/long"), settings=settings)
    for name in ("org/long", "helper", "org/long", "helper", "short"):
        await house.answer(name)
    await house.service.load(ModelName.parse("org/long"), caller=CALLER)
    assert house.backend.estimates == 3, "one plan for each of the three names"
    assert len({spec.key for spec, _ in house.pool.asked}) == 1
    assert [spec.request_timeout for spec, _ in house.pool.asked] == [math.inf, 7, math.inf, 7, math.inf]


@pytest.mark.parametrize("change", ["the runner is gone", "another context", "the settings", "the files"])
async def test_a_request_for_a_loaded_model_plans_again_when_this_changed(change: str) -> None:
    house = House(installed("org/long"))
    await house.answer("org/long")
    request = HELLO
    if change == "the runner is gone":
        house.pool.loaded.clear()
    elif change == "another context":
        request = HELLO.model_copy(update={"options": Options(num_ctx=100)})
    elif change == "the settings":
        settings = Settings(runners=RunnerSettings(context_length=4096))
        house.service.reconfigure(settings, ModelOverrides(settings, {}))
    else:
        house.store.models = [installed("org/long", digest="b" * 64, details=ModelDetails(context_length=512))]
    await house.answer("org/long", request)
    assert house.backend.estimates == 2
    contexts = {"the runner is gone": 8192, "another context": 100, "the settings": 4096, "the files": 512}
    assert house.pool.asked[1][0].context_length == contexts[change]


async def test_a_model_that_was_looked_up_before_is_not_looked_up_again() -> None:
    house = House(installed("org/long"))
    model = await house.service.show(ModelName.parse("short"))
    house.store.models = []
    assert [event.type async for event in house.service.generate(model, HELLO, caller=CALLER)][-1] == "done"
    assert house.pool.asked[0][0].name == "short:latest"


@pytest.mark.parametrize(("num_ctx", "context"), [(None, 8192), (100, 100), (10**6, 8192)])
async def test_the_context_asked_for_is_bounded_by_the_models_own(num_ctx: int | None, context: int) -> None:
    house = House(installed("org/long"))
    options = Options() if num_ctx is None else Options(num_ctx=num_ctx)
    await house.answer("org/long", HELLO.model_copy(update={"options": options}))
    assert house.pool.asked[0][0].context_length == context


async def test_an_automatic_context_shrinks_until_it_fits_and_a_fixed_one_does_not() -> None:
    house = House(installed("org/long"), budget=28 * MIB)
    await house.answer("org/long")
    assert house.pool.asked[0][0].context_length == 4096
    fixed = House(
        installed("org/long"), budget=28 * MIB, settings=Settings(runners=RunnerSettings(context_length=8192))
    )
    await fixed.answer("org/long")
    assert fixed.pool.asked[0][0].context_length == 8192


@pytest.mark.finding("MDL005")
async def test_a_format_nobody_runs_lists_every_refusal() -> None:
    with pytest.raises(Unsupported, match=r"no backend can run org/long \(plain: format gguf\)") as refusal:
        await House(installed("org/long", format="gguf")).answer("org/long")
    assert (refusal.value.hint, refusal.value.code) == ("install it", "MDL005")


@pytest.mark.finding("PLG006")
async def test_a_backend_that_is_not_installed_is_named() -> None:
    with pytest.raises(Unsupported, match="no backend 'llamacpp' is installed; there is plain") as refusal:
        await House(installed("org/long")).answer(
            "org/long", HELLO.model_copy(update={"options": Options(backend="llamacpp")})
        )
    assert (refusal.value.hint, refusal.value.code) == ("ollmlx plugin list", "PLG006")


async def test_pulling_an_alias_pulls_what_it_stands_for() -> None:
    house = House()
    steps = [step.status async for step in house.service.pull(ModelName.parse("short"))]
    assert steps == ["pulling manifest", "success"]
    assert [str(name) for name in house.store.pulled] == ["org/long:latest"]
    await house.answer("short")


async def test_a_name_no_source_provides_is_refused_before_anything_is_fetched() -> None:
    with pytest.raises(NotFound, match="no source provides 'mystery'"):
        House().service.pull(ModelName.parse("mystery"))


class Bare:
    """A source for names without an organisation, into the second store."""

    name, store = "bare", "cellar"

    def provides(self, name: ModelName) -> str | None:
        return f"bare:{name}" if name.org is None or name.via else None

    def fetch(self, name: ModelName, into: Path, *, insecure: bool = False) -> AsyncIterator[PullProgress]:
        raise AssertionError("the store of these tests fetches nothing")

    def format(self, name: ModelName) -> str:
        return "gguf"


class Lacking(ShelfStore):
    """A store whose source lacks every model; `late`: it notices in the middle."""

    late = False

    async def pull(
        self, name: ModelName, source: Source, importer: Importer | None, *, insecure: bool = False
    ) -> AsyncIterator[PullProgress]:
        self.pulled.append(name)
        if self.late:
            yield PullProgress(status="pulling", total=10, completed=1)
        raise NotFound(f"the hub has no {name.short}", code="MDL002", hint="look there")


def two_sources(*order: str) -> tuple[House, Lacking, ShelfStore]:
    settings = Settings.model_validate({"storage": {"sources": order}})
    cellar, lacking = ShelfStore(name="cellar"), Lacking()
    house = House(settings=settings, second=cellar)
    house.service.registry.sources.add("bare", Bare(), "test")
    house.service.registry.stores.remove_owner("test")
    for store in (lacking, cellar):
        house.service.registry.stores.add(store.name, store, "test")
    return house, lacking, cellar


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
async def test_the_next_source_is_asked_when_one_has_no_such_model(
    order: tuple[str, ...], typed: str, hub: list[str], bare: list[str]
) -> None:
    house, lacking, cellar = two_sources(*order)
    steps = [step.status async for step in house.service.pull(ModelName.parse(typed))]
    assert steps[-1] == "success"
    assert [name.short for name in lacking.pulled] == hub
    assert [name.short for name in cellar.pulled] == bare


async def test_a_pull_that_fails_in_the_middle_asks_nobody_else() -> None:
    house, lacking, cellar = two_sources("org", "bare")
    lacking.late = True
    with pytest.raises(NotFound):
        async for _ in house.service.pull(ModelName.parse("short")):
            pass
    assert cellar.pulled == []


async def test_when_every_source_refuses_all_of_them_are_told() -> None:
    house, _, _ = two_sources("org", "bare")
    nowhere = Lacking(name="nowhere")
    house.service.registry.stores.remove_owner("test")
    for store in (Lacking(), nowhere):
        house.service.registry.stores.add("cellar" if store is nowhere else "shelf", store, "test")
    with pytest.raises(NotFound, match="the hub has no org/long; the hub has no short") as told:
        async for _ in house.service.pull(ModelName.parse("short")):
            pass
    assert (told.value.code, told.value.hint) == ("MDL002", "look there")


async def test_a_name_typed_with_its_host_is_no_alias() -> None:
    house = House(installed("org/long"))
    with pytest.raises(NotFound):
        await house.service.show(ModelName.parse("registry.ollama.ai/library/short"))


async def test_a_backend_that_is_named_has_a_runner_of_its_own_only_when_it_is_another() -> None:
    house = House(installed("org/long"))
    other = PlainBackend()
    other.name = "other"
    house.service.registry.backends.add("other", other, "test")
    for backend in (None, "plain", "other"):
        await house.answer("org/long", HELLO.model_copy(update={"options": Options(backend=backend)}))
    first, named, apart = (launch for launch, _ in house.pool.asked)
    assert [first.backend, named.backend, apart.backend] == ["plain", "plain", "other"]
    assert first.key == named.key != apart.key
    await house.service.unload(ModelName.parse("org/long"))
    assert {first.key, apart.key} <= set(house.pool.unloaded)


async def test_the_settings_choose_between_backends_and_a_request_overrules_them() -> None:
    declared = Settings(models={"helper": ModelSettings(from_="org/long", backend="other")})
    house = House(installed("org/long"), settings=declared)
    other = PlainBackend()
    other.name = "other"
    house.service.registry.backends.add("other", other, "test")
    for backend in (None, "plain"):
        await house.answer("helper", HELLO.model_copy(update={"options": Options(backend=backend)}))
    await house.answer("org/long")
    assert [launch.backend for launch, _ in house.pool.asked] == ["other", "plain", "plain"]
    assert await house.service.backend(await house.service.show(ModelName.parse("helper"))) == "other"


class Broken:
    """A stranger's store, source and backend in one, with a bug wherever it is asked."""

    name = store = "broken"

    def __getattr__(self, name: str) -> Any:
        raise KeyError(name)


@pytest.mark.finding("PLG008")
async def test_a_plugin_that_fails_while_it_is_used_is_named_and_the_others_serve(
    caplog: pytest.LogCaptureFixture,
) -> None:
    house = House(installed("org/long"))
    registry = house.service.registry
    for shelf in (registry.stores, registry.sources, registry.backends):
        sound: Any = shelf.values()[0]
        shelf.remove_owner("test")
        shelf.add("broken", cast("Any", Broken()), "wreck")
        shelf.add(sound.name, sound, "test")
    old = house.service
    service = Service(old.settings, registry, old.pool, old.overrides, house.planner, old.blobs)
    assert [model.name.short for model in await service.list()] == ["org/long", "short"]
    model = await service.show(ModelName.parse("org/long"))
    assert await service.backend(model) == "plain"
    assert house.planner.importer("gguf") is None
    assert [step.status async for step in service.pull(ModelName.parse("org/other"))][-1] == "success"
    assert "plugin 'wreck': its source 'broken' failed with KeyError" in caplog.text
    with pytest.raises(PluginError, match="plugin 'wreck': its store 'broken' failed with KeyError") as told:
        await service.show(ModelName.parse("nobody/has-it"))
    assert told.value.code == "PLG008"
    with pytest.raises(Unsupported, match="its backend 'broken' failed with KeyError") as refused:
        await service.backend(installed("m", format="strange"))
    assert refused.value.code == "PLG008"


async def test_deleting_unloads_first_and_leaves_nothing() -> None:
    house = House(installed("org/long"))
    await house.service.delete(ModelName.parse("short"))
    assert house.store.models == []
    assert len(house.pool.unloaded) == 1


@pytest.mark.parametrize("error", [StorageError("short a byte"), Unsupported("it is on another machine")])
async def test_a_model_that_cannot_be_used_can_still_be_deleted(error: OllmlxError) -> None:
    class Damaged(ShelfStore):
        async def resolve(self, name: ModelName) -> InstalledModel | None:
            found = await super().resolve(name)
            if found is not None and house.pool.asked:
                raise error
            return found

    damaged = Damaged(installed("org/long"), name="second")
    house = House(second=damaged)
    await house.answer("short")
    await house.service.delete(ModelName.parse("short"))
    assert damaged.models == []
    assert house.pool.unloaded == [house.pool.asked[0][0].key]
    with pytest.raises(NotFound):
        await house.service.delete(ModelName.parse("short"))


async def test_a_declared_model_cannot_be_deleted_as_files() -> None:
    settings = Settings(models={"helper": ModelSettings(from_="org/long")})
    with pytest.raises(Conflict, match="declared in the settings"):
        await House(installed("org/long"), settings=settings).service.delete(ModelName.parse("helper"))


@pytest.mark.finding("STO008")
async def test_a_copy_that_would_share_a_folder_with_another_model_is_refused() -> None:
    class Clashing(ShelfStore):
        async def resolve(self, name: ModelName) -> InstalledModel | None:
            return next((model for model in self.models if model.name == name), None)

    house = House(stores=[Clashing(installed("a/b_c"))])
    with pytest.raises(Conflict, match="share a folder") as refused:
        await house.service.copy(ModelName.parse("a/b_c"), ModelName.parse("a_b/c"))
    assert refused.value.code == "STO008"


async def test_creating_over_a_missing_base_pulls_it_first() -> None:
    house = House()
    steps = [
        step.status
        async for step in house.service.create(
            ModelName.parse("mine"), base=ModelName.parse("org/long"), files={}, defaults=ModelDefaults(system="x")
        )
    ]
    assert steps == ["pulling manifest", "success"]
    assert house.store.created[0].base is not None


class Picky(ShelfStore):
    """A store that takes no files."""

    refusal: OllmlxError = Unsupported("nobody imports it")

    async def create(self, request: CreateRequest, importer: Importer | None) -> AsyncIterator[PullProgress]:
        if self.refusal:
            raise self.refusal
        yield PullProgress(status="never")


async def made(*stores: ShelfStore) -> list[str]:
    house = House(stores=stores)
    files = {"w.gguf": Path("/nowhere")}
    steps = house.service.create(ModelName.parse("new"), base=None, files=files, defaults=ModelDefaults())
    return [step.status async for step in steps]


async def test_a_file_that_one_store_cannot_import_is_left_to_the_next() -> None:
    taker = ShelfStore(name="taker")
    assert await made(Picky(), taker) == ["made in store taker: nobody imports it", "success"]
    assert len(taker.created) == 1


async def test_when_no_store_takes_a_file_the_first_ones_reason_is_told() -> None:
    second = Picky(name="second")
    second.refusal = InvalidRequest("a damaged file")
    with pytest.raises(Unsupported, match="nobody imports it"):
        await made(Picky(), second)
    broken = Picky(name="broken")
    broken.refusal = InvalidRequest("config.json is missing")
    with pytest.raises(InvalidRequest, match=r"config\.json is missing"):
        await made(broken, ShelfStore(name="never asked"))


async def test_creating_from_nothing_is_refused_in_ollamas_words() -> None:
    with pytest.raises(OllmlxError, match="neither 'from' or 'files' was specified"):
        async for _ in House().service.create(ModelName.parse("mine"), base=None, files={}, defaults=ModelDefaults()):
            pass
