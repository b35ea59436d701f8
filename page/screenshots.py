"""Makes the pictures of docs/page.md: `python page/screenshots.py`, with Chromium and Playwright installed.

The models are fake ones, so that the pictures are the same each time.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import httpx2
from playwright.sync_api import Browser, Page, expect, sync_playwright

from ollmlx.testing.daemon import Daemon

IMAGES = Path(__file__).parents[1] / "docs" / "images"
HEIGHTS = {"chat": 760, "models": 760, "now": 1080, "doctor": 900, "settings": 900, "connect": 760}
WIDE, NARROW = 1200, 390
FAULTS = {"OLLAMA_NUM_CTX": "8192", "OLLAMA_MAX_LOADED_MODEL": "2"}
"""Variables that people believe in: findings for the picture of the doctor."""
LONG = {"model": "parrot", "prompt": "fake:tokens=100000 fake:rate=40 go"}
ANSWER = """Start small: **measure first**, then change one thing at a time.

| step | look at | runs |
|---|---|---:|
| warm up | nothing: the first run also loads | 1 |
| measure | median and spread | 10 |

```python
def speed(tokens: int, seconds: float) -> float:
    # a mean hides pauses: look at single steps, too
    return tokens / seconds
```

The spread of $n$ runs is $s = \\sqrt{\\frac{1}{n-1}\\sum_i (x_i - \\bar x)^2}$.
"""
MODELS: dict[str, dict[str, Any]] = {
    "writer": {"say": ANSWER, "rate": 60, "think": "They want to know how to compare engines."},
    "parrot": {},
    "thinker": {"think": "let me see"},
}

KEY = {"Authorization": "Bearer a-key-for-pictures"}
SETTINGS = {"server": {"host": "127.0.0.1:11434"}, "security": {"keys": {"anna": {"key": "a-key-for-pictures"}}}}


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    folder = Path(tempfile.gettempdir()) / "ollmlx-pictures"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "models").mkdir(parents=True)
    with (
        Daemon(folder, fakes=MODELS, env=FAULTS, settings=SETTINGS) as server,
        httpx2.stream("POST", f"{server.url}/api/generate", json=LONG, timeout=None, headers=KEY) as answer,
        sync_playwright() as driver,
    ):
        assert answer.status_code == 200
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            take(browser, server.url, scheme)
        browser.close()
    shutil.rmtree(folder)


def take(browser: Browser, url: str, scheme: str) -> None:
    page = browser.new_context(color_scheme=scheme, viewport={"width": WIDE, "height": 760}).new_page()  # type: ignore[arg-type]
    page.goto(f"{url}/ui/")
    page.get_by_label("API key").fill(KEY["Authorization"].removeprefix("Bearer "))
    page.get_by_role("button", name="Use this key").click()
    page.get_by_label("Model", exact=True).select_option(label="writer")
    page.get_by_label("Your message").fill("How do I compare two engines?")
    page.get_by_label("Your message").press("Enter")
    expect(page.locator(".hljs-keyword").first).to_be_visible(timeout=60_000)
    for view, height in HEIGHTS.items():
        page.set_viewport_size({"width": WIDE, "height": height})
        picture(page, view, scheme)
    page.set_viewport_size({"width": NARROW, "height": 760})
    for view in ("chat", "now"):
        picture(page, view, f"phone-{scheme}")
    page.context.close()


def picture(page: Page, view: str, suffix: str) -> None:
    page.get_by_role("navigation").get_by_role("link", name=view.title()).click()
    if view == "chat":
        page.get_by_role("link", name="How do I").or_(page.get_by_role("button", name="Chats")).first.click()
        if "phone" in suffix:
            page.get_by_role("link", name="How do I").click()
        expect(page.locator(".hljs-keyword").first).to_be_visible(timeout=60_000)
    elif view == "doctor":
        page.get_by_role("button", name="Run").click()
        expect(page.locator(".findings").first).to_be_visible(timeout=60_000)
    else:
        expect(page.locator("main :is(.card, .recipe, .table-box)").first).to_be_visible(timeout=60_000)
    if view == "now":
        told = page.get_by_role("img", name=re.compile("first token in the last hour: now"))
        expect(told).to_be_visible(timeout=60_000)
        page.wait_for_timeout(40_000 if suffix == "light" else 3_000)  # for a line of several samples
    page.screenshot(path=IMAGES / f"page-{view}-{suffix}.png")


if __name__ == "__main__":
    main()
