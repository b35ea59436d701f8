"""ollmlx's own checks, in the order they are shown. Plugins add theirs through the hook `register_checks`."""

from __future__ import annotations

from ollmlx.contracts import Check
from ollmlx.doctor.checks.config import ConfigCheck
from ollmlx.doctor.checks.machine import BlasCheck, LimitsCheck, MlxCheck
from ollmlx.doctor.checks.plugins import PluginsCheck
from ollmlx.doctor.checks.runners import RunnersCheck
from ollmlx.doctor.checks.server import ExposureCheck, ProxyCheck, ServerCheck
from ollmlx.doctor.checks.storage import FolderCheck, ModelsCheck


def own_checks() -> tuple[Check, ...]:
    """A fresh set."""
    return (
        ConfigCheck(),
        PluginsCheck(),
        MlxCheck(),
        BlasCheck(),
        LimitsCheck(),
        FolderCheck(),
        ModelsCheck(),
        ServerCheck(),
        ExposureCheck(),
        ProxyCheck(),
        RunnersCheck(),
    )
