"""One file over HTTP: resumed, bounded, checked; credentials stay with their host."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.servers.serving import Answer, Asked, Served, part

from ollmlx.errors import Forbidden, NotFound, OllmlxError, Unauthorized, UpstreamError
from ollmlx.storekit import Download, redirected, storage_error
from ollmlx.storekit.download import PARTIAL

DATA = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(DATA).hexdigest()
ELSEWHERE = {"url": "https://hub.example/a", "location": "https://cdn.example/a"}


async def no_wait(seconds: float) -> None:
    """Retries need no pause here."""


class Host:
    """A server for one file, whose answers a test may replace, one for each request."""

    def __init__(self) -> None:
        self.answers: list[Callable[[Asked], Answer]] = []
        self.served = Served(self._answer)

    def _answer(self, asked: Asked) -> Answer:
        return self.answers.pop(0)(asked) if self.answers else part(DATA, asked, {})

    @property
    def ranges(self) -> list[str | None]:
        return [asked.headers.get("range") for asked in self.served.asked]


@pytest.fixture
def host(no_leaked_descriptors: None) -> Iterator[Host]:
    found = Host()
    yield found
    found.served.close()


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(timeout=10) as found:
        yield found


Fetch = Callable[..., Any]


@pytest.fixture
def fetch(host: Host, client: httpx2.AsyncClient, tmp_path: Path) -> Fetch:
    """Downloads the host's file; returns the sizes that were reported."""

    async def run(**fields: Any) -> list[int]:
        options = {"size": len(DATA), "sha256": SHA256, "sleep": no_wait, **fields}
        download = Download(client, f"{host.served.url}/file", tmp_path / "file", **options)
        return [completed async for completed in download.run()]

    return run


async def test_a_file_arrives_whole_and_its_growth_is_told(fetch: Fetch, tmp_path: Path) -> None:
    sizes = await fetch()
    assert (tmp_path / "file").read_bytes() == DATA
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (0, len(DATA))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


async def test_a_file_of_unknown_size_arrives_too(fetch: Fetch, tmp_path: Path) -> None:
    await fetch(size=None, sha256=None)
    assert (tmp_path / "file").read_bytes() == DATA


async def test_an_earlier_part_is_continued(host: Host, fetch: Fetch, tmp_path: Path) -> None:
    (tmp_path / f"file{PARTIAL}").write_bytes(DATA[:1000])
    await fetch()
    assert host.ranges == ["bytes=1000-"]
    assert (tmp_path / "file").read_bytes() == DATA


async def test_a_part_that_is_whole_already_asks_for_nothing(host: Host, fetch: Fetch, tmp_path: Path) -> None:
    (tmp_path / f"file{PARTIAL}").write_bytes(DATA)
    await fetch()
    assert host.ranges == []
    assert (tmp_path / "file").read_bytes() == DATA


async def test_a_part_that_is_too_long_is_thrown_away(host: Host, fetch: Fetch, tmp_path: Path) -> None:
    (tmp_path / f"file{PARTIAL}").write_bytes(DATA + b"x")
    await fetch()
    assert host.ranges == [None]


async def test_a_range_that_was_not_asked_for_is_not_believed(host: Host, fetch: Fetch, tmp_path: Path) -> None:
    (tmp_path / f"file{PARTIAL}").write_bytes(DATA[:1000])
    host.answers = [lambda asked: Answer(206, DATA[:10], {"Content-Range": f"bytes 0-9/{len(DATA)}"})]
    await fetch()
    assert host.ranges == ["bytes=1000-", None]
    assert (tmp_path / "file").read_bytes() == DATA


async def test_a_refused_range_starts_over(host: Host, fetch: Fetch, tmp_path: Path) -> None:
    (tmp_path / f"file{PARTIAL}").write_bytes(DATA[:1000])
    host.answers = [lambda asked: Answer(416)]
    await fetch()
    assert host.ranges == ["bytes=1000-", None]


async def test_more_than_was_announced_is_refused(host: Host, fetch: Fetch, tmp_path: Path) -> None:
    host.answers = [lambda asked: Answer(200, DATA + b"more")]
    with pytest.raises(UpstreamError, match="longer than"):
        await fetch()
    assert not (tmp_path / "file").exists()


async def test_progress_between_failures_starts_the_count_again(host: Host, fetch: Fetch) -> None:
    host.answers = [lambda asked: Answer(200, DATA, cut=5000)] + [
        lambda asked: Answer(**{**vars(part(DATA, asked, {})), "cut": 5000})
    ] * 6
    await fetch(attempts=3)
    assert len(host.ranges) == 8


async def test_a_host_that_only_fails_is_given_up(host: Host, fetch: Fetch) -> None:
    host.answers = [lambda asked: Answer(503)] * 9
    with pytest.raises(UpstreamError, match="answered 503"):
        await fetch(attempts=3)
    assert len(host.ranges) == 3


@pytest.mark.parametrize(
    ("status", "kind"), [(401, Unauthorized), (403, Forbidden), (404, NotFound), (410, UpstreamError)]
)
async def test_a_refusal_is_told_at_once(host: Host, fetch: Fetch, status: int, kind: type[OllmlxError]) -> None:
    host.answers = [lambda asked: Answer(status)]
    with pytest.raises(kind, match=f"answered {status}"):
        await fetch()
    assert len(host.ranges) == 1


async def test_redirects_do_not_go_in_circles(host: Host, fetch: Fetch) -> None:
    host.answers = [lambda asked: Answer(302, b"", {"Location": "/again"})] * 20
    with pytest.raises(UpstreamError, match="more than 10 redirects"):
        await fetch()


@pytest.mark.fault(29)
def test_credentials_do_not_leave_their_host() -> None:
    headers = {"Authorization": "Bearer x", "Cookie": "a", "Range": "bytes=1-"}
    assert redirected("https://hub.example/a", "https://hub.example/b", headers) == headers
    for location in ("https://cdn.example/a", "https://hub.example:8443/a", "https://hub.example.evil/a"):
        assert redirected("https://hub.example/a", location, headers) == {"Range": "bytes=1-"}


@pytest.mark.fault(29)
@pytest.mark.parametrize("location", ["file:///etc/passwd", "http://hub.example/a", "ftp://hub.example/a", "/"])
def test_a_redirect_to_something_weaker_is_refused(location: str) -> None:
    with pytest.raises(UpstreamError, match="refused a redirect"):
        redirected("https://hub.example/a", location, {})


def test_another_host_is_refused_where_none_is_expected() -> None:
    with pytest.raises(UpstreamError, match="another host"):
        redirected(headers={}, allowed=False, **ELSEWHERE)


@pytest.mark.fault(27)
@pytest.mark.finding("STO003", "STO004")
@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(errno.ENOSPC, "STO003", "full"), (errno.EACCES, "STO004", "denied"), (errno.EIO, "STO004", "error")],
)
def test_what_the_file_system_refuses_is_explained(number: int, code: str, word: str) -> None:
    import os

    found = storage_error(OSError(number, os.strerror(number)), "cannot write")
    assert found.code == code
    assert word in found.message
