"""The suite of engines: each runs in its own process, over the Runner Protocol."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest

from ollmlx import Backend, LaunchOptions
from ollmlx.errors import ContextExceeded, InvalidRequest, StorageError, Unsupported, from_kind
from ollmlx.protocol import Detokenized, ExitCode, TokenizeRequest, Tokens, decode_event
from ollmlx.testing.child import RunnerProcess
from ollmlx.testing.suites import Suite
from ollmlx.testing.waiting import HANG_GUARD, eventually
from ollmlx.types import (
    Done,
    EmbedRequest,
    EmbedResult,
    Event,
    Failed,
    GenerateRequest,
    InstalledModel,
    Message,
    Options,
    RerankRequest,
    RerankResult,
    SpeechRequest,
    Spoken,
    Text,
    Thinking,
    TranscribeRequest,
)

PROMPT = "Tell me a story about a fox, a hen and a long winter."
GREEDY = Options(temperature=0, num_predict=8)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}, "sure": {"type": "boolean"}},
    "required": ["colour", "sure"],
    "additionalProperties": False,
}


Test = TypeVar("Test", bound=Callable[..., Any])


def of_text(test: Test) -> Test:
    """Mark a test as one for models that write, which others are spared."""
    test.of_text = True  # type: ignore[attr-defined]
    return test


def text_of(events: list[Event]) -> str:
    """Return the text that a client would show: thinking and answer."""
    return "".join(event.text for event in events if isinstance(event, Text | Thinking))


def done_of(events: list[Event]) -> Done:
    """Return the last event, which must be Done."""
    assert isinstance(events[-1], Done), events[-1]
    return events[-1]


class EngineSuite(Suite):
    """Runs one process for the whole class. The flags turn off the tests of features that the engine lacks.

    `cancel_within`: seconds in which a cancelled request must free its slot; raise it for an engine with long steps.
    """

    context_length: ClassVar[int] = 512
    structured: ClassVar[bool] = True
    logprobs: ClassVar[bool] = True
    tokenizes: ClassVar[bool] = True
    cancel_within: ClassVar[float] = HANG_GUARD

    def make_backend(self) -> Backend:
        """Return the backend under test."""
        raise NotImplementedError

    def make_model(self, folder: Path) -> InstalledModel:
        """Return a small installed model; `folder` is empty and may hold its files."""
        raise NotImplementedError

    def make_bad_model(self, model: InstalledModel, folder: Path) -> InstalledModel:
        """Return the same model, impossible to load. Default: its path does not exist."""
        return model.model_copy(update={"path": folder / "no-such-model"})

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, tmp_path_factory: pytest.TempPathFactory) -> InstalledModel:
        return cls().make_model(tmp_path_factory.mktemp("model"))

    @pytest.fixture(autouse=True)
    def needed_capability(self, request: pytest.FixtureRequest, model: InstalledModel) -> None:
        """Skip the tests of text for a model that writes none."""
        if hasattr(request.function, "of_text") and "completion" not in model.capabilities:
            pytest.skip("this model writes no text")

    @pytest.fixture(scope="class")
    @classmethod
    def started(cls, model: InstalledModel) -> Iterator[RunnerProcess]:
        runner = cls()._process(model)
        runner.start()
        yield runner
        runner.stop()

    @pytest.fixture
    async def runner(self, started: RunnerProcess) -> AsyncIterator[RunnerProcess]:
        async with started.connected():
            await started.ready()
            yield started

    def make_launch(self) -> LaunchOptions:
        """Return the launch options of the runner. A backend for clusters adds its hosts."""
        return LaunchOptions(context_length=self.context_length)

    def _process(self, model: InstalledModel) -> RunnerProcess:
        launch = self.make_launch()
        return RunnerProcess(self.make_backend().command(model, launch), model, options=launch)

    # -- one request -------------------------------------------------------------------------------------------------

    async def test_its_status_describes_it(self, runner: RunnerProcess) -> None:
        status = await runner.status()
        assert status.engine
        assert status.parallel >= 1
        assert 0 < status.context_length <= self.context_length
        assert (status.active, status.queued) == (0, 0)

    @of_text
    async def test_events_come_in_order_and_end_with_done(self, runner: RunnerProcess) -> None:
        events = await _ask(runner, options=GREEDY)
        kinds = [event.type for event in events]
        assert kinds == sorted(kinds, key=["prefill", "thinking", "text", "done"].index)
        assert kinds.count("done") == 1
        prefills = [event for event in events if event.type == "prefill"]
        assert all(0 <= event.cached <= event.done <= event.total for event in prefills)

    @of_text
    async def test_done_accounts_for_every_token(self, runner: RunnerProcess) -> None:
        done = done_of(await _ask(runner, options=GREEDY))
        assert 0 <= done.cached_tokens <= done.prompt_tokens
        assert done.prompt_tokens > 0
        assert 0 < done.generated_tokens <= 8
        assert done.reason == ("length" if done.generated_tokens == 8 else "stop")
        assert done.total_ns > 0

    @of_text
    async def test_num_predict_is_exact(self, runner: RunnerProcess) -> None:
        done = done_of(await _ask(runner, options=Options(temperature=0, num_predict=3)))
        assert (done.generated_tokens, done.reason) == (3, "length")

    @of_text
    async def test_greedy_answers_are_the_same_every_time(self, runner: RunnerProcess) -> None:
        first, second = [text_of(await _ask(runner, options=GREEDY)) for _ in range(2)]
        assert first == second != ""

    @of_text
    async def test_one_seed_gives_one_answer(self, runner: RunnerProcess) -> None:
        seeded = Options(temperature=0.8, seed=42, num_predict=8)
        first, second = [text_of(await _ask(runner, options=seeded)) for _ in range(2)]
        assert first == second

    @of_text
    async def test_a_stop_string_ends_the_answer_and_is_not_part_of_it(self, runner: RunnerProcess) -> None:
        whole = text_of(await _ask(runner, options=GREEDY))
        stop = whole[len(whole) // 2 :][:3]
        events = await _ask(runner, options=Options(temperature=0, num_predict=8, stop=(stop,)))
        assert text_of(events) == whole[: whole.index(stop)]
        assert (done_of(events).reason, done_of(events).stop) == ("stop", stop)

    @of_text
    async def test_a_plain_prompt_is_continued_or_ended(self, runner: RunnerProcess) -> None:
        done_of(await runner.generate(GenerateRequest(prompt=PROMPT, options=GREEDY)))  # it may have nothing to add

    @of_text
    async def test_logprobs_accompany_each_token(self, runner: RunnerProcess) -> None:
        if not self.logprobs:
            pytest.skip("this engine says that it has no logprobs")
        events = await _ask(runner, options=GREEDY, top_logprobs=3)
        tokens = [entry for event in events if isinstance(event, Text | Thinking) for entry in event.logprobs]
        generated = done_of(events).generated_tokens
        assert generated - 1 <= len(tokens) <= generated  # the last token may be the end itself, which has no text
        assert all(entry.logprob <= 0 and len(entry.top) == 3 for entry in tokens)
        assert all([x.logprob for x in t.top] == sorted((x.logprob for x in t.top), reverse=True) for t in tokens)

    @of_text
    async def test_a_json_schema_is_obeyed(self, runner: RunnerProcess) -> None:
        if not self.structured:
            pytest.skip("this engine says that it has no structured output")
        request = GenerateRequest(
            messages=_chat(PROMPT), format=SCHEMA, options=Options(temperature=0, num_predict=200)
        )
        answer = json.loads(text_of(await runner.generate(request)))
        assert answer.keys() == {"colour", "sure"}
        assert answer["colour"] in ("red", "green")

    @of_text
    async def test_a_prompt_that_may_not_be_cut_and_does_not_fit_is_refused(self, runner: RunnerProcess) -> None:
        words = " ".join(f"w{number}" for number in range(self.context_length * 2))
        with pytest.raises(ContextExceeded) as refusal:
            _raise_failure(await runner.ask(words, truncate=False, options=GREEDY))
        assert refusal.value.excess is not None
        tokens, most = refusal.value.excess
        assert tokens > self.context_length >= most >= self.context_length - 1

    @of_text
    async def test_a_prompt_that_may_be_cut_is_cut_visibly(self, runner: RunnerProcess) -> None:
        words = " ".join(f"w{number}" for number in range(self.context_length * 2))
        done = done_of(await runner.ask(words, options=Options(temperature=0, num_predict=1)))
        assert done.dropped > 0
        assert done.prompt_tokens <= self.context_length

    # -- several requests --------------------------------------------------------------------------------------------

    @of_text
    async def test_concurrent_requests_all_end(self, runner: RunnerProcess) -> None:
        answers = await asyncio.gather(*(_ask(runner, f"{PROMPT} {n}", options=GREEDY) for n in range(5)))
        assert [answer[-1].type for answer in answers] == ["done"] * 5

    @pytest.mark.parametrize("events", [0, 2], ids=["before the first event", "in the middle"])
    @of_text
    async def test_leaving_frees_the_slot(self, runner: RunnerProcess, events: int) -> None:
        request = GenerateRequest(messages=_chat(PROMPT), options=Options(temperature=0, num_predict=-1))
        if events:
            async with runner.stream(request) as answer:
                for _ in range(events):
                    await answer.content.readline()
        else:
            asking = asyncio.create_task(runner.generate(request))
            await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait([asking])
        await eventually(lambda: self._idle(runner), self.cancel_within, because="the slot is free")
        assert (await _ask(runner, options=GREEDY))[-1].type == "done"

    async def _idle(self, runner: RunnerProcess) -> bool:
        status = await runner.status()
        return status.active == 0 and status.queued == 0

    @of_text
    async def test_status_answers_and_progress_grows_while_it_generates(self, runner: RunnerProcess) -> None:
        before = (await runner.status()).progress
        request = GenerateRequest(messages=_chat(PROMPT), options=Options(temperature=0, num_predict=24))
        async with runner.stream(request) as answer:
            await answer.content.readline()
            await asyncio.wait_for(runner.status(), HANG_GUARD)
            events = [decode_event(line) async for line in answer.content]
        assert events[-1].type == "done"
        assert (await runner.status()).progress > before

    # -- tokens, vectors, caches -------------------------------------------------------------------------------------

    @of_text
    async def test_tokens_give_the_text_back(self, runner: RunnerProcess) -> None:
        if not self.tokenizes:
            pytest.skip("this engine says that it cannot tokenize")
        text = "The fox said: 1234 + 5 = 1239."
        tokens = Tokens.model_validate_json(await runner.post("/v1/tokenize", TokenizeRequest(text=text)))
        back = Detokenized.model_validate_json(await runner.post("/v1/detokenize", tokens))
        assert back.text.strip() == text

    async def test_embeddings_are_unit_vectors_one_for_each_input(
        self, runner: RunnerProcess, model: InstalledModel
    ) -> None:
        request = EmbedRequest(inputs=("a fox", "a hen", "a fox"))
        before = (await runner.status()).progress
        try:
            result = EmbedResult.model_validate_json(await runner.post("/v1/embed", request))
        except Unsupported:
            assert "embedding" not in model.capabilities
            return
        fox, hen, again = result.embeddings
        assert fox == pytest.approx(again, abs=1e-5)
        assert fox != pytest.approx(hen, abs=1e-5)
        assert [sum(x * x for x in vector) for vector in result.embeddings] == pytest.approx([1.0] * 3, abs=1e-3)
        assert result.prompt_tokens > 0
        assert (await runner.status()).progress > before, "vectors must count as progress"

    async def test_documents_get_scores_in_the_order_they_were_given(
        self, runner: RunnerProcess, model: InstalledModel
    ) -> None:
        request = RerankRequest(query="the fox", documents=("the fox runs", "a hen", "the fox runs"))
        before = (await runner.status()).progress
        try:
            result = RerankResult.model_validate_json(await runner.post("/v1/rerank", request))
        except Unsupported:
            assert "rerank" not in model.capabilities
            return
        assert "rerank" in model.capabilities
        first, second, again = result.scores
        assert first == pytest.approx(again, abs=1e-5)
        assert first != pytest.approx(second, abs=1e-5)
        assert all(0 <= score <= 1 for score in result.scores)
        assert result.prompt_tokens > 0
        assert result.truncated == ()
        assert (await runner.status()).progress > before, "scores must count as progress"

    async def test_speech_is_heard_and_spoken_by_models_of_these_kinds(
        self, runner: RunnerProcess, model: InstalledModel
    ) -> None:
        spoken = SpeechRequest(text="Hello", format="pcm")
        verbs = (("transcribe", TranscribeRequest(), "transcription"), ("speak", spoken, "speech"))
        for verb, request, capability in verbs:
            try:
                lines = (await runner.post(f"/v1/{verb}", request)).splitlines()
            except Unsupported:
                assert capability not in model.capabilities
            else:
                events = [decode_event(line) for line in lines]
                assert isinstance(events[-1], Done)
                assert capability == "transcription" or isinstance(events[0], Spoken)

    @of_text
    async def test_trimming_caches_changes_no_answer(self, runner: RunnerProcess) -> None:
        before = text_of(await _ask(runner, options=GREEDY))
        await runner.post("/v1/trim")
        assert text_of(await _ask(runner, options=GREEDY)) == before

    # -- the process -------------------------------------------------------------------------------------------------

    async def test_a_model_that_cannot_be_loaded_is_said_to_be_bad(self, model: InstalledModel, tmp_path: Path) -> None:
        try:
            process = self._process(self.make_bad_model(model, tmp_path))
        except (StorageError, InvalidRequest):
            return  # the backend itself refused the model, before any process
        async with process as runner:
            assert await runner.exit_code() == ExitCode.BAD_MODEL, runner.error_text
            assert runner.error_text.strip().splitlines()[-1].startswith("bad model: ")

    async def test_it_ends_with_its_parent(self, model: InstalledModel) -> None:
        async with self._process(model) as runner:
            await runner.ready()
            runner.close_stdin()
            assert await runner.exit_code() != ExitCode.ASKED

    @of_text
    async def test_a_termination_signal_in_the_middle_of_an_answer_ends_both_cleanly(
        self, model: InstalledModel
    ) -> None:
        async with self._process(model) as runner:
            await runner.ready()
            request = GenerateRequest(messages=_chat(PROMPT), options=Options(temperature=0.9, num_predict=-1))
            async with runner.stream(request) as answer:
                await answer.content.readline()
                runner.process.send_signal(signal.SIGTERM)
                last = decode_event((await answer.read()).splitlines()[-1])
            assert last.type in ("error", "done")
            assert await runner.exit_code() == ExitCode.ASKED


def _chat(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)


async def _ask(runner: RunnerProcess, text: str = PROMPT, **fields: Any) -> list[Event]:
    return await runner.generate(GenerateRequest(messages=_chat(text), **fields))


def _raise_failure(events: list[Event]) -> None:
    """Raise the error of a refusal that came as the last event of a stream."""
    if isinstance(last := events[-1], Failed):
        raise from_kind(last.kind, last.message, code=last.code, excess=last.excess)
