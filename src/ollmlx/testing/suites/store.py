"""The suite of stores."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar

import pytest

from ollmlx import ModelName, Source, Store, closing
from ollmlx.errors import NotFound, OllmlxError, StorageError, UpstreamError
from ollmlx.testing.suites import Suite
from ollmlx.types import CreateRequest, InstalledModel, ModelDefaults, Options, PullProgress


async def steps_of(stream: AsyncIterator[PullProgress]) -> list[PullProgress]:
    """Return all progress of a pull or create."""
    return [step async for step in stream]


class InterruptedSource:
    """A source that fails, by default with a lost connection after the first step."""

    def __init__(self, source: Source, error: OllmlxError | None = None, after: int = 1) -> None:
        self.name, self.store = source.name, source.store
        self._source = source
        self._error = error or UpstreamError("the connection was lost")
        self._after = after

    def provides(self, name: ModelName) -> str | None:
        return self._source.provides(name)

    def format(self, name: ModelName) -> str:
        return self._source.format(name)

    async def fetch(self, name: ModelName, into: Path, *, insecure: bool = False) -> AsyncIterator[PullProgress]:
        left = self._after
        async with closing(self._source.fetch(name, into, insecure=insecure)) as steps:
            async for step in steps:
                if left == 0:
                    break
                left -= 1
                yield step
        raise self._error


class StoreSuite(Suite):
    """Tests a store. Subclass it; make a store over an empty folder, and install a model there.

    class TestMyStore(StoreSuite):
        def make_store(self, folder):
            return MyStore(folder)

        async def install(self, store, name, folder):
            ...write the files of a complete, small model where the store looks for them...
    """

    pulled: ClassVar[str] = "org/model"
    """A name that the source of `make_source` provides."""

    def make_store(self, folder: Path) -> Store:
        """Return the store under test over a folder. A second call for the same folder is a second daemon."""
        raise NotImplementedError

    async def install(self, store: Store, name: ModelName, folder: Path) -> None:
        """Put a small, complete model of that name into the store, as a pull or a person would."""
        raise NotImplementedError

    def make_source(self) -> Source | None:
        """Return a source for this store that needs no network; None when nothing can be pulled into it."""
        return None

    def damage(self, model: InstalledModel) -> bool:
        """Damage the installed model's files. Return False when the store cannot notice damage."""
        return False

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "models"
        folder.mkdir()
        return folder

    @pytest.fixture
    def store(self, folder: Path) -> Store:
        return self.make_store(folder)

    @pytest.fixture
    async def model(self, store: Store, folder: Path) -> InstalledModel:
        name = ModelName.parse("org/first")
        await self.install(store, name, folder)
        found = await store.resolve(name)
        assert found is not None, "install() left nothing that resolve() finds"
        return found

    async def test_it_is_a_store_with_a_name(self, store: Store) -> None:
        assert isinstance(store, Store)
        assert store.name

    async def test_an_empty_store_has_nothing(self, store: Store, folder: Path) -> None:
        assert list(await store.list()) == []
        assert await store.resolve(ModelName.parse("org/nothing")) is None
        assert list(await self.make_store(folder / "not-there-yet").list()) == []

    async def test_an_installed_model_is_listed_and_resolved_alike(self, store: Store, model: InstalledModel) -> None:
        assert [listed.name for listed in await store.list()] == [model.name]
        assert (await store.list())[0] == await store.resolve(model.name)

    async def test_what_it_says_of_a_model_is_complete(self, store: Store, model: InstalledModel) -> None:
        assert model.store == store.name
        assert model.format
        assert re.fullmatch(r"[0-9a-f]{64}", model.digest)
        assert model.size > 0
        assert model.modified_at.tzinfo is not None
        assert model.capabilities

    async def test_both_spellings_and_any_letter_case_find_it(self, store: Store, model: InstalledModel) -> None:
        for spelling in ("org/first", "org_first", "Org/First", "org/first:latest"):
            found = await store.resolve(ModelName.parse(spelling))
            assert found is not None, spelling
            assert found.digest == model.digest

    async def test_another_tag_is_another_model(self, store: Store, model: InstalledModel) -> None:
        assert await store.resolve(ModelName.parse("org/first:other")) is None

    async def test_a_second_daemon_sees_the_same(self, model: InstalledModel, folder: Path) -> None:
        assert (await self.make_store(folder).resolve(model.name)) == model

    async def test_deleting_removes_one_and_leaves_the_others(
        self, store: Store, model: InstalledModel, folder: Path
    ) -> None:
        other = ModelName.parse("org/second")
        await self.install(store, other, folder)
        await store.delete(model.name)
        assert [listed.name for listed in await store.list()] == [other]
        assert await store.resolve(model.name) is None

    async def test_deleting_what_is_gone_is_not_found(self, store: Store, model: InstalledModel) -> None:
        await store.delete(model.name)
        with pytest.raises(NotFound):
            await store.delete(model.name)

    async def test_a_copy_is_the_same_model_under_another_name(self, store: Store, model: InstalledModel) -> None:
        await store.copy(model, ModelName.parse("copy:small"))
        copy = await store.resolve(ModelName.parse("copy:small"))
        assert copy is not None
        assert (copy.format, copy.details, copy.capabilities) == (model.format, model.details, model.capabilities)
        await store.delete(copy.name)
        assert await store.resolve(model.name) == model

    async def test_a_copy_outlives_its_original(self, store: Store, model: InstalledModel) -> None:
        target = ModelName.parse("copy")
        await store.copy(model, target)
        await store.delete(model.name)
        copy = await store.resolve(target)
        assert copy is not None
        assert copy.size > 0

    async def test_a_model_made_over_another_has_its_own_defaults(self, store: Store, model: InstalledModel) -> None:
        defaults = ModelDefaults(system="Be brief.", options=Options(temperature=0.5))
        request = CreateRequest(name=ModelName.parse("brief"), base=model, defaults=defaults)
        steps = await steps_of(store.create(request, None))
        assert steps[-1].status == "success"
        made = await store.resolve(request.name)
        assert made is not None
        assert made.defaults.system == "Be brief."
        assert made.defaults.options.temperature == 0.5
        assert made.digest != model.digest

    async def test_a_damaged_model_is_not_listed_resolving_says_so_and_it_can_be_deleted(
        self, store: Store, model: InstalledModel
    ) -> None:
        if not self.damage(model):
            pytest.skip("this store says that it cannot notice damage")
        assert list(await store.list()) == []
        with pytest.raises(StorageError):
            await store.resolve(model.name)
        await store.delete(model.name)
        assert await store.resolve(model.name) is None

    # -- pulling -----------------------------------------------------------------------------------------------------

    @pytest.fixture
    def source(self) -> Source:
        source = self.make_source()
        if source is None:
            pytest.skip("nothing is pulled into this store")
        assert isinstance(source, Source)
        return source

    async def test_a_pull_reports_progress_and_ends_with_success(self, store: Store, source: Source) -> None:
        steps = await steps_of(store.pull(ModelName.parse(self.pulled), source, None))
        assert steps[0].status == "pulling manifest"
        assert steps[-1].status == "success"
        amounts = [(step.completed or 0, step.total) for step in steps if step.total]
        assert amounts
        assert all(0 <= done <= total for done, total in amounts)
        found = await store.resolve(ModelName.parse(self.pulled))
        assert found is not None
        assert found.source

    async def test_an_interrupted_pull_is_not_listed_and_can_go_on(self, store: Store, source: Source) -> None:
        name = ModelName.parse(self.pulled)
        with pytest.raises(UpstreamError, match="lost"):
            await steps_of(store.pull(name, InterruptedSource(source), None))
        assert list(await store.list()) == []
        assert await store.resolve(name) is None
        await steps_of(store.pull(name, source, None))
        assert [model.name for model in await store.list()] == [name]

    async def test_an_abandoned_pull_is_not_listed_and_can_go_on(self, store: Store, source: Source) -> None:
        name = ModelName.parse(self.pulled)
        async with closing(store.pull(name, source, None)) as steps:
            async for step in steps:
                if step.total:
                    break
        assert list(await store.list()) == []
        await steps_of(store.pull(name, source, None))
        assert await store.resolve(name) is not None

    async def test_two_pulls_of_one_model_both_succeed(self, store: Store, source: Source, folder: Path) -> None:
        name = ModelName.parse(self.pulled)
        both = (steps_of(each.pull(name, source, None)) for each in (store, store))
        results = await asyncio.gather(*both)
        assert [steps[-1].status for steps in results] == ["success", "success"]
        assert len(await store.list()) == 1

    async def test_pulling_again_keeps_the_model(self, store: Store, source: Source) -> None:
        name = ModelName.parse(self.pulled)
        await steps_of(store.pull(name, source, None))
        steps = await steps_of(store.pull(name, source, None))
        assert steps[-1].status == "success"
        assert len(await store.list()) == 1

    async def test_what_no_source_has_fails_with_a_reason(self, store: Store, source: Source) -> None:
        with pytest.raises(OllmlxError, match="does not exist"):
            await steps_of(
                store.pull(
                    ModelName.parse(self.pulled),
                    InterruptedSource(source, NotFound("it does not exist"), after=0),
                    None,
                )
            )
        assert list(await store.list()) == []
