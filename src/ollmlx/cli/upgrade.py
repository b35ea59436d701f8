"""`ollmlx upgrade`: tells whether there is a newer version, and the command that installs it. It installs nothing."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from urllib.parse import unquote

from packaging.version import InvalidVersion, Version

from ollmlx import __version__
from ollmlx.cli.terminal import say
from ollmlx.errors import NotFound, UpstreamError

DESCRIPTION = """Ask the package index for a newer version, and tell the command that installs it in the way in which
this one was installed: pip, uv, pipx or brew. Nothing is installed.

Exit status: 0 the newest version is installed, 1 there is a newer one, or the index does not tell."""
INDEX = "https://pypi.org/simple"
INDEX_VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")
SIMPLE = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"
PATIENCE = 15.0
_FILE = re.compile(r"ollmlx-([^-/]+?)(?:-[^/]*\.whl|\.tar\.gz)")
_LINK = re.compile(r"<a\b([^>]*)>\s*([^<]+?)\s*</a>", re.IGNORECASE)


def add_upgrade_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_upgrade(args: argparse.Namespace) -> int:
    index = next((os.environ[name] for name in INDEX_VARIABLES if os.environ.get(name)), INDEX)
    newest = newest_version(index, __version__)
    command = upgrade_command(distribution("ollmlx"), Path(sys.prefix), sys.executable)
    newer = Version(newest) > Version(__version__)
    if args.json:
        say(json.dumps({"installed": __version__, "newest": newest, "newer": newer, "command": command}))
    elif newer:
        say(f"ollmlx {newest} is available, {__version__} is installed:\n  {command}")
        say("Then let running answers finish and start it: ollmlx service restart")
    else:
        say(f"ollmlx {__version__} is the newest version")
    return int(newer)


def newest_version(index: str, installed: str, fetch: Callable[[str], tuple[str, str]] | None = None) -> str:
    """Return the newest version that is not withdrawn; a pre-release only for an installed one.

    fetch: returns the content type and the body of a page. Raises NotFound, UpstreamError.
    """
    kind, page = (fetch or _fetched)(f"{index.rstrip('/')}/ollmlx/")
    found = [version for name in _files(kind, page) if (version := _version(name)) is not None]
    wanted = [one for one in found if not one.is_prerelease or Version(installed).is_prerelease]
    if not wanted:
        raise NotFound("the package index has no version of ollmlx")
    return str(max(wanted))


def upgrade_command(installed: Distribution, prefix: Path, python: str) -> str:
    """Return the command that upgrades this installation, told from the files that installers leave."""
    origin = json.loads(installed.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        folder = unquote(str(origin.get("url", "")).removeprefix("file://"))
        return f"git -C {folder} pull"
    if "Cellar" in prefix.parts:
        return "brew upgrade ollmlx"
    if (prefix / "uv-receipt.toml").is_file():
        return "uv tool upgrade ollmlx"
    if (prefix / "pipx_metadata.json").is_file():
        return "pipx upgrade ollmlx"
    if (installed.read_text("INSTALLER") or "").strip() == "uv":
        return f"uv pip install --python {python} --upgrade ollmlx"
    return f"{python} -m pip install --upgrade ollmlx"


def _files(kind: str, page: str) -> Iterator[str]:
    """Yield the names of the files of a page of the index that are not withdrawn."""
    if "json" in kind:
        yield from (file["filename"] for file in json.loads(page)["files"] if not file.get("yanked"))
    else:
        yield from (name for attributes, name in _LINK.findall(page) if "data-yanked" not in attributes)


def _version(file: str) -> Version | None:
    match = _FILE.fullmatch(file)
    try:
        return Version(match[1]) if match else None
    except InvalidVersion:
        return None


def _fetched(url: str) -> tuple[str, str]:
    import httpx2  # imported when used: it costs start-up time

    try:
        answer = httpx2.get(url, headers={"accept": SIMPLE}, timeout=PATIENCE, follow_redirects=True)
    except httpx2.HTTPError as error:
        raise UpstreamError(f"the package index does not answer: {error}", hint="ollmlx doctor network") from error
    if answer.status_code == 404:
        raise NotFound("the package index does not know ollmlx")
    if answer.status_code != 200:
        raise UpstreamError(f"the package index answers with status {answer.status_code}")
    return answer.headers.get("content-type", ""), answer.text
