"""Settings of every test of the doctor."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def patient_with_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load plugins without the doctor's short time limit, which a busy machine may exceed."""
    monkeypatch.setattr("ollmlx.doctor.context.PLUGIN_SECONDS", 60.0)
