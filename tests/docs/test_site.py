"""The documentation as a site: each page has its place, and nothing that a page shows is missing or on another host."""

from __future__ import annotations

import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from release.site import ROOT, build_site

LOADED = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src"}


class Addresses(HTMLParser):
    """Finds what a browser loads for a page, and the pages to which it links."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if (name := LOADED.get(tag)) and (value := found.get(name)):
            self.loaded.append(value)
        if tag == "a" and (value := found.get("href")):
            self.linked.append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("zensical", reason="the site is built with zensical: pip install 'ollmlx[docs]'")
    return build_site(tmp_path_factory.mktemp("docs"))


def test_nothing_that_a_page_shows_or_links_is_missing_and_no_other_host_is_asked(site: Path) -> None:
    missing, foreign = [], []
    for page in site.rglob("*.html"):
        if page.name == "404.html":  # its addresses are those of the root of a server
            continue
        addresses = Addresses(page)
        foreign += [address for address in addresses.loaded if urlsplit(address).netloc]
        for address in (*addresses.loaded, *addresses.linked):
            parts = urlsplit(address)
            if (
                not (parts.scheme or parts.netloc or not parts.path)
                and not (page.parent / unquote(parts.path)).exists()
            ):
                missing.append(f"{page.relative_to(site)}: {address}")
    assert (missing, foreign) == ([], [])


def test_each_page_of_docs_is_in_the_navigation(site: Path) -> None:
    shown = {(site / unquote(urlsplit(link).path)).resolve() for link in Addresses(site / "index.html").linked}
    pages = {site / "docs" / f"{page.stem}.html" for page in (ROOT / "docs").glob("*.md")}
    assert sorted(pages - shown) == []
    assert {site / "plugins/index.html", site / "diagnostics/index.html"} <= shown


def test_a_link_that_leads_nowhere_fails(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, text in {"docs/a.md": "[here](b.md#there) [nowhere](c.md)", "docs/b.md": "# b"}.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(text)
    (tmp_path / "root/docs/zensical.toml").write_text('[project]\nsite_name = "x"\ndocs_dir = "pages"\n')
    monkeypatch.setattr("release.site.ROOT", tmp_path / "root")
    with pytest.raises(subprocess.CalledProcessError):
        build_site(tmp_path / "built")
    said = "".join(capfd.readouterr())
    assert "page does not exist" in said
    assert "anchor does not exist" in said
