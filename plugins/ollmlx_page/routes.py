"""The family's Blueprint: the built files, each at its own path, with headers that bind the page to this server.

The files hold nothing secret and are served without an API key, because a browser sends none when a page is opened. The
page asks for the key and sends it with each request of its own.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from quart import Blueprint, Response, redirect, request
from werkzeug.wrappers import Response as Redirect

from ollmlx import Service
from ollmlx.web import STRING, declare_home, declare_public, describe

HOME = "/ui/"
FILES = Path(__file__).parent / "static"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""No other host is asked for anything, no text of a model becomes a script, and no other page shows this one."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # asked for again each time, and answered 304 until the daemon is upgraded
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """One built file, read once."""

    content: bytes
    content_type: str
    etag: str


def page_files(folder: Path) -> dict[str, PageFile]:
    """Return the built files by the paths at which they are served; `index.html` is the page itself."""
    found: dict[str, PageFile] = {}
    for file in sorted(path for path in folder.rglob("*") if path.suffix in TYPES):
        content = file.read_bytes()
        name = file.relative_to(folder).as_posix()
        etag = hashlib.sha256(content).hexdigest()[:32]
        found[HOME + ("" if name == "index.html" else name)] = PageFile(content, TYPES[file.suffix], etag)
    return found


def blueprint(service: Service) -> Blueprint:
    """Return the routes. The service is not used: the page calls the other families' routes."""
    made = Blueprint("page", __name__)
    files = page_files(FILES)
    declare_public(made, HOME.rstrip("/"), *files)
    declare_home(made, HOME)

    @made.get(HOME.rstrip("/"), strict_slashes=True)
    @describe("Lead to the page.", success=(308,))
    async def without_slash() -> Redirect:
        return redirect(HOME, 308)

    @made.get(HOME, defaults={"name": ""})
    @made.get(f"{HOME}<path:name>")
    @describe("The web page, and its files.", answer=STRING, content=tuple(TYPES.values()))
    async def file(name: str) -> Response:
        found = files.get(HOME + name)
        if found is None:
            return Response("404 page not found", status=404, content_type="text/plain", headers=HEADERS)
        response = Response(found.content, content_type=found.content_type, headers=HEADERS)
        response.set_etag(found.etag)
        return await response.make_conditional(request)

    return made
