"""Attack: one client learns another's prompt from the number of cached tokens. It took 20 requests."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import StartDaemon

from ollmlx import Backend, LaunchOptions
from ollmlx.plugin.loader import load_plugins
from ollmlx.protocol import RunnerConfig
from ollmlx.settings import Settings
from ollmlx.testing import RunnerProcess, fake_model
from ollmlx.testing.suites.engine import done_of
from ollmlx.types import EmbedRequest, GenerateRequest, InstalledModel, Options

pytestmark = [pytest.mark.model, pytest.mark.slow]

BEGIN = "The treasure of the pirates was buried by night, and the numbers that lead to its place are"
WORDS = ("one", "two", "three", "four", "five", "six")
SECRET = ("five", "three", "six")


@pytest.fixture(params=["mlx", "llamacpp"])
def model(request: pytest.FixtureRequest) -> tuple[Backend, InstalledModel]:
    """The real model, for both engines."""
    if request.param == "llamacpp":
        pytest.importorskip("xllamacpp", reason="pip install 'ollmlx[llamacpp]'")
    path: Path = request.getfixturevalue("smollm2" if request.param == "mlx" else "smollm2_gguf")
    backend = load_plugins(Settings()).registry.backends.get(request.param)
    assert backend is not None
    format = "mlx" if request.param == "mlx" else "gguf"
    return backend, fake_model(format=format, path=path, capabilities=("completion",))


def runner_of(model: tuple[Backend, InstalledModel], **config: Any) -> RunnerProcess:
    """A runner of two sequences, whose requests name the owners of caches."""
    backend, installed = model
    launch = LaunchOptions(context_length=512, parallel=2)
    config = {"prompt_cache_bytes": 1 << 28, "owned_caches": True, **config}
    return RunnerProcess(backend.command(installed, launch), installed, options=launch, **config)


async def cached(runner: RunnerProcess, owner: str, prompt: str) -> int:
    """Return the number of cached tokens that an owner is told for a prompt."""
    events = await runner.ask(prompt, options=Options(num_predict=1, temperature=0), cache_owner=owner)
    return done_of(events).cached_tokens


PROMPT = " ".join([BEGIN, *SECRET, "steps from the tree"])


async def recover(runner: RunnerProcess, victim: str, owner: str) -> tuple[tuple[str, ...], int]:
    """Guess the secret word by word: the right one has more cached tokens. The victim goes on sending its prompt.

    Returns the guess, and the cached tokens of the first of its 18 requests.
    """
    known: list[str] = []
    first: int | None = None
    for _ in SECRET:
        counts = {}
        for word in WORDS:
            await cached(runner, victim, PROMPT)
            counts[word] = await cached(runner, owner, " ".join([BEGIN, *known, word, "."]))
            first = counts[word] if first is None else first
        known.append(max(counts, key=counts.__getitem__))
    return tuple(known), first or 0


async def test_a_prompt_is_not_guessed_from_cached_tokens(model: tuple[Backend, InstalledModel]) -> None:
    async with runner_of(model, owned_caches=False) as runner:
        await runner.ready()
        guess, first = await recover(runner, "", "")
        assert guess == SECRET, "the attack works where caches are shared"
        assert first > 10
    async with runner_of(model) as runner:
        await runner.ready()
        guess, first = await recover(runner, "key-victim", "key-other")
        assert guess != SECRET
        assert first == 0
        assert await cached(runner, "key-victim", PROMPT) > 10, "its owner still has it"
        assert await cached(runner, "", PROMPT) == 0


async def test_a_prompt_that_is_being_computed_or_answered_is_not_shared(model: tuple[Backend, InstalledModel]) -> None:
    long = Options(num_predict=40, temperature=0)
    async with runner_of(model) as runner:
        await runner.ready()
        running = asyncio.create_task(runner.ask(PROMPT, options=long, cache_owner="key-victim"))
        try:
            more_than_slots = [await cached(runner, f"key-{number}", PROMPT) for number in range(4)]
            assert more_than_slots == [0, 0, 0, 0]
        finally:
            await running


async def test_a_text_that_was_embedded_is_not_found_by_a_prompt(model: tuple[Backend, InstalledModel]) -> None:
    async with runner_of(model) as runner:
        await runner.ready()
        for word in ("Hello", "Good evening"):
            await cached(runner, "key-other", f"{word}, and welcome to this house of ours")
        await runner.post("/v1/embed", EmbedRequest(inputs=(PROMPT,)))
        assert await cached(runner, "key-other", PROMPT) == 0


async def test_saved_caches_belong_to_their_owner(smollm2: Path, tmp_path: Path) -> None:
    backend = load_plugins(Settings()).registry.backends.get("mlx")
    assert backend is not None
    mine = backend, fake_model(format="mlx", path=smollm2, capabilities=("completion",))
    saved = {"cache_dir": tmp_path / "caches", "cache_dir_bytes": 1 << 28}
    prompt = " ".join([BEGIN] * 5)
    async with runner_of(mine, **saved) as runner:
        await runner.ready()
        await cached(runner, "key-victim", prompt)
        await runner.post("/v1/shutdown")
        assert await runner.exit_code() == 0
    assert list((tmp_path / "caches").rglob("*.safetensors"))
    async with runner_of(mine, **saved) as runner:
        await runner.ready()
        assert [await cached(runner, owner, prompt) for owner in ("key-other", "", "key-other")][:2] == [0, 0]
        assert await cached(runner, "key-victim", prompt) > 60


def test_the_daemon_tells_no_client_what_another_keys_prompt_was(daemon: StartDaemon, smollm2_models: Path) -> None:
    keys = {"api_keys": ["one-key"], "keys": {"anna": {"key": "another-key"}}}
    settings = {"storage": {"models": str(smollm2_models)}, "security": keys}
    server = daemon(fakes=None, settings=settings)

    def cached_for(key: str) -> int:
        body = {"model": "smollm2:135m", "prompt": BEGIN, "max_tokens": 1, "temperature": 0}
        answer = server.post("/v1/completions", body, headers={"Authorization": f"Bearer {key}"}).json()
        return int(answer["usage"].get("prompt_tokens_details", {}).get("cached_tokens", 0))

    assert [cached_for("one-key"), cached_for("another-key")] == [0, 0]
    assert min(cached_for("one-key"), cached_for("another-key")) > 10


def test_without_keys_nothing_changes_for_a_runner() -> None:
    config = RunnerConfig(runner="r", token="t", model=fake_model(), context_length=1)
    sent = config.model_dump_json() + GenerateRequest(prompt="x").model_dump_json()
    assert "owned_caches" not in sent
    assert "cache_owner" not in sent
