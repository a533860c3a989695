"""Takes the picture of a report for the README: `python tools/picture.py`.

Renders the demo's clips, captions them with the built-in model, makes the page, and photographs it in Chromium.
"""

import io
import shutil
import tempfile
from pathlib import Path
from typing import Final

from PIL import Image
from playwright.sync_api import sync_playwright

from reelscribe import Settings, run
from reelscribe.cli import main as reelscribe
from reelscribe.demo import prepare

PICTURE: Final = Path(__file__).parent.parent / "docs" / "_static" / "report.png"
WIDTH: Final = 1280
"""Of the window, in pixels."""
HEIGHT: Final = 1000
COLOURS: Final = 128
"""A picture with a palette is a third of the size, and text stays sharp, as it does not in JPEG."""


def take(folder: Path) -> bytes:
    """A screenshot of the demo's report, as PNG; files are written to a folder."""
    data, _ = prepare(folder)
    output = folder / "captions.jsonl"
    settings = Settings(model="shapes", num_captions=4, sampling={"temperature": 0.8})
    run([data], output, settings)
    reelscribe(["report", str(output)], standalone_mode=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto((folder / "captions.report.html").as_uri())
        picture = page.screenshot()
        browser.close()
    return picture


def main() -> None:
    """Write the picture."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Image.open(io.BytesIO(take(Path(folder)))).convert("RGB")
    picture.quantize(COLOURS).save(PICTURE, optimize=True)
    print(PICTURE, PICTURE.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
