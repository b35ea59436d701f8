"""The store of MLX models: folders as mlx-lm reads and writes them, each with a manifest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from ollmlx import Importer, ModelName, Source, check_template, closing, locked, storage_error
from ollmlx.errors import Conflict, InvalidRequest, NotFound, StorageError, Unsupported
from ollmlx.types import CreateRequest, FetchReceipt, InstalledModel, PullProgress
from ollmlx_hub.creation import file_format, merged, place_adapter, place_files, quantize_options
from ollmlx_hub.description import read_json
from ollmlx_hub.index import Shelf
from ollmlx_hub.installer import Intake, receipt_of
from ollmlx_hub.layout import Layout

FORMAT = "mlx"
T = TypeVar("T")


class MlxStore:
    """Models in `<models>/mlx/`. Several daemons may share the folder: each change holds the model's lock file."""

    name = "mlx"

    def __init__(self, root: Path) -> None:
        self.layout = Layout(root)
        self.shelf = Shelf(self.layout, self.name)
        self.intake = Intake(self.layout, self.shelf)

    async def list(self) -> Sequence[InstalledModel]:
        """Every complete model. What is damaged or on its way in is not listed."""
        return await _readable(self.shelf.models)

    async def resolve(self, name: ModelName) -> InstalledModel | None:
        """The model, or None. Raises StorageError when its folder is damaged, Conflict when it holds another model."""
        found = await _readable(self.shelf.find, name)
        if found is None and await asyncio.to_thread(self.layout.is_cut, name):
            async with locked(self.layout.lock(name)):
                await asyncio.to_thread(self.layout.recover, self.layout.target(name))
            found = await asyncio.to_thread(self.shelf.find, name)
        return found

    async def pull(
        self, name: ModelName, source: Source, importer: Importer | None, *, insecure: bool = False
    ) -> AsyncIterator[PullProgress]:
        """Fetch into a staging folder, import a foreign format, verify, rename into place. Resumable."""
        format = source.format(name)
        if format != FORMAT and importer is None:
            raise _no_importer(format)
        yield PullProgress(status="pulling manifest")
        async with self._alone(name):
            stage = await asyncio.to_thread(self.intake.stage_pull, name, reuse=format == FORMAT)
            async with closing(source.fetch(name, stage, insecure=insecure)) as steps:
                async for step in steps:
                    yield step
            receipt = receipt_of(stage, source.provides(name) or source.name)
            if await asyncio.to_thread(self.intake.up_to_date, name, receipt):
                await asyncio.to_thread(self.intake.discard, stage)
                yield PullProgress(status="success")
                return
            if format == FORMAT:
                folder = stage
            else:
                assert importer is not None
                folder = await asyncio.to_thread(self.intake.stage_new, name, ".import")
                file = await asyncio.to_thread(_only_file, stage, format)
                async with closing(self._import(importer, file, folder, format, None)) as steps:
                    async for step in steps:
                        yield step
            yield PullProgress(status="verifying sha256 digest")
            yield PullProgress(status="writing manifest")
            await asyncio.to_thread(self.intake.finish, folder, name, receipt=receipt)
            await asyncio.to_thread(self.intake.discard, stage)
            yield PullProgress(status="success")

    async def delete(self, name: ModelName) -> None:
        """Remove a model's folder. Models made over it keep their files: they are links of their own."""
        async with self._alone(name):
            folder = await asyncio.to_thread(self.layout.find, name)
            try:
                if folder is None:
                    raise FileNotFoundError(name.short)
                await asyncio.to_thread(self.layout.remove, folder)
                await asyncio.to_thread(self.intake.discard, self.layout.staging(name))
            except FileNotFoundError as error:
                raise NotFound(f"model '{name.short}' not found", code="MDL002") from error
            except OSError as error:
                raise storage_error(error, f"cannot remove {name.short}") from error

    async def copy(self, model: InstalledModel, target: ModelName) -> None:
        """A second name for the same weights: every file is linked, only the manifest is new."""
        if model.name == target and model.path == self.layout.find(target):
            return
        async with self._alone(target):
            stage = await asyncio.to_thread(self.intake.stage_new, target, ".new")
            try:
                files = await asyncio.to_thread(self.intake.link_model, model, stage)
                receipt = FetchReceipt(source=model.source, license="\n".join(model.defaults.license), files=files)
                defaults = await asyncio.to_thread(place_adapter, model.defaults, stage)
                await asyncio.to_thread(
                    self.intake.finish,
                    stage,
                    target,
                    receipt=receipt,
                    defaults=defaults,
                    base=model.details.parent_model,
                )
            finally:
                await asyncio.to_thread(self.intake.discard, stage)

    async def create(self, request: CreateRequest, importer: Importer | None) -> AsyncIterator[PullProgress]:
        """Make a model over an installed one (its weights are linked) or from files."""
        if request.defaults.template:
            check_template(request.defaults.template)
        async with self._alone(request.name):
            stage = await asyncio.to_thread(self.intake.stage_new, request.name, ".new")
            brought = stage.with_name(stage.name + ".files")
            try:
                async with closing(self._weights(request, importer, stage, brought)) as steps:
                    async for step in steps:
                        yield step
                known = await asyncio.to_thread(self._link_base, request, stage)
                defaults = await asyncio.to_thread(place_adapter, merged(request), stage)
                yield PullProgress(status="writing manifest")
                await asyncio.to_thread(
                    self.intake.finish,
                    stage,
                    request.name,
                    receipt=known,
                    defaults=defaults,
                    base=str(request.base.name) if request.base else "",
                )
                yield PullProgress(status="success")
            finally:
                await asyncio.to_thread(self.intake.discard, stage, brought)

    # -- inside ------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _alone(self, name: ModelName) -> AsyncIterator[None]:
        async with locked(self.layout.lock(name)):
            try:
                await asyncio.to_thread(self.shelf.find, name)
            except Conflict:
                raise
            except StorageError:
                pass  # a damaged model may be pulled again, replaced and removed
            yield

    async def _weights(
        self, request: CreateRequest, importer: Importer | None, stage: Path, brought: Path
    ) -> AsyncIterator[PullProgress]:
        """Fill `stage` from files, from a foreign format, or by quantising; a plain base is linked later."""
        base = request.base
        if request.files:
            format, source = file_format(request.files), brought / request.name.folder  # errors name the folder
            await asyncio.to_thread(_bring, request.files, source if format != FORMAT or request.quantize else stage)
            if format != FORMAT:
                source = await asyncio.to_thread(_only_file, source, format)
        elif base is not None:
            format, source = base.format, base.path
        else:
            raise InvalidRequest("neither 'from' or 'files' was specified")
        options: dict[str, object] | None = None
        if request.quantize:
            config = await asyncio.to_thread(read_json, source, "config.json") if format == FORMAT else None
            options = quantize_options(request, config or {})
        elif format == FORMAT:
            return
        if importer is None:
            raise _no_importer(format)
        async with closing(self._import(importer, source, stage, format, options)) as steps:
            async for step in steps:
                yield step

    def _link_base(self, request: CreateRequest, stage: Path) -> FetchReceipt:
        base = request.base
        if base is None:
            return FetchReceipt(source="local")
        if base.format != FORMAT or request.quantize or request.files:
            return FetchReceipt(source=base.source)
        return FetchReceipt(source=base.source, files=self.intake.link_model(base, stage))

    async def _import(
        self, importer: Importer, source: Path, into: Path, format: str, options: Mapping[str, Any] | None
    ) -> AsyncIterator[PullProgress]:
        try:
            async with closing(importer(source, into, format=format, options=options)) as steps:
                async for step in steps:
                    yield step
        except BaseException:
            await asyncio.shield(asyncio.to_thread(self.intake.discard, into))
            raise


async def _readable(look: Callable[..., T], *what: object) -> T:
    """Look at the folder in a thread. Raises StorageError when this user may not."""
    try:
        return await asyncio.to_thread(look, *what)
    except OSError as error:
        raise storage_error(error, "cannot read the models folder") from error


def _bring(files: Mapping[str, Path], into: Path) -> None:
    into.mkdir(parents=True, exist_ok=True)
    place_files(files, into)


def _only_file(folder: Path, format: str) -> Path:
    """The one file of a foreign format that a source left."""
    found = sorted(path for path in folder.glob(f"*.{format}") if path.is_file() and not path.name.startswith("."))
    if len(found) != 1:
        raise StorageError(f"the source left {len(found)} .{format} files where one was expected")
    return found[0]


def _no_importer(format: str) -> Unsupported:
    return Unsupported(
        f"no backend imports the format {format!r}",
        code="MDL005",
        hint="ollmlx plugin list shows which backends are on",
    )
