"""A model over two local ranks: one runner to the daemon, one answer, one life."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from ollmlx import LaunchOptions, RunnerCommand
from ollmlx.protocol import ExitCode
from ollmlx.testing.child import RunnerProcess
from ollmlx.testing.models import fake_model
from ollmlx.testing.waiting import eventually
from ollmlx.types import Done, GenerateRequest, Options, Text
from ollmlx_mlx.cluster.command import cluster_command

pytestmark = [pytest.mark.mlx, pytest.mark.slow]
GREEDY = Options(temperature=0, num_predict=12)
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 96,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "vocab_size": 300,
    "tie_word_embeddings": True,
    "eos_token_id": [299],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random llama whose tokens are bytes."""
    import mlx.core as mx
    from mlx_lm.models.llama import Model, ModelArgs
    from mlx_lm.utils import save_model
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    place: Path = tmp_path_factory.mktemp("cluster") / "tiny"
    place.mkdir()
    mx.random.seed(5)
    save_model(place, Model(ModelArgs(**{key: value for key, value in CONFIG.items() if key != "eos_token_id"})))
    (place / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate([*letters, *(f"<{i}>" for i in range(44))])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(place / "tokenizer.json"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<43>"}
    (place / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
    return place


def group(folder: Path, ranks: int = 2) -> RunnerProcess:
    alone = RunnerCommand(argv=("unused",), engine_options={"weights": "float32"})
    command = cluster_command(alone, {"hosts": ["localhost"] * ranks, "backend": "ring", "mode": "tensor"})
    model = fake_model("tiny").model_copy(update={"format": "mlx", "path": folder})
    return RunnerProcess(command, model, options=LaunchOptions(context_length=32768))


@pytest.fixture
async def runner(folder: Path) -> AsyncIterator[RunnerProcess]:
    async with group(folder) as started:
        await started.ready(90)
        yield started


def family(runner: RunnerProcess) -> list[psutil.Process]:
    return psutil.Process(runner.process.pid).children(recursive=True)


def ranks(runner: RunnerProcess) -> list[psutil.Process]:
    return [process for process in family(runner) if process.cmdline()[2:4] == ["-m", "ollmlx_mlx.cluster.rank"]]


async def gone(processes: list[psutil.Process]) -> None:
    await eventually(lambda: all(not p.is_running() or p.status() == psutil.STATUS_ZOMBIE for p in processes), 10)


def text(events: list[Any]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


async def test_two_ranks_answer_as_one_process_would_and_end_when_asked(runner: RunnerProcess, folder: Path) -> None:
    import mlx.core as mx
    from mlx_lm.utils import load

    assert len(ranks(runner)) == 2
    asked = GenerateRequest(prompt="a cluster of two", options=GREEDY)
    events = await runner.generate(asked)
    model, tokenizer, *_ = load(str(folder))
    tokens = tokenizer.encode("a cluster of two")
    for _ in range(12):
        best: Any = mx.argmax(model(mx.array([tokens]))[0, -1]).item()
        tokens.append(best)
    done = events[-1]
    assert isinstance(done, Done)
    assert list(done.context) == tokens
    assert done.generated_tokens == 12

    long = GenerateRequest(prompt="x" * 200, options=Options(temperature=0, num_predict=50))
    async with runner.stream(long) as given_up:
        await given_up.content.readline()
    assert text(await runner.generate(asked)) == text(events)
    everybody = family(runner)
    await runner.post("/v1/shutdown")
    assert await runner.exit_code(20) == ExitCode.ASKED
    await gone(everybody)


async def test_a_lost_rank_fails_the_request_and_ends_the_group(runner: RunnerProcess) -> None:
    everybody = family(runner)
    long = GenerateRequest(prompt="count", options=Options(temperature=0, num_predict=30000))
    async with runner.stream(long) as answer:
        first = await answer.content.readline()
        assert first
        ranks(runner)[-1].kill()
        lines = [first]
        with suppress(aiohttp.ClientPayloadError):  # the launcher may end rank 0 before its last record is out
            async for line in answer.content:
                lines.append(line)
    assert json.loads(lines[-1])["type"] != "done"
    assert await runner.exit_code(40) == ExitCode.INTERNAL
    await gone(everybody)


async def test_no_rank_outlives_the_daemon(runner: RunnerProcess) -> None:
    everybody = family(runner)
    runner.close_stdin()
    assert await runner.exit_code(10) == ExitCode.PARENT_GONE
    await gone(everybody)


async def test_a_killed_launcher_takes_the_ranks_with_it(runner: RunnerProcess) -> None:
    everybody = family(runner)
    runner.process.kill()
    await gone(everybody)
