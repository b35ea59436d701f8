"""ollmlx's own checks. They have the shape of those that plugins register with the hook `register_checks`."""

from __future__ import annotations

from ollmlx.doctor.check import FunctionCheck
from ollmlx.doctor.checks.accelerator import accelerator, blas, mlx, python
from ollmlx.doctor.checks.config import models_of_settings, settings, variables
from ollmlx.doctor.checks.limits import limits
from ollmlx.doctor.checks.models import runnable
from ollmlx.doctor.checks.network import proxy
from ollmlx.doctor.checks.plugins import needed, plugins
from ollmlx.doctor.checks.runners import leftovers, runners
from ollmlx.doctor.checks.security import exposure, secrets
from ollmlx.doctor.checks.server import folders, owner, server
from ollmlx.doctor.checks.storage import folder

OWN: tuple[FunctionCheck, ...] = (
    settings, variables, models_of_settings, python, accelerator, mlx, blas, limits, plugins, needed, folder, runnable,
    server, owner, folders, exposure, secrets, proxy, runners, leftovers,
)  # fmt: skip
"""Every check of ollmlx itself, in the order of the report."""
