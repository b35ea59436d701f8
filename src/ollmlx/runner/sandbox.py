"""The sandbox of a runner: the model, the engine and the folders that it keeps."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ollmlx.helper.sandbox import NOT_CONFINED as NOT_CONFINED
from ollmlx.helper.sandbox import enter as enter
from ollmlx.protocol import RunnerConfig

VARIABLE: Final = "OLLMLX_SANDBOX"


def confine(config: RunnerConfig, engine: str, mode: str) -> tuple[str, ...]:
    """Give up what the runner does not need, as `enter` does."""
    return enter(_readable(config, engine), _writable(config), mode)


def _readable(config: RunnerConfig, engine: str) -> Iterator[Path]:
    named = (Path(value) for value in config.engine_options.values() if isinstance(value, str))
    yield from (path for path in named if path.is_absolute())
    if "/" in engine:
        yield Path(engine.rpartition(":")[0]).parent
    model = config.model
    for own in (model.path, model.defaults.adapter, model.defaults.draft, model.defaults.projector):
        if own is not None:
            yield from files_of(model.path / own)


def files_of(path: Path) -> Iterator[Path]:
    """Yield a model's file or folder, and where links in it lead: caches of other programs keep files elsewhere."""
    yield path
    yield path.resolve()
    if path.is_dir():
        yield from (file.resolve() for file in path.rglob("*") if file.is_symlink())
    elif "-00001-of-" in path.name:  # a file in parts
        yield from (file.resolve() for file in path.parent.glob(f"{path.name.partition('-00001-of-')[0]}-*-of-*"))


def _writable(config: RunnerConfig) -> Iterator[Path]:
    yield Path(tempfile.gettempdir())
    if config.cache_dir is not None:
        yield config.cache_dir
