"""Makes the pictures of docs/page.md: `python page/screenshots.py`, with Chromium and Playwright installed.

The models are fake ones, so that the pictures are the same each time.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect, sync_playwright

from ollmlx.testing.daemon import Daemon

IMAGES = Path(__file__).parents[1] / "docs" / "images"
VIEWS = ("chat", "models", "now", "connect")
WIDE, NARROW = {"width": 1200, "height": 760}, {"width": 390, "height": 760}
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


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    program = shutil.which("chromium")
    with (
        tempfile.TemporaryDirectory() as folder,
        Daemon(Path(folder), fakes=MODELS) as server,
        sync_playwright() as driver,
    ):
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            page = browser.new_context(color_scheme=scheme, viewport=WIDE).new_page()  # type: ignore[arg-type]
            page.goto(f"{server.url}/ui/")
            page.get_by_label("Model", exact=True).select_option(label="writer")
            page.get_by_label("Your message").fill("How do I compare two engines?")
            page.get_by_label("Your message").press("Enter")
            expect(page.locator(".hljs-keyword").first).to_be_visible(timeout=60_000)
            for view in VIEWS:
                picture(page, view, scheme)
            page.set_viewport_size(NARROW)  # type: ignore[arg-type]
            picture(page, "chat", f"phone-{scheme}")
            page.context.close()
        browser.close()


def picture(page: Page, view: str, suffix: str) -> None:
    page.get_by_role("navigation").get_by_role("link", name=view.title()).click()
    if view == "chat":
        page.get_by_role("link", name="How do I").or_(page.get_by_role("button", name="Chats")).first.click()
        if page.viewport_size == NARROW:
            page.get_by_role("link", name="How do I").click()
        expect(page.locator(".hljs-keyword").first).to_be_visible(timeout=60_000)
    else:
        expect(page.locator("main :is(.card, .recipe)").first).to_be_visible(timeout=60_000)
    page.screenshot(path=IMAGES / f"page-{view}-{suffix}.png")


if __name__ == "__main__":
    main()
