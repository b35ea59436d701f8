"""Attack: a model's own template, or a schema or a pattern of a request, occupies the model's runner without end."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ollmlx import Backend, LaunchOptions
from ollmlx.errors import InvalidRequest
from ollmlx.plugin.loader import load_plugins
from ollmlx.settings import Settings
from ollmlx.testing import RunnerProcess, fake_model
from ollmlx.testing.suites.engine import text_of
from ollmlx.types import GenerateRequest, InstalledModel, Message, Options

pytestmark = [pytest.mark.model, pytest.mark.slow]

LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DOUBLED = "{% set n = namespace(x='xxxx') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}"
BOMB = (
    "{%set word=messages[-1].content%}{% if word == 'loop' %}" + LOOPS + "{% elif word == 'double' %}" + DOUBLED
    + "{% else %}<|im_start|>user\n{{ word }}<|im_end|>\n<|im_start|>assistant\n{% endif %}"
)  # fmt: skip
"""A template that works until a conversation ends with one of its words."""
AMBIGUOUS = {"type": "string", "pattern": "^((.{0,100}){0,100}){0,100}$"}
PATTERNS = {"allOf": [{"type": "string", "pattern": f"(.*{chr(97 + i % 26)}.{{{5 + i}}}.*)"} for i in range(40)]}
OPTIONAL = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(1500)}}
SHORT = Options(num_predict=4, temperature=0)


def with_template(gguf: Path, template: str, into: Path) -> Path:
    """Return a copy of a GGUF file with another template, which is as long as its own."""
    data = gguf.read_bytes()
    at = data.index(b"tokenizer.chat_template") + len(b"tokenizer.chat_template") + 4
    size = int.from_bytes(data[at : at + 8], "little")
    assert len(template) + 4 <= size, "the template of the real model is longer"
    padded = template + "{#" + " " * (size - len(template) - 4) + "#}"
    into.write_bytes(data[: at + 8] + padded.encode() + data[at + 8 + size :])
    return into


def backend(name: str) -> Backend:
    found = load_plugins(Settings()).registry.backends.get(name)
    assert found is not None
    return found


def hostile(engine: str, request: pytest.FixtureRequest, folder: Path, template: str) -> InstalledModel:
    """The real model with another template, for one engine."""
    if engine == "llamacpp":
        pytest.importorskip("xllamacpp", reason="pip install 'ollmlx[llamacpp]'")
        path = with_template(request.getfixturevalue("smollm2_gguf"), template, folder / "m.gguf")
        return fake_model(format="gguf", path=path, capabilities=("completion",))
    path = shutil.copytree(request.getfixturevalue("smollm2"), folder / "m")
    config = json.loads((path / "tokenizer_config.json").read_text(encoding="utf-8"))
    (path / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}), encoding="utf-8")
    (path / "chat_template.jinja").unlink(missing_ok=True)
    return fake_model(format="mlx", path=path, capabilities=("completion",))


def runner_of(engine: str, model: InstalledModel) -> RunnerProcess:
    launch = LaunchOptions(context_length=512, parallel=2)
    return RunnerProcess(backend(engine).command(model, launch), model, options=launch)


def chat(word: str, **fields: Any) -> GenerateRequest:
    return GenerateRequest(messages=(Message(role="user", content=word),), options=SHORT, **fields)


@pytest.mark.parametrize("engine", ["mlx", "llamacpp"])
async def test_a_models_own_template_ends_at_its_limits_and_other_requests_go_on(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    async with runner_of(engine, hostile(engine, request, tmp_path, BOMB)) as runner:
        await runner.ready()
        answer = text_of(await runner.generate(chat("hi")))
        assert answer
        for word, limit in (("loop", "2 s of CPU time"), ("double", "512 MiB of memory")):
            refused, other = await asyncio.gather(
                runner.generate(chat(word)), runner.ask("hi", options=SHORT), return_exceptions=True
            )
            assert isinstance(refused, InvalidRequest)
            assert limit in refused.message
            assert not isinstance(other, BaseException)
        assert text_of(await runner.generate(chat("hi"))) == answer


@pytest.mark.parametrize("engine", ["mlx", "llamacpp"])
async def test_many_requests_with_templates_that_take_long_let_others_go_first(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """A dozen of them occupied both helpers: for a minute, nobody else got an answer of the model."""
    async with runner_of(engine, hostile(engine, request, tmp_path, BOMB)) as runner:
        await runner.ready()
        await runner.generate(chat("hi"))
        bombs = [asyncio.ensure_future(runner.generate(chat("hi", template=LOOPS))) for _ in range(6)]
        await asyncio.wait(bombs, return_when=asyncio.FIRST_COMPLETED)
        assert text_of(await runner.generate(chat("hi")))
        assert sum(bomb.done() for bomb in bombs) < 4
        for refused in await asyncio.gather(*bombs, return_exceptions=True):
            assert isinstance(refused, InvalidRequest)


async def test_llama_cpp_loads_a_model_whose_template_never_ends_and_refuses_its_chats(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    async with runner_of("llamacpp", hostile("llamacpp", request, tmp_path, LOOPS)) as runner:
        status = await runner.ready()
        assert "no chats: the template takes more than 2 s of CPU time to process" in status.notes
        with pytest.raises(InvalidRequest, match="2 s of CPU time"):
            await runner.generate(chat("hi"))
        assert text_of(await runner.ask("One, two,", options=SHORT))


async def test_a_template_that_behaves_differently_in_llama_cpp_ends_at_limits_and_costs_no_other_request(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The helper passes no `bos_token`, llama.cpp does."""
    only_there = BOMB.replace("messages[-1].content", "bos_token and messages[-1].content")
    async with runner_of("llamacpp", hostile("llamacpp", request, tmp_path, only_there)) as runner:
        await runner.ready()
        answer = text_of(await runner.generate(chat("hi")))
        with pytest.raises(InvalidRequest, match="512 MiB of memory"):
            await runner.generate(chat("double"))
        assert not (await runner.status()).stuck
        refused, other = await asyncio.gather(
            runner.generate(chat("loop")), runner.ask("hi", options=SHORT), return_exceptions=True
        )
        assert isinstance(refused, InvalidRequest)
        assert "8 s" in refused.message
        assert not isinstance(other, BaseException)
        assert text_of(await runner.generate(chat("hi"))) == answer
        assert (await runner.status()).stuck


@pytest.fixture
async def llamacpp(smollm2_gguf: Path) -> AsyncIterator[RunnerProcess]:
    """A runner of llama.cpp with the real model."""
    pytest.importorskip("xllamacpp", reason="pip install 'ollmlx[llamacpp]'")
    model = fake_model(format="gguf", path=smollm2_gguf, capabilities=("completion", "tools"))
    async with runner_of("llamacpp", model) as runner:
        await runner.ready()
        yield runner


async def test_no_schema_or_pattern_occupies_llama_cpp(llamacpp: RunnerProcess) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"x": AMBIGUOUS}}}}
    text = {"type": "object", "properties": {"input": {"type": "string"}}}
    freeform = {"type": "function", "function": {"name": "p", "parameters": text}}
    refusals = [
        (GenerateRequest(prompt="hi", format=PATTERNS, options=SHORT), "the format takes"),
        (chat("hi", format=AMBIGUOUS), "the format: the pattern .* repeats repetitions"),
        (chat("hi", format=OPTIONAL), "the format: too many optional properties"),
        (chat("hi", tools=(tool,)), "the tool f: the pattern .* repeats repetitions"),
        (chat("hi", tools=(freeform,), tool_choice="p", grammars={"p": "start: " + "(" * 200_000}), "invalid grammar"),
    ]
    for asked, limit in refusals:
        with pytest.raises(InvalidRequest, match=limit):
            await llamacpp.generate(asked)
    assert text_of(await llamacpp.ask("One, two,", options=SHORT))


async def test_a_prompt_of_megabytes_is_refused_before_it_is_encoded(llamacpp: RunnerProcess) -> None:
    with pytest.raises(InvalidRequest, match="a prompt has at most 8 MiB, and this one 30"):
        await llamacpp.ask("x" * (30 << 20), options=SHORT)
    with pytest.raises(InvalidRequest, match="8 MiB"):
        await llamacpp.generate(chat("x" * (30 << 20)))


async def test_llama_cpp_does_not_do_without_a_format_that_it_cannot_compile(llamacpp: RunnerProcess) -> None:
    with pytest.raises(InvalidRequest, match="invalid format"):
        await llamacpp.ask("hi", format={"type": "string", "pattern": "(" * 100}, options=SHORT)
