"""The MLX backend, with the real model, keeps the contract of every backend."""

from __future__ import annotations

import asyncio
import re
from functools import cache
from pathlib import Path

import pytest

from ollmlx import Backend, ModelName
from ollmlx.plugin.loader import load_plugins
from ollmlx.settings import Settings
from ollmlx.testing import BackendSuite, RunnerProcess
from ollmlx.types import GenerateRequest, InstalledModel, Message, Options
from ollmlx_hub.store import MlxStore

pytestmark = [pytest.mark.mlx, pytest.mark.model, pytest.mark.slow]


@cache
def registered() -> Backend:
    """As the daemon has it."""
    backend = load_plugins(Settings()).registry.backends.get("mlx")
    assert backend is not None
    return backend


class TestMlxBackend(BackendSuite):
    context_length = 256

    def make_backend(self) -> Backend:
        return registered()

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, smollm2_models: Path) -> InstalledModel:
        found = asyncio.run(MlxStore(smollm2_models / "mlx").resolve(ModelName.parse("smollm2:135m")))
        assert found is not None
        return found

    async def test_the_text_of_a_freeform_tool_matches_its_grammar(self, runner: RunnerProcess) -> None:
        schema = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
        request = GenerateRequest(
            messages=(Message(role="user", content="Patch it."), Message(role="assistant", content="I patch it.")),
            continue_last=True,
            tools=({"type": "function", "function": {"name": "patch", "parameters": schema}},),
            tool_choice="patch",
            template="{{ tools }}{% for message in messages %}{{ message.content }}{% endfor %}",
            grammars={"patch": 'start: "*** Begin\\n" /[+-][a-z]{1,9}/ "\\n*** End"'},
            options=Options(temperature=0, num_predict=60),
        )
        events = await runner.generate(request)
        (call,) = [event.call for event in events if event.type == "tool_call"]
        assert re.fullmatch(r"\*\*\* Begin\n[+-][a-z]{1,9}\n\*\*\* End", call.arguments["input"])
