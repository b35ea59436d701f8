"""The public names that plugins may rely on are a list under test."""

from __future__ import annotations

import subprocess
import sys

import ollmlx
from ollmlx.plugin import contracts


def test_every_public_name_exists_and_no_other_is_promised() -> None:
    for name in ollmlx.__all__:
        assert getattr(ollmlx, name) is not None
    assert set(dir(ollmlx)) == set(ollmlx.__all__)


def test_names_of_earlier_versions_still_work_and_are_listed_nowhere() -> None:
    from ollmlx import testing

    assert testing.World is testing.CheckContext
    assert "World" not in testing.__all__


def test_contracts_are_narrow_enough_to_fake() -> None:
    for contract in (contracts.Backend, contracts.Store, contracts.Source, contracts.Check, contracts.Engine):
        methods = [name for name, value in vars(contract).items() if callable(value) and not name.startswith("_")]
        assert len(methods) <= 8, f"{contract.__name__} has {len(methods)} methods"


def test_importing_ollmlx_imports_nothing_heavy() -> None:
    heavy = "{'pydantic', 'quart', 'aiohttp', 'mlx', 'huggingface_hub', 'rich'}"
    program = f"import sys, ollmlx, ollmlx.cli.main; print(sorted({heavy} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert ran.stdout.strip() == "[]"


def test_the_whole_daemon_is_imported_without_mlx() -> None:
    program = (
        "import sys, ollmlx.app, ollmlx.web.server.serve\n"
        "from ollmlx.settings import Settings\n"
        "from ollmlx.plugin.loader import load_plugins\n"
        "loaded = load_plugins(Settings())\n"
        "assert any(plugin.name == 'mlx' and plugin.enabled for plugin in loaded.loaded), loaded.loaded\n"
        "print(sorted({'mlx', 'mlx_lm', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "[]"
