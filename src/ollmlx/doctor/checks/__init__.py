"""ollmlx's own checks, a module for each group. They have the shape of the checks that plugins register with the hook
`register_checks`. Only the doctor imports them.
"""

from __future__ import annotations

from ollmlx.doctor.check import FunctionCheck
from ollmlx.doctor.checks.config import memory_limit, settings, unknown_models, variables
from ollmlx.doctor.checks.declarations import declarations
from ollmlx.doctor.checks.environment import certificates, names, values
from ollmlx.doctor.checks.fitting import fitting
from ollmlx.doctor.checks.in_use import in_use
from ollmlx.doctor.checks.installation import packages, paths
from ollmlx.doctor.checks.loadable import loadable
from ollmlx.doctor.checks.machine import accelerator, blas, kernels, limits, mlx
from ollmlx.doctor.checks.plugins import needed, plugins
from ollmlx.doctor.checks.runners import leftovers, runners
from ollmlx.doctor.checks.server import (
    exposure,
    folders,
    localhost,
    lock,
    owner,
    proxies,
    proxy,
    secrets,
    server,
)
from ollmlx.doctor.checks.storage import folder, runnable

OWN: tuple[FunctionCheck, ...] = (
    settings, variables, names, values, unknown_models, declarations, memory_limit, paths, packages, accelerator,
    kernels, mlx, blas, limits, plugins, needed, folder, runnable, loadable, fitting, server, owner, folders, in_use,
    lock, exposure, secrets, proxy, proxies, localhost, certificates, runners, leftovers,
)  # fmt: skip
"""Every check of ollmlx itself, in the order of the report."""
