"""The folder `linux_cpu` only makes things faster: without it, daemon and engine do the same, more slowly."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.unit.plugins.mlx.architectures import ARCHITECTURES, random_model

import ollmlx_mlx

pytestmark = pytest.mark.mlx
pytest.importorskip("mlx_lm.utils")  # sets environment variables when it is first imported
PROGRAM = """
import asyncio, json, sys
from pathlib import Path
import ollmlx_mlx
from ollmlx.plugin.loader import load_plugins
from ollmlx.settings import Settings
from ollmlx.testing.requests import ask, running, collect
from ollmlx_mlx.engine.engine import MlxEngine

async def main():
    backend = load_plugins(Settings()).registry.backends.get("mlx")
    blas, advice = backend.blas(), backend.blas_advice()
    async with running(MlxEngine(), Path(sys.argv[1])) as engine:
        text = (await collect(engine, ask("one two three"))).done.context
    loaded = [name for name in sys.modules if name.startswith("ollmlx_mlx.linux_cpu")]
    print(json.dumps([ollmlx_mlx.__file__, blas.env, advice.speed_up, text, loaded]))

asyncio.run(main())
"""


def run(folder: Path, *more: Path) -> Any:
    path = os.pathsep.join(map(str, more))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_daemon_and_engine_work_without_the_folder(tmp_path: Path, tiny_vocabulary: dict[str, Any]) -> None:
    model = random_model(tmp_path / "llama", ARCHITECTURES["llama"], tiny_vocabulary)
    whole = Path(ollmlx_mlx.__file__).parent
    copy = tmp_path / "plugins" / "ollmlx_mlx"
    shutil.copytree(whole, copy, ignore=shutil.ignore_patterns("linux_cpu", "__pycache__"))
    file, env, speed_up, text, loaded = run(model, copy.parent)
    assert (Path(file).parent, env, speed_up, loaded) == (copy, {}, None, [])
    assert text == run(model)[3]
