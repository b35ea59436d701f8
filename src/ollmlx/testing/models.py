"""Models for tests: installed as far as a runner cares, with no file behind them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ollmlx.model.names import ModelName
from ollmlx.testing.fake.settings import ALL_CAPABILITIES
from ollmlx.types import InstalledModel


def fake_model(name: str = "parrot", **fields: Any) -> InstalledModel:
    """An installed fake model; `fields` replace the InstalledModel's own."""
    return InstalledModel.model_validate(
        {
            "name": ModelName.parse(name),
            "store": "fake",
            "format": "fake",
            "path": Path("/nonexistent"),
            "digest": "0" * 64,
            "size": 10 * 1024 * 1024,
            "modified_at": datetime(2025, 1, 1, tzinfo=UTC),
            "capabilities": ALL_CAPABILITIES,
            **fields,
        }
    )
