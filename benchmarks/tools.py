"""The tables of docs/benchmarks.md about tool calls, by a small model that writes them in another shape than told.

    python benchmarks/tools.py                       about 6 minutes on two slow cores, 1.1 GB to download once
    python benchmarks/tools.py --write docs/benchmarks.md

  weather   5 questions about the weather through the 4 routes that take tools
  varied    30 prompts with 8 tools, 10 of which need no tool: with calls recognised, and without

The model is Qwen2.5-Coder-1.5B-Instruct Q4_K_M, run by llama.cpp; answers are greedy. A call is right when it is the
right function with the right values, missed when none was made, and invented when none was needed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from engine import Table, write

from ollmlx.testing.daemon import Daemon

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.qwen_coder import gguf_file

MODEL: Final = "qwen2.5-coder"
SENTENCE: Final = "You are a helpful assistant. Use a tool when it is needed, and answer in words when it is not."

Json = dict[str, Any]
Calls = list[tuple[str, Json]]


def tool(name: str, description: str, **parameters: str) -> Json:
    """Return a function whose parameters are texts, all of them required."""
    properties = {key: {"type": "string", "description": text} for key, text in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


TOOLS: Final = [
    tool("get_weather", "Get the current weather of a place", location="city"),
    tool("read_file", "Read a file", path="path of the file"),
    tool("write_file", "Write a text into a file", path="path of the file", content="the text"),
    tool("run_command", "Run a shell command and return its output", command="the command"),
    tool("search_code", "Search the source code for a text", query="the text to find"),
    tool("send_email", "Send an email", to="address", subject="subject", body="text of the email"),
    tool("get_stock_price", "Get the latest price of a stock", symbol="ticker symbol"),
    tool("translate_text", "Translate a text", text="the text", language="target language"),
]
WEATHER: Final = [
    "What's the weather in Boston?",
    "Is it raining in Paris right now?",
    "Tell me the current weather for Tokyo, please.",
    "I am going to Cairo today. How warm is it there?",
    "Get the weather of Oslo.",
]
PLACES: Final = ("boston", "paris", "tokyo", "cairo", "oslo")
NEEDED: Final = [
    ("What's the weather in Berlin?", "get_weather", "berlin"),
    ("How cold is it in Moscow at the moment?", "get_weather", "moscow"),
    ("Do I need an umbrella in London now?", "get_weather", "london"),
    ("Read the file src/main.py.", "read_file", "src/main.py"),
    ("Show me what is in README.md.", "read_file", "readme.md"),
    ("Open config/settings.toml and tell me what it says.", "read_file", "config/settings.toml"),
    ("Write 'hello' into the file notes.txt.", "write_file", "notes.txt"),
    ("Create a file hello.py that prints hello.", "write_file", "hello.py"),
    ("Save the text 'buy milk' to todo.txt.", "write_file", "todo.txt"),
    ("Run the tests with pytest.", "run_command", "pytest"),
    ("List the files of this folder with ls -la.", "run_command", "ls -la"),
    ("Execute git status.", "run_command", "git status"),
    ("Find where parse_config is used in the code.", "search_code", "parse_config"),
    ("Search the source for TODO.", "search_code", "todo"),
    (
        "Send an email to ann@example.com with the subject Lunch and the text 'At noon?'",
        "send_email",
        "ann@example.com",
    ),
    ("Mail bob@example.com that the build is broken. Subject: Build.", "send_email", "bob@example.com"),
    ("What is the stock price of AAPL?", "get_stock_price", "aapl"),
    ("Give me the latest price of the MSFT stock.", "get_stock_price", "msft"),
    ("Translate 'good morning' to French.", "translate_text", "fr"),
    ("Translate the text 'thank you' into Japanese.", "translate_text", "ja"),
]
"""A prompt, the function that it needs, and what has to be among its values."""
FREE: Final = [
    "Hello! How are you?",
    "What is 2 + 3?",
    "Write a haiku about autumn.",
    "Explain in one sentence what recursion is.",
    "What is the capital of France?",
    "Name three primary colours.",
    "Write a Python function that adds two numbers.",
    "Give me an example of a JSON object with a name and an age.",
    "What does the acronym HTTP stand for?",
    "Thank you, that is all.",
]


# -- the routes ------------------------------------------------------------------------------------------------------


def ollama(daemon: Daemon, prompt: str, tools: list[Json]) -> Calls:
    """Ask by `/api/chat`."""
    body = {"model": MODEL, "messages": _turns(prompt), "tools": tools, "stream": False, "options": {"temperature": 0}}
    message = _posted(daemon, "/api/chat", body)["message"]
    return [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", ())]


def openai(daemon: Daemon, prompt: str, tools: list[Json]) -> Calls:
    """Ask by `/v1/chat/completions`."""
    body = {"model": MODEL, "messages": _turns(prompt), "tools": tools, "temperature": 0}
    (choice,) = _posted(daemon, "/v1/chat/completions", body)["choices"]
    made = choice["message"].get("tool_calls") or ()
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in made]


def responses(daemon: Daemon, prompt: str, tools: list[Json]) -> Calls:
    """Ask by `/v1/responses`."""
    flat = [{"type": "function", **each["function"]} for each in tools]
    body = {"model": MODEL, "instructions": SENTENCE, "input": prompt, "tools": flat, "temperature": 0}
    output = _posted(daemon, "/v1/responses", body)["output"]
    return [(item["name"], json.loads(item["arguments"])) for item in output if item["type"] == "function_call"]


def anthropic(daemon: Daemon, prompt: str, tools: list[Json]) -> Calls:
    """Ask by `/v1/messages`."""
    flat = [{**each["function"], "input_schema": each["function"]["parameters"]} for each in tools]
    body = {"model": MODEL, "system": SENTENCE, "messages": [{"role": "user", "content": prompt}], "tools": flat}
    content = _posted(daemon, "/v1/messages", {**body, "max_tokens": 300, "temperature": 0})["content"]
    return [(block["name"], block["input"]) for block in content if block["type"] == "tool_use"]


ROUTES: Final[dict[str, Callable[[Daemon, str, list[Json]], Calls]]] = {
    "`/api/chat`": ollama,
    "`/v1/chat/completions`": openai,
    "`/v1/responses`": responses,
    "`/v1/messages`": anthropic,
}


def _turns(prompt: str) -> list[Json]:
    return [{"role": "system", "content": SENTENCE}, {"role": "user", "content": prompt}]


def _posted(daemon: Daemon, path: str, body: Json) -> Any:
    answer = daemon.post(path, body)
    if answer.status_code != 200:
        raise SystemExit(f"{path}: {answer.status_code} {answer.text}")
    return answer.json()


# -- the tables ------------------------------------------------------------------------------------------------------


def started(folder: Path, *, recognise: bool) -> Daemon:
    """Start a daemon that has the model. It must be stopped."""
    settings = {"agents": {"recognise_calls": recognise}, "runners": {"context_length": 8192}}
    daemon = Daemon(folder, settings=settings).start()
    (folder / "Modelfile").write_text(f"FROM {gguf_file()}\n")
    done = daemon.cli("create", MODEL, "-f", "Modelfile", "--backend", "llamacpp", timeout=600)
    if done.returncode != 0:
        daemon.stop()
        raise SystemExit(done.stderr)
    return daemon


def weather(daemons: dict[bool, Daemon]) -> Table:
    """Ask the five questions through each route."""
    lines, figures = [["route", "recognised", "switched off"]], {}
    for route, ask in ROUTES.items():
        right = {}
        for recognise, daemon in daemons.items():
            made = [ask(daemon, prompt, TOOLS[:1]) for prompt in WEATHER]
            right[recognise] = sum(
                judged(calls, "get_weather", place) == "right" for calls, place in zip(made, PLACES, strict=True)
            )
        figures[route] = right
        lines.append([route, *(f"{right[recognise]} of {len(WEATHER)}" for recognise in (True, False))])
    return Table("Questions about the weather that were answered by the right call", lines, figures)


def varied(daemons: dict[bool, Daemon]) -> Table:
    """Ask the thirty prompts with all tools."""
    counts: dict[bool, Counter[str]] = {}
    notes = []
    for recognise, daemon in daemons.items():
        counts[recognise] = Counter()
        for prompt, name, value in [*NEEDED, *((prompt, "", "") for prompt in FREE)]:
            verdict = judged(openai(daemon, prompt, TOOLS), name, value)
            counts[recognise][verdict] += 1
            if verdict in ("missed", "wrong", "invented"):
                notes.append((recognise, verdict, prompt))
    lines = [["", "recognised", "switched off"]]
    kinds = {
        "right": f"calls right, of {len(NEEDED)}",
        "missed": "calls missed",
        "wrong": "calls of the wrong tool or with wrong values",
        "none": f"no call made, of {len(FREE)} where none is needed",
        "invented": "calls invented",
    }
    lines += [[label, *(str(counts[one][kind]) for one in (True, False))] for kind, label in kinds.items()]
    return Table("Thirty prompts with eight tools, by `/v1/chat/completions`", lines, notes)


def judged(calls: Calls, name: str, value: str) -> str:
    """Return right, missed, wrong or invented; `none` where no call was needed and none was made."""
    if not name:
        return "invented" if calls else "none"
    if not calls:
        return "missed"
    hit = any(made == name and value in json.dumps(arguments).lower() for made, arguments in calls)
    return "right" if hit else "wrong"


SCENARIOS: Final[dict[str, Callable[[dict[bool, Daemon]], Table]]] = {"weather": weather, "varied": varied}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"{', '.join(SCENARIOS)} (default: all)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables between their marks in this file")
    parser.add_argument("--json", action="store_true", help="print the figures as well")
    arguments = parser.parse_args()
    about = f"ollmlx {version('ollmlx')}, xllamacpp {version('xllamacpp')}"
    with tempfile.TemporaryDirectory(prefix="ollmlx-") as folder:
        daemons: dict[bool, Daemon] = {}
        try:
            for recognise in (True, False):
                daemons[recognise] = started(Path(folder) / str(recognise), recognise=recognise)
            for name in arguments.scenarios or SCENARIOS:
                table = SCENARIOS[name](daemons)
                if arguments.write:
                    write(arguments.write, f"tools.py {name}", table, about)
                print(f"{name}: {table.title}\n\n{table.markdown}\n")
                if arguments.json:
                    print(json.dumps(table.figures, indent=2, default=str))
        finally:
            for daemon in daemons.values():
                daemon.stop()


if __name__ == "__main__":
    main()
