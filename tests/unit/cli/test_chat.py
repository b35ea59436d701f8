"""The chat: its commands, its conversation, and how lines become inputs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.cli.conftest import ScriptedDaemon

from ollmlx.cli.answer import StreamedAnswer
from ollmlx.cli.chat.commands import COMMANDS, Conversation, Session, run_command, usage
from ollmlx.cli.chat.loop import ChatInput, LineReader, is_command, shown_messages
from ollmlx.cli.client import Client
from ollmlx.errors import OllmlxError


@pytest.fixture
def printed() -> list[str]:
    return []


def test_the_messages_of_a_model_are_shown_without_what_controls_a_terminal() -> None:
    turns = [{"role": "user", "content": "hi\x1b[2J"}, {"role": "assistant", "content": "ho"}]
    assert list(shown_messages(turns)) == [">>> hi\\x1b[2J", "ho\n"]


@pytest.fixture
def session(client: Client, printed: list[str]) -> Session:
    return Session(client, Conversation("parrot"), printed.append)


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("/set parameter temperature 0.7", "options", {"temperature": 0.7}),
        ("/set parameter seed 7", "options", {"seed": 7}),
        ("/set parameter stop a b", "options", {"stop": ["a", "b"]}),
        ('/set system "Be kind."', "system", "Be kind."),
        ("/set system Be\nkind.", "system", "Be\nkind."),
        ("/set format json", "format", "json"),
        ("/set think", "think", True),
        ("/set think high", "think", "high"),
        ("/set nothink", "think", False),
    ],
)
def test_set_changes_the_requests(session: Session, printed: list[str], line: str, field: str, value: object) -> None:
    run_command(session, line)
    assert getattr(session.conversation, field) == value
    assert session.conversation.request() if field != "think" else session.conversation.request()["think"] == value
    assert printed[0].startswith(("Set ", "set "))


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("/set wordwrap", "wordwrap", True),
        ("/set nowordwrap", "wordwrap", False),
        ("/set verbose", "verbose", True),
        ("/set quiet", "verbose", False),
        ("/set history", "history", True),
        ("/set nohistory", "history", False),
        ("/bye", "over", True),
        ("/exit", "over", True),
    ],
)
def test_a_switch_is_switched(session: Session, line: str, field: str, *, value: bool) -> None:
    run_command(session, line)
    assert getattr(session, field) is value


MALFORMED = [
    "/bogus", "/set", "/set bogus", "/set parameter", "/set parameter seed", "/set parameter seed x",
    "/set parameter bogus 1", "/set parameter temperature -1", "/set format yaml", "/set think hard", "/set system",
    "/load", "/load two names", "/save", "/show bogus",
]  # fmt: skip


@pytest.mark.parametrize("line", MALFORMED)
def test_a_malformed_command_is_an_error_and_changes_nothing(session: Session, line: str) -> None:
    before = session.conversation.request()
    with pytest.raises(OllmlxError):
        run_command(session, line)
    assert session.conversation.request() == before


def test_every_command_is_in_the_help() -> None:
    assert all(name in usage() for name in set(COMMANDS) - {"/exit", "/ls"})
    assert "/set parameter" in usage("set")
    assert "/show info" in usage("/show")
    assert "Ctrl + c" in usage("shortcuts")


def test_turns_alternate_also_after_an_interrupted_answer() -> None:
    talk = Conversation("parrot", system="Be kind.")
    talk.add_question("one")
    talk.add_answer(StreamedAnswer(text="1", thinking="hm", final={"done": True}))
    talk.add_question("two")
    talk.add_answer(StreamedAnswer(interrupted=True))
    talk.add_question("three")
    talk.add_answer(StreamedAnswer(text="3 and", interrupted=True))
    roles = [message["role"] for message in talk.request()["messages"]]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    assert talk.messages[1] == {"role": "assistant", "content": "1", "thinking": "hm"}


def test_clear_removes_the_turns_and_keeps_the_system_message(session: Session) -> None:
    session.conversation.system = "Be kind."
    session.conversation.add_question("one")
    run_command(session, "/clear")
    assert session.conversation.request()["messages"] == [{"role": "system", "content": "Be kind."}]


def test_save_creates_a_model_from_the_chat_and_load_changes_the_model(
    session: Session, daemon: ScriptedDaemon, printed: list[str]
) -> None:
    daemon.streams("/api/create", {"status": "success"})
    daemon.says("POST", "/api/generate", {"done": True})
    session.conversation.system = "Be kind."
    session.conversation.add_question("one")
    run_command(session, "/set parameter seed 7")
    run_command(session, "/save mine")
    saved = daemon.bodies("/api/create")[0]
    assert saved["from"] == "parrot"
    assert (saved["model"], saved["system"], saved["parameters"]) == ("mine", "Be kind.", {"seed": 7})
    assert saved["messages"] == [{"role": "user", "content": "one"}]
    run_command(session, "/load robot")
    assert (session.conversation.model, session.conversation.messages) == ("robot", [])
    assert printed[1:] == ["Created new model 'mine'", "Loading model 'robot'"]


def test_show_describes_the_model_and_the_options_that_were_set(
    session: Session, daemon: ScriptedDaemon, printed: list[str]
) -> None:
    daemon.says("POST", "/api/show", {"parameters": "seed 1", "details": {"family": "llama"}, "license": "MIT"})
    run_command(session, "/show")
    run_command(session, "/show license")
    run_command(session, "/show template")
    run_command(session, "/set parameter top_k 3")
    run_command(session, "/set parameter stop a b")
    assert printed[-2:] == ["Set parameter 'top_k' to '3'", "Set parameter 'stop' to 'a, b'"]
    run_command(session, "/show parameters")
    assert "llama" in printed[0]
    assert printed[1:3] == ["MIT", "No template was specified for this model."]
    assert "Model defined parameters:\nseed 1" in printed[-1]
    assert "top_k" in printed[-1]


def test_flags_are_in_every_request() -> None:
    talk = Conversation("parrot", format={}, think=False, keep_alive=0.0)
    talk.add_question("hi")
    assert talk.request() == {
        "model": "parrot",
        "messages": [{"role": "user", "content": "hi"}],
        "format": {},
        "think": False,
        "keep_alive": 0.0,
    }


# -- lines -------------------------------------------------------------------------------------------------------------


def typed(*lines: str) -> list[ChatInput]:
    reader = LineReader()
    return [entry for line in lines if (entry := reader.feed(line)) is not None]


@pytest.mark.parametrize(
    ("lines", "inputs"),
    [
        (["  why? ", "", "   "], [ChatInput("why?")]),
        (["/bye"], [ChatInput("/bye", command=True)]),
        (['"""first', "second", 'third"""', "next"], [ChatInput("first\nsecond\nthird"), ChatInput("next")]),
        (['"""one line"""'], [ChatInput("one line")]),
        (['"""', "/bye", '"""'], [ChatInput("\n/bye\n")]),
        (['/set system """You', 'rhyme."""'], [ChatInput("/set system You\nrhyme.", command=True)]),
    ],
)
def test_lines_and_blocks_are_prompts_or_commands(lines: list[str], inputs: list[ChatInput]) -> None:
    assert typed(*lines) == inputs


@pytest.mark.parametrize("line", ["/usr/bin is what?", "/etc/passwd", "1/2", "a /bye", ""])
def test_a_path_is_a_prompt(line: str) -> None:
    assert not is_command(line)


def test_an_open_block_can_be_discarded() -> None:
    reader = LineReader()
    reader.feed('"""begun')
    before = reader.open
    reader.drop()
    assert (before, reader.open) == (True, False)
    assert reader.feed("plain") == ChatInput("plain")


@given(st.lists(st.text(st.sampled_from('ab/ "'), max_size=8), max_size=6))
def test_a_block_gives_back_its_lines(lines: list[str]) -> None:
    inside = [line for line in lines if '"""' not in line and not line.rstrip().endswith('"')]
    assert typed('"""', *inside, '"""') == [ChatInput("\n".join(["", *inside, ""]))]
