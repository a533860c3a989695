"""A small captioned data set with everything that a report shows, and a browser to look at it with."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from flow import ScriptedEngine, put_rows, said

from reelscribe.config import Settings
from reelscribe.demo import write_clip
from reelscribe.models.shapes.scenes import random_scene
from reelscribe.report.write import write_report
from reelscribe.runners.local import run
from reelscribe.values import Candidate, Row, Work

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

EVIL = """<script>document.title = 'taken'</script><img src=x onerror=document.title='taken'> & "quoted" \\ </p>"""
CANDIDATES: dict[str, tuple[str, ...]] = {
    "sea.mp4": (
        "A person walks along the beach at sunset while waves roll onto the sand.",
        "A woman walks along a rocky beach at sunset, and waves roll in.",
        "A person walks along the beach at sunset while waves roll onto the sand.",
    ),
    "dog.mp4": ("The video shows a dog.", "The video shows a dog that runs.", "The video shows a brown dog."),
    "cut.mp4": ("The video shows a cook who cuts onions, and...",) * 3,
    "loop.mp4": (" ".join(["round and round it goes"] * 4),) * 3,
    "evil.mp4": ("</script><script>document.title = 'taken'</script>", EVIL, EVIL),
    "same.mp4": ("The video shows a dog.", "Ein Hund läuft.", "一只狗在跑。"),
}
ROWS: list[Row] = [
    *({"video": name, "text": f"stock footage of {name}"} for name in CANDIDATES),
    {"video": "gone.mp4", "text": "nobody knows"},
    {"video": "broken.mp4", "text": "<b>bold</b>"},
    {"text": "no video"},
]


def answer(asked: Work) -> tuple[Candidate, ...]:
    """The candidates for a clip."""
    return said(*CANDIDATES[asked.clip.path.name])


def put_videos(folder: Path, names: list[str] | tuple[str, ...] = tuple(CANDIDATES)) -> None:
    """Render a video for each name, and one that is none."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        scene = random_scene(np.random.default_rng(number))
        write_clip(folder / name, scene, width=96, height=64, fps=8, seconds=1 + number)
    (folder / "broken.mp4").write_text("no video")


def captioned(folder: Path, name: str = "out.jsonl", rows: list[Row] | None = None, **changes: Any) -> Path:
    """Caption rows in `folder/in`, and write `folder/name`."""
    put_videos(folder / "in")
    data = put_rows(folder / "in" / "rows.jsonl", ROWS if rows is None else rows)
    told: dict[str, Any] = {"num_captions": 3, "seed": 1, "decoders": 0}
    run([data], folder / name, Settings(**told | changes), engine=ScriptedEngine(answer))
    return folder / name


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The captioned data set, which tests leave as it is."""
    return captioned(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def report(data: Path) -> Path:
    """A report about it, in a folder of its own."""
    return write_report(data, data.parent / "reports" / "report.html").file


# The browser


@pytest.fixture(scope="package")  # its driver keeps an event loop running in this thread, which others may not expect
def browser() -> Iterator["Browser"]:
    """Chromium."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    with sync_playwright() as playwright:
        # As root, as on a CI machine, Chromium has no sandbox.
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        opened = playwright.chromium.launch(executable_path=path, args=options)
        yield opened
        opened.close()


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A page, and what went wrong in it."""

    page: "Page"
    troubles: list[str]
    requests: list[str]


@pytest.fixture
def look(browser: "Browser") -> Iterator[Callable[..., Opened]]:
    """Opens a page; `look(address, color_scheme="dark", viewport={...})`. What it complains of fails the test."""
    opened: list[Opened] = []

    def open_page(address: str, **options: Any) -> Opened:
        page = browser.new_page(**options)
        item = Opened(page=page, troubles=[], requests=[])
        page.on("pageerror", lambda error: item.troubles.append(str(error)))
        page.on("console", lambda message: item.troubles.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: item.requests.append(request.url))
        page.goto(address)
        opened.append(item)
        return item

    yield open_page
    for item in opened:
        item.page.close()
        assert item.troubles == []


def unfold(page: "Page") -> None:
    """Have all of a page shown, also what is folded up or far below."""
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    page.evaluate("document.querySelectorAll('.part').forEach(one => { one.hidden = false })")
    page.evaluate(
        "document.querySelectorAll('.clips > li').forEach(one => { one.style.contentVisibility = 'visible' })"
    )


def violations(page: "Page") -> list[tuple[str, str, list[str]]]:
    """What axe finds: the rule, how bad it is, and where."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [(item["id"], item["impact"], [node["html"] for node in item["nodes"]]) for item in found]
