"""Downloads: resumed, bounded and checked; credentials are sent to one host only."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.servers.serving import Answer, Asked, Served, no_wait, part

from ollmlx.errors import Forbidden, NotFound, OllmlxError, Unauthorized, UpstreamError
from ollmlx.storekit import Download, fetch_file, redirected
from ollmlx.storekit.download import MAX_REPORTS, PARTIAL

DATA = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(DATA).hexdigest()


class Host:
    """A server of one file. A test may replace its next answers."""

    def __init__(self) -> None:
        self.answers: list[Answer | Callable[[Asked], Answer]] = []
        self.served = Served(self._answer)

    def _answer(self, asked: Asked) -> Answer:
        answer = self.answers.pop(0) if self.answers else part(DATA, asked, {})
        return answer if isinstance(answer, Answer) else answer(asked)

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
    async with httpx2.AsyncClient(timeout=60) as found:
        yield found


Fetch = Callable[..., Any]


@pytest.fixture
def fetch(host: Host, client: httpx2.AsyncClient, tmp_path: Path) -> Fetch:
    """Downloads the host's file, and returns the reported sizes."""

    async def run(**fields: Any) -> list[int]:
        options = {"size": len(DATA), "sha256": SHA256, "sleep": no_wait, **fields}
        download = Download(client, f"{host.served.url}/file", tmp_path / "file", **options)
        return [completed async for completed in download.run()]

    return run


async def test_a_file_arrives_whole_and_its_progress_is_reported(host: Host, fetch: Fetch, tmp_path: Path) -> None:
    sizes = await fetch()
    assert [asked.headers["accept-encoding"] for asked in host.served.asked] == ["identity"]
    assert (tmp_path / "file").read_bytes() == DATA
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (0, len(DATA))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    (tmp_path / "file").unlink()
    await fetch(size=None, sha256=None)
    assert (tmp_path / "file").read_bytes() == DATA, "the size may be unknown"


WRONG_RANGE = Answer(206, DATA[:10], {"Content-Range": f"bytes 0-9/{len(DATA)}"})


@pytest.mark.parametrize(
    ("partial", "answers", "ranges"),
    [
        (DATA[:1000], [], ["bytes=1000-"]),
        (DATA, [], []),
        (DATA + b"x", [], [None]),
        (DATA[:1000], [WRONG_RANGE], ["bytes=1000-", None]),
        (DATA[:1000], [Answer(416)], ["bytes=1000-", None]),
        (DATA[:1000], [Answer(200, DATA)], ["bytes=1000-"]),
        (DATA[:1000], [Answer(503), Answer(429)], ["bytes=1000-"] * 3),
    ],
    ids=["resumed", "complete", "too long", "a wrong range", "a refused range", "an ignored range", "a busy server"],
)
async def test_a_partial_file_is_resumed_or_replaced(
    host: Host, fetch: Fetch, tmp_path: Path, partial: bytes, answers: list[Answer], ranges: list[str | None]
) -> None:
    (tmp_path / f"file{PARTIAL}").write_bytes(partial)
    host.answers = list(answers)
    await fetch()
    assert host.ranges == ranges
    assert (tmp_path / "file").read_bytes() == DATA


@pytest.mark.parametrize(
    ("answers", "problem", "requests"),
    [
        ([Answer(200, DATA[:-1] + b"?")], "checksum mismatch", 1),
        ([Answer(200, DATA + b"more")], "longer than", 1),
        ([Answer(302, b"", {"Location": "/again"})] * 20, "more than 10 redirects", 10),
        ([Answer(503)] * 9, "answered 503", 3),
    ],
    ids=["a wrong checksum", "more than was announced", "redirects without end", "no progress"],
)
async def test_a_download_that_fails_leaves_no_file_and_no_part_with_a_wrong_checksum(
    host: Host, fetch: Fetch, tmp_path: Path, answers: list[Answer], problem: str, requests: int
) -> None:
    host.answers = list(answers)
    with pytest.raises(UpstreamError, match=problem):
        await fetch(attempts=3)
    left = [path.name for path in tmp_path.iterdir()]
    assert left == ([] if problem == "checksum mismatch" else [f"file{PARTIAL}"])
    assert len(host.ranges) == requests


async def test_progress_resets_the_count_of_failures(host: Host, fetch: Fetch) -> None:
    host.answers = [Answer(200, DATA, cut=5000)] + [
        lambda asked: Answer(**{**vars(part(DATA, asked, {})), "cut": 5000})
    ] * 6
    await fetch(attempts=3)
    assert len(host.ranges) == 8


@pytest.mark.parametrize(
    ("status", "kind"), [(401, Unauthorized), (403, Forbidden), (404, NotFound), (410, UpstreamError)]
)
async def test_a_refusal_is_not_tried_again(host: Host, fetch: Fetch, status: int, kind: type[OllmlxError]) -> None:
    host.answers = [Answer(status)]
    with pytest.raises(kind, match=f"answered {status}"):
        await fetch()
    assert len(host.ranges) == 1


@pytest.mark.fault(29)
def test_credentials_are_not_sent_to_another_host() -> None:
    headers = {"Authorization": "Bearer x", "Cookie": "a", "Range": "bytes=1-"}
    assert redirected("https://hub.example/a", "https://hub.example/b", headers) == headers
    for location in ("https://cdn.example/a", "https://hub.example:8443/a", "https://hub.example.evil/a"):
        assert redirected("https://hub.example/a", location, headers) == {"Range": "bytes=1-"}


@pytest.mark.fault(29)
@pytest.mark.parametrize("location", ["file:///etc/passwd", "http://hub.example/a", "ftp://hub.example/a", "/"])
def test_a_redirect_to_a_less_secure_address_is_refused(location: str) -> None:
    with pytest.raises(UpstreamError, match="refused a redirect"):
        redirected("https://hub.example/a", location, {})


async def test_progress_is_reported_at_most_a_few_hundred_times(
    host: Host, client: httpx2.AsyncClient, tmp_path: Path
) -> None:
    download = Download(client, f"{host.served.url}/file", tmp_path / "file", size=len(DATA), sha256=SHA256)
    steps = [step async for step in fetch_file(download, f"sha256:{SHA256}", len(DATA), "org/name")]
    assert (steps[0].completed, steps[-1].completed) == (0, len(DATA))
    assert {step.status for step in steps} == {f"pulling {SHA256[:12]}"}
    assert len(steps) <= MAX_REPORTS + 1


async def test_a_listed_file_that_is_refused_is_the_fault_of_the_server(
    host: Host, client: httpx2.AsyncClient, tmp_path: Path
) -> None:
    host.answers = [Answer(404)]
    download = Download(client, f"{host.served.url}/file", tmp_path / "file", sleep=no_wait)
    with pytest.raises(UpstreamError, match=r"org/name: .*answered 404") as caught:
        _ = [step async for step in fetch_file(download, "sha256:0", 1, "org/name")]
    assert caught.value.code == "NET005"
