"""The documentation site: built with warnings as errors, whole, and loading nothing from elsewhere."""

import html
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path

import pytest

import reelscribe
from reelscribe import Settings

ROOT = Path(__file__).parent.parent
ELSEWHERE = re.compile(r"\s*(?:https?:|wss?:)?//", re.IGNORECASE)
FROM_CSS = re.compile(r"""(?:url\(|@import)\s*["']?\s*((?:https?:)?//[^"')\s]+)""", re.IGNORECASE)
SCREENS = {"desktop": (1440, 900), "phone": (390, 844)}
"""Width and height, in pixels."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    options = ["--fail-on-warning", "--keep-going", "--quiet", "--doctree-dir", str(folder / "doctrees")]
    command = [sys.executable, "-m", "sphinx", *options, str(ROOT / "docs"), str(folder / "html")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "html"


class _Loaded(HTMLParser):
    """What a page has a browser load: all that tags name, but for what one has to click on."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take the addresses of a tag."""
        for name, value in attrs:
            if name in {"src", "srcset", "data", "poster"} or (name in {"href", "xlink:href"} and tag != "a"):
                self.addresses.append(value or "")
            if name == "style":
                self.addresses += FROM_CSS.findall(value or "")


def loaded_from_elsewhere(folder: Path) -> Iterator[tuple[str, str]]:
    """File of a site and address of another host that it loads from."""
    for file in sorted(folder.rglob("*")):
        if file.suffix not in {".html", ".css"}:
            continue
        text, parser = file.read_text("utf-8"), _Loaded()
        if file.suffix == ".html":
            parser.feed(text)
        styles = text if file.suffix == ".css" else " ".join(re.findall(r"<style.*?</style>", text, re.DOTALL))
        for address in [*parser.addresses, *FROM_CSS.findall(styles)]:
            if ELSEWHERE.match(address):
                yield str(file.relative_to(folder)), address


def test_nothing_comes_from_elsewhere(site: Path) -> None:
    assert len(list(site.rglob("*.html"))) > 15
    assert not list(loaded_from_elsewhere(site))


def test_what_comes_from_elsewhere_is_found(tmp_path: Path) -> None:
    page = """<a href="https://a.example">a</a> <img src="here.png"> <script src="//b.example/x.js"></script>
    <link href="https://c.example/y.css"> <style>@import "https://d.example/z.css";</style>
    <p style="background: url(//e.example/p.png)">"""
    (tmp_path / "page.html").write_text(page, "utf-8")
    (tmp_path / "site.css").write_text("@font-face { src: url('https://f.example/font') }", "utf-8")
    found = [address.split("//")[1][0] for _, address in loaded_from_elsewhere(tmp_path)]
    assert sorted(found) == ["b", "c", "d", "e", "f"]


def test_all_public_names_and_settings_are_there(site: Path) -> None:
    page = (site / "api.html").read_text("utf-8")
    missing = [name for name in reelscribe.__all__ if f'id="reelscribe.{name}"' not in page]
    text = " ".join(html.unescape(re.sub(r"<[^>]+>", "", page)).split())
    missing += [item.name for item in fields(Settings) if item.metadata["help"] not in text]
    assert not missing


def test_links_of_the_readme_lead_to_pages(site: Path) -> None:
    home = (site / "index.html").read_text("utf-8")
    body = home[home.index("<article") : home.index("</article>")]
    pages = set(re.findall(r'class="reference internal" href="(\w[^"#]*)', body))
    assert {"cli.html", "datasets.html", "architecture.html", "contributing.html"} <= pages
    assert all((site / page).is_file() for page in pages)


@pytest.mark.browser
@pytest.mark.parametrize("screen", SCREENS)
def test_every_page_fits_the_screen(site: Path, screen: str) -> None:
    from playwright.sync_api import sync_playwright

    width, height = SCREENS[screen]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": height})
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        for file in sorted(site.rglob("*.html")):
            page.goto(file.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width, file.name
        browser.close()
    assert asked
    assert not [url for url in asked if not url.startswith(("file:", "data:"))]
