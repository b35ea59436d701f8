"""The llama.cpp backend, with the real model, keeps the contract of every backend."""

from __future__ import annotations

import asyncio
import re
from functools import cache
from pathlib import Path

import pytest

from ollmlx import Backend, LaunchOptions
from ollmlx.errors import Unsupported
from ollmlx.plugin.loader import load_plugins
from ollmlx.protocol import ExitCode, decode_event
from ollmlx.settings import Settings
from ollmlx.testing import BackendSuite, RunnerProcess, fake_model
from ollmlx.testing.suites.engine import GREEDY, done_of, text_of
from ollmlx.types import GenerateRequest, InstalledModel, Message, ModelDefaults, Options, Prefill
from ollmlx_llamacpp.backend import SHARED_SLOTS, LlamaCppBackend, LlamaCppSettings

pytest.importorskip("xllamacpp", reason="pip install 'ollmlx[llamacpp]'")
pytestmark = [pytest.mark.model, pytest.mark.slow]


@cache
def registered() -> Backend:
    """Return the backend that the daemon registers."""
    backend = load_plugins(Settings()).registry.backends.get("llamacpp")
    assert backend is not None
    return backend


class TestLlamaCppBackend(BackendSuite):
    context_length = 256

    def make_backend(self) -> Backend:
        return registered()

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, smollm2_gguf: Path) -> InstalledModel:
        return fake_model(format="gguf", path=smollm2_gguf, capabilities=("completion",))

    @pytest.mark.fault(40)
    async def test_leaving_in_the_middle_of_a_long_prompt_stops_its_computation(self, model: InstalledModel) -> None:
        long = " ".join(f"w{number}" for number in range(300))
        async with runner_of(model, context_length=4096) as runner:
            await runner.ready()
            async with runner.stream(GenerateRequest(prompt=long, options=Options(num_predict=1))) as answer:
                event = decode_event(await answer.content.readline())
                assert isinstance(event, Prefill)
            await runner.ask("Hi", options=Options(num_predict=1))
            again = done_of(await runner.ask(long, options=Options(num_predict=1)))
            assert again.cached_tokens < again.prompt_tokens - 1

    async def test_a_prompt_that_was_seen_is_not_computed_again(self, runner: RunnerProcess) -> None:
        prompt = "The fox and the hen met " * 5
        first, again = [done_of(await runner.ask(prompt, options=Options(num_predict=1))) for _ in range(2)]
        assert again.cached_tokens >= again.prompt_tokens - 1 > first.cached_tokens
        assert (await runner.status()).cached_tokens_total >= again.cached_tokens

    async def test_answers_are_made_side_by_side(self, runner: RunnerProcess) -> None:
        long = GenerateRequest(prompt="One, two, three, four,", options=Options(temperature=0, num_predict=-1))
        async with runner.stream(long) as first, runner.stream(long) as second:
            for answer in (first, second):
                while decode_event(await answer.content.readline()).type != "text":
                    pass
            status = await runner.status()
            assert (status.parallel, status.active, status.queued) == (SHARED_SLOTS, 2, 0)

    async def test_answers_that_outgrow_the_shared_cache_are_put_back_and_go_on(self, runner: RunnerProcess) -> None:
        """Two answers of 160 tokens in a cache of 256: both are complete, and each is sent once."""
        prompts = ("One, two, three, four,", "Monday, Tuesday, Wednesday,")
        options = Options(temperature=0, num_predict=160, logit_bias={2: -100.0})

        async def answer(prompt: str) -> tuple[str, int]:
            events = await runner.ask(prompt, options=options)
            return text_of(events), done_of(events).generated_tokens

        together = await asyncio.gather(*map(answer, prompts))
        alone = [await answer(prompt) for prompt in prompts]
        assert [count for _, count in together] == [160, 160]
        assert together[1][0][:20] == alone[1][0][:20]
        assert [len(text) > 200 for text, _ in together] == [True, True]

    async def test_earlier_ids_are_continued(self, runner: RunnerProcess) -> None:
        whole = done_of(await runner.ask("One two three four", options=Options(temperature=0, num_predict=4)))
        options = Options(temperature=0, num_predict=2)
        more = done_of(await runner.ask(" and", context=whole.context, options=options))
        assert more.context[: len(whole.context)] == whole.context
        assert more.prompt_tokens == len(whole.context) + 1

    async def test_an_adapter_changes_the_answer_and_a_draft_model_does_not(
        self, model: InstalledModel, tmp_path: Path
    ) -> None:
        async def answer(**defaults: Path) -> str:
            async with runner_of(model.model_copy(update={"defaults": ModelDefaults(**defaults)})) as runner:
                await runner.ready()
                return text_of(await runner.ask("Once upon a time", options=GREEDY))

        plain = await answer()
        assert plain != ""
        assert await answer(adapter=lora(tmp_path / "lora.gguf")) != plain
        assert await answer(draft=model.path) == plain

    async def test_the_text_of_a_freeform_tool_matches_its_grammar(self, model: InstalledModel) -> None:
        schema = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
        tool = {"type": "function", "function": {"name": "patch", "parameters": schema}}
        request = GenerateRequest(
            messages=(Message(role="user", content="Patch it."), Message(role="assistant", content="I patch it.")),
            continue_last=True,
            tools=(tool,),
            tool_choice="patch",
            grammars={"patch": 'start: "*** Begin\\n" /[+-][a-z]{1,9}/ "\\n*** End"'},
            options=Options(temperature=0, num_predict=60),
        )
        async with runner_of(model) as runner:
            await runner.ready()
            events = await runner.generate(request)
        (call,) = [event.call for event in events if event.type == "tool_call"]
        assert re.fullmatch(r"\*\*\* Begin\n[+-][a-z]{1,9}\n\*\*\* End", call.arguments["input"])

    async def test_requests_that_begin_alike_and_come_together_compute_their_beginning_once(
        self, model: InstalledModel
    ) -> None:
        rules = " ".join(f"Rule {number}: be kind to animal {number * 7 % 13}." for number in range(24))
        async with runner_of(model, context_length=2048, parallel=4) as runner:
            await runner.ready()
            asked = (runner.ask(f"{rules} Name {n} colours.", options=Options(num_predict=4)) for n in range(4))
            done = [done_of(events) for events in await asyncio.gather(*asked)]
        computed = sorted(one.prompt_tokens - one.cached_tokens for one in done)
        assert computed[-1] == done[0].prompt_tokens > 256
        assert computed[-2] < 16, "the others got it from the first"

    async def test_drafts_of_many_sequences_at_once_fit_the_batch(self, model: InstalledModel) -> None:
        """llama.cpp ends the process if they do not: 80 sequences with 3 drafted tokens are more than a batch."""
        drafted = model.model_copy(update={"defaults": ModelDefaults(draft=model.path)})
        launch = LaunchOptions(context_length=4096, parallel=80)
        async with RunnerProcess(registered().command(drafted, launch), drafted, options=launch) as runner:
            await runner.ready()
            options = Options(temperature=0, num_predict=12, logit_bias={2: -100.0})
            asked = (runner.ask(f"{number}, {number + 1},", options=options) for number in range(80))
            counts = [done_of(events).generated_tokens for events in await asyncio.gather(*asked)]
        assert counts == [12] * 80

    async def test_guesses_from_the_text_change_no_answer_fit_the_batch_and_refuse_logprobs(
        self, model: InstalledModel
    ) -> None:
        text = "".join(
            f"{n}. The quick brown fox jumps over the lazy dog and away from the hen.\n" for n in range(1, 7)
        )
        launch = LaunchOptions(context_length=8192, parallel=20)
        options = Options(temperature=0, num_predict=48, logit_bias={2: -100.0})
        guessing = LlamaCppBackend(LlamaCppSettings(guess=True), installed=lambda: True)
        answers = []
        for backend in (registered(), guessing):
            async with RunnerProcess(backend.command(model, launch), model, options=launch) as runner:
                await runner.ready()
                answers.append(text_of(await runner.ask(text, options=options)))
                if backend is guessing:
                    with pytest.raises(Unsupported, match="guessed"):
                        await runner.generate(GenerateRequest(prompt=text, top_logprobs=1))
                    many = await asyncio.gather(*(runner.ask(f"{n}\n{text}", options=options) for n in range(20)))
                    assert [done_of(events).generated_tokens for events in many] == [48] * 20
        assert answers[0] == answers[1] != ""

    async def test_an_adapter_for_mlx_is_refused(self, model: InstalledModel, tmp_path: Path) -> None:
        adapted = model.model_copy(update={"defaults": ModelDefaults(adapter=tmp_path)})
        async with runner_of(adapted) as runner:
            assert await runner.exit_code() == ExitCode.BAD_MODEL
            assert "is an adapter for MLX" in runner.error_text


def runner_of(model: InstalledModel, context_length: int = 256, parallel: int = 1) -> RunnerProcess:
    """A process of its own."""
    launch = LaunchOptions(context_length=context_length, parallel=parallel)
    return RunnerProcess(registered().command(model, launch), model, options=launch)


def lora(file: Path) -> Path:
    """A small adapter with loud random weights for the first layers' queries."""
    import gguf
    import numpy as np

    rng = np.random.default_rng(3)
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 4.0)
    for layer in range(4):
        name = f"blk.{layer}.attn_q.weight"
        writer.add_tensor(f"{name}.lora_a", rng.standard_normal((4, 576)).astype(np.float32))
        writer.add_tensor(f"{name}.lora_b", rng.standard_normal((576, 4)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


THINKING = """{%- for m in messages %}{%- if m.role == 'assistant' and m.reasoning_content %}<|im_start|>assistant
<think>
{{ m.reasoning_content }}
</think>

{{ m.content }}<|im_end|>
{%- else %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{%- endif %}
{%- endfor %}{%- if add_generation_prompt %}<|im_start|>assistant
{%- if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% else %}<think>
{% endif %}{%- endif %}"""


@pytest.fixture(scope="module")
def thinking_gguf(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real model's file with a template that opens a thought."""
    import gguf

    file = tmp_path_factory.mktemp("thinking") / "thinking.gguf"
    reader, writer = gguf.GGUFReader(smollm2_gguf), gguf.GGUFWriter(file, arch="llama")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        value = THINKING if field.name == "tokenizer.chat_template" else field.contents()
        writer.add_key_value(field.name, value, field.types[0], field.types[-1] if len(field.types) > 1 else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


async def test_a_thought_ends_after_its_budget_and_the_answer_begins(thinking_gguf: Path) -> None:
    model = fake_model(format="gguf", path=thinking_gguf, capabilities=("completion", "thinking"))
    turns = (Message(role="user", content="Write a long story about a fox and a hen."),)
    greedy = Options(temperature=0, num_predict=40)
    async with runner_of(model, context_length=512) as runner:
        await runner.ready()
        free, held = [
            await runner.generate(
                GenerateRequest(messages=turns, think=True, max_thinking_tokens=budget, options=greedy)
            )
            for budget in (None, 8)
        ]
    thought, ended = ("".join(event.text for event in events if event.type == "thinking") for events in (free, held))
    assert 0 < len(ended) < len(thought)
    assert thought.startswith(ended.rstrip())
    assert not [event for event in free if event.type == "text"]
    assert [event for event in held if event.type == "text"]
