"""The shipped test kit: the fake engine's parts, plays, and the guards that fail a test which leaves things behind."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ollmlx.errors import Conflict, InvalidRequest
from ollmlx.testing.fake.faults import PlannedFault
from ollmlx.testing.fake.play import ASIDE, Play
from ollmlx.testing.fake.reply import decode, encode, instance_of, reply_of, reply_to, token_id
from ollmlx.testing.fake.script import Script, directed
from ollmlx.testing.scaffold import KINDS, write_plugin
from ollmlx.types import GenerateRequest, Message, Text, Thinking, ToolCalled


@given(st.text())
def test_tokens_are_exact_both_ways(text: str) -> None:
    ids = encode(text)
    assert all(0 < number < 2**53 for number in ids)
    assert decode(ids) == text


def test_an_unknown_id_is_a_replacement_character() -> None:
    assert decode([0, -1, 2**70, token_id("a")]) == "\ufffd\ufffd\ufffda"
    assert encode("\ud800"), "half a character has an id, too"


def test_control_words_are_taken_out_of_the_prompt_and_laid_over_the_script() -> None:
    script, text = directed(Script(rate=3), "fake:say=a%20b hello fake:prefill=7 world")
    assert text == "hello world"
    assert (script.say, script.prefill, script.rate) == ("a b", 7, 3)
    assert directed(Script(), "nofake:say=x") == (Script(), "nofake:say=x")


@pytest.mark.parametrize("word", ["wrong_answers", "lie"])
def test_wrong_answers_have_a_name_of_api_1_too(word: str) -> None:
    script, _ = directed(Script(), f"fake:{word}=cache hello")
    assert script.wrong_answers == "cache"
    assert Script.model_validate(script.model_dump(exclude_unset=True)) == script


@pytest.mark.parametrize("word", ["fake:sya=x", "fake:rate=fast", "fake:tokens=-1"])
def test_a_mistyped_control_word_is_an_error(word: str) -> None:
    with pytest.raises(InvalidRequest, match="control word"):
        directed(Script(), word)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "object", "properties": {"a": {"minimum": 4, "type": "integer"}}, "required": ["a"]}, {"a": 4}),
        ({"type": "array", "items": {"type": "string", "minLength": 3}, "minItems": 2}, ["xxx", "xxx"]),
        ({"enum": ["x", "y"]}, "x"),
        ({"const": None}, None),
        ({"type": ["null", "string"]}, None),
        ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, True),
        ({"$defs": {"t": {"type": "number"}}, "type": "object", "properties": {"v": {"$ref": "#/$defs/t"}}}, {"v": 1}),
    ],
)
def test_a_made_up_value_satisfies_its_schema(schema: dict[str, object], value: object) -> None:
    assert instance_of(schema) == value


def test_a_type_that_does_not_exist_has_no_value() -> None:
    with pytest.raises(InvalidRequest, match="Invalid type: strange"):
        instance_of({"type": "strange"})


def test_a_reply_thinks_when_asked_and_calls_the_tool_it_must() -> None:
    events = list(reply_to(GenerateRequest(prompt="x", think=True), Script(think="so"), "x").events())
    assert events == [Thinking(text="so"), Text(text="x")]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    must = GenerateRequest(prompt="x", tools=(tool,), tool_choice="f")
    call = next(reply_to(must, Script(), "x").events())
    assert isinstance(call, ToolCalled)
    assert call.call.name == "f"
    may = must.model_copy(update={"tool_choice": "auto"})
    assert list(reply_to(may, Script(), "x").events()) == [Text(text="x")]


def test_an_unknown_fault_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(InvalidRequest, match="there are abort, bad_model"):
        PlannedFault("exlpode")


TOOL: dict[str, Any] = {"type": "function", "function": {"name": "look"}}


def play(tmp_path: Path, *steps: dict[str, Any]) -> Play:
    file = tmp_path / "play.json"
    file.write_text(json.dumps(steps))
    return Play(file)


def asked(*messages: Message | str, tools: bool = True) -> GenerateRequest:
    turns = [Message(role="user", content=one) if isinstance(one, str) else one for one in messages]
    return GenerateRequest(messages=tuple(turns), tools=(TOOL,) if tools else ())


def test_a_step_without_a_condition_belongs_to_the_next_request_that_offers_tools(tmp_path: Path) -> None:
    steps = play(tmp_path, {"say": "one"}, {"say": "two"})
    assert steps.step(asked("a title, please", tools=False)).say == ASIDE
    assert steps.step(asked("hi")).say == "one"
    assert steps.step(asked("hi")).say == "two"
    assert steps.step(asked("hi")).say == ASIDE


def test_a_condition_is_looked_for_in_what_came_since_the_last_answer(tmp_path: Path) -> None:
    steps = play(tmp_path, {"when": r"(?s)\[image\].*passed", "say": "done"})
    answer = Message(role="assistant", content="I look")
    seen = Message(role="tool", content="see", images=("aGk=",))
    assert steps.step(asked("passed", answer, "not yet")).say == ASIDE
    assert steps.step(asked("fix it", answer, seen, "passed", tools=False)).say == "done"


def test_an_optional_step_is_left_out_for_the_next_one_that_fits(tmp_path: Path) -> None:
    steps = play(
        tmp_path,
        {"when": "page", "optional": True, "say": "read on"},
        {"when": "page", "optional": True, "say": "read on"},
        {"when": "summary", "say": "all in one"},
        {"when": "page", "say": "never"},
    )
    assert steps.step(asked("page 1")).say == "read on"
    assert steps.step(asked("summary")).say == "all in one"
    assert steps.step(asked("summary")).say == ASIDE


def test_a_step_becomes_thoughts_then_text_then_calls_with_ids_of_their_own(tmp_path: Path) -> None:
    call = {"name": "look", "arguments": {"at": "it"}}
    step = play(tmp_path, {"think": "hm", "say": "ok", "calls": [call, call], "cut": True}).step(asked("hi"))
    reply = reply_of(step, 3)
    kinds = [type(event) for event in reply.events()]
    assert kinds == [Thinking, Text, ToolCalled, ToolCalled]
    assert (reply.steps, reply.reason) == (4, "length")
    assert [call.id for call in reply.calls] == ["call_fake_3_0", "call_fake_3_1"]


def test_a_file_that_is_no_play_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="wenn"):
        play(tmp_path, {"wenn": "x"})


pytest_plugins = ["pytester"]

CONFTEST = """
import pytest
from ollmlx.testing import guards
guards.GRACE = 2.0
pytest_plugins = ["ollmlx.testing.guards"]

@pytest.fixture(autouse=True)
def guarded(no_leaks): ...
"""

INNER = """
import asyncio, os, signal, socket, subprocess, sys
import psutil, pytest
from ollmlx.testing import wait_until
KEPT = []

@pytest.fixture(scope="module")
def server():
    command = ["/bin/sh", "-c", "while read line; do sleep 600 & done"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True) as started:
        yield started
        os.killpg(started.pid, signal.SIGKILL)

def test_leaks_a_process():
    KEPT.append(subprocess.Popen(["sleep", "600"]))
def test_leaks_a_zombie():
    KEPT.append(subprocess.Popen(["true"]))
def test_leaks_an_orphan():
    subprocess.run(["/bin/sh", "-c", "sleep 600 & exit 0"], stdout=subprocess.DEVNULL)
def test_leaks_sockets():
    KEPT.extend(socket.socketpair())
def test_leaks_a_variable():
    os.environ["LEAK"] = "1"
def test_leaks_a_directory(tmp_path):
    os.chdir(tmp_path)
async def test_leaks_a_task():
    KEPT.append(asyncio.create_task(asyncio.sleep(600)))

def test_waits_for_its_process():
    subprocess.run([sys.executable, "-S", "-c", ""], check=True)
def test_has_an_orphan_that_ends():
    subprocess.run(["/bin/sh", "-c", "sleep 0.1 & exit 0"], stdout=subprocess.DEVNULL)
def test_has_a_shared_server_start_a_process(server):
    subprocess.run([sys.executable, "-S", "-c", ""], check=True)
    server.stdin.write("go\\n")
    server.stdin.flush()
    wait_until(lambda: psutil.Process(server.pid).children())
def test_closes_its_sockets():
    for end in socket.socketpair():
        end.close()
def test_patches_its_surroundings(monkeypatch, tmp_path):
    monkeypatch.setenv("FINE", "1")
    monkeypatch.chdir(tmp_path)
async def test_awaits_its_tasks():
    await asyncio.gather(asyncio.sleep(0))
"""

COMPLAINTS = {
    "a_process": r"left processes behind: \d+ \(sleeping\)",
    "a_zombie": r"left processes behind: \d+ \(zombie\)",
    "an_orphan": r"left processes behind: \d+ \(sleeping\) sleep 600",
    "sockets": "left 2 sockets or pipes open",
    "a_variable": "changed the environment: LEAK",
    "a_directory": "changed the working directory",
    "a_task": "left tasks running",
}


def test_exactly_the_tests_that_leak_fail(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("COLUMNS", "400")
    pytester.makeconftest(CONFTEST)
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile(INNER)
    result = pytester.runpytest_subprocess("-p", "pytest_asyncio.plugin", "-p", "no:cacheprovider", "--tb=no")
    result.assert_outcomes(passed=13, errors=len(COMPLAINTS))
    complaints = dict(re.findall(r"ERROR \S+::test_leaks_(\w+) - (.*)", result.stdout.str()))
    assert complaints.keys() == COMPLAINTS.keys()
    for leak, complaint in COMPLAINTS.items():
        assert re.search(complaint, complaints[leak]), complaints[leak]


@pytest.mark.parametrize("name", ["", "My", "my_store", "-x", "x-", "../x", "x" * 41, "1x", "a b"])
def test_a_name_that_cannot_be_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="plugin name"):
        write_plugin(name, "store", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_kind_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as refused:
        write_plugin("mine", "engine", tmp_path)
    assert refused.value.hint == f"use one of: {', '.join(KINDS)}"


def test_nothing_is_overwritten_and_no_name_is_taken_twice(tmp_path: Path) -> None:
    write_plugin("mine", "store", tmp_path)
    with pytest.raises(Conflict, match="exists"):
        write_plugin("mine", "store", tmp_path)
    with pytest.raises(Conflict, match="already"):
        write_plugin("hub", "store", tmp_path)


def test_what_is_written_has_clean_code(tmp_path: Path) -> None:
    """That it passes its own tests, installed, is seen in tests/e2e/test_third_party.py."""
    for kind in KINDS:
        write_plugin(f"my-{kind}", kind, tmp_path)
    rules = ["--isolated", "--no-cache", "--line-length", "120", "--select", "E,F,I,UP,B,RUF100"]
    argv = [sys.executable, "-m", "ruff", "check", *rules, "."]
    for top in tmp_path.iterdir():
        done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=top, timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr
