"""How soon the pages of many clips open and search, in Chromium, and how large the file is that `report` writes.

    PYTHONPATH=src python benchmarks/page.py --clips 5000

Captions have some 60 words each and another candidate; the videos are a few rendered ones, over and over, with 12
frames.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, save_result, workspace
from playwright.sync_api import Page, sync_playwright

from reelscribe.demo import write_clip
from reelscribe.models.shapes.scenes import random_scene

_VIDEOS, _SECONDS, _FRAMES = 40, 2, 12
_SEARCH = """text => new Promise(done => {
  const began = performance.now();
  const search = document.getElementById("search");
  search.value = text;
  search.dispatchEvent(new Event("input"));
  const channel = new MessageChannel();
  channel.port1.onmessage = () => done(performance.now() - began);
  requestAnimationFrame(() => channel.port2.postMessage(0));
})"""
"""Milliseconds until what was found is drawn."""


def write_output(folder: Path, rows: int) -> Path:
    """Write what a run might have written."""
    draw = np.random.default_rng(0)
    for number in range(_VIDEOS):
        scene = random_scene(np.random.default_rng(number))
        write_clip(folder / f"{number:03d}.mp4", scene, width=320, height=180, fps=8, seconds=_SECONDS)
    syllables = [first + second for first in "bdfgklmnprstvz" for second in "aeiou"]
    words = ["".join(draw.choice(syllables, draw.integers(1, 5))) for _ in range(5_000)]
    meta = {
        "model": "m",
        "engine": "e",
        "prompt": "Describe the video in 1-2 sentences.",
        "sampling": '{"temperature": 1.0}',
        "frame_timestamps": [round(place * _SECONDS / _FRAMES * 8) / 8 for place in range(_FRAMES)],
        "kept": [0],
        "completion_tokens": [80, 80],
        "stop_reasons": ["stop", "stop"],
    }
    output = folder / "captions.jsonl"
    with output.open("w") as opened:
        for row in range(rows):
            texts = [" ".join(draw.choice(words, draw.integers(30, 90))) for _ in range(2)]
            flags = "cut_off" if row % 50 == 0 else ""
            video = {"video": f"{row % _VIDEOS:03d}.mp4", "caption": texts[0], "caption_candidates": texts}
            opened.write(json.dumps(video | {"caption_meta": meta | {"flags": flags}, "caption_failure": ""}) + "\n")
    return output


def look(page: Page, address: str) -> dict[str, float]:
    """Open a page and search in it."""
    began = time.monotonic()
    page.goto(address, wait_until="commit")
    page.locator("#count", has_text="clips").wait_for()
    page.locator("article .caption").first.wait_for()
    opened = time.monotonic() - began
    while "so far" in page.inner_text("#count"):
        time.sleep(0.05)
    whole = time.monotonic() - began
    searches = [page.evaluate(_SEARCH, text) for text in ("b", "ba", "bado", "nowhere", "", "002.mp4", "")]
    return {
        "open_seconds": round(opened, 2),
        "all_clips_seconds": round(whole, 2),
        "search_seconds": round(max(searches) / 1000, 3),
    }


def measure(page: Page, clips: int) -> dict[str, Any]:
    """Both pages."""
    with workspace() as folder:
        output = write_output(folder, clips)
        command = [sys.executable, "-m", "reelscribe.cli", "view", str(output), "--clips", str(clips)]
        began = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            try:
                address = server.stdout.readline().strip()
                start = time.monotonic() - began
                view = look(page, address)
                page.goto("about:blank")
            finally:
                server.send_signal(signal.SIGINT)
        file = folder / "report.html"
        began = time.monotonic()
        command = [
            sys.executable,
            "-m",
            "reelscribe.cli",
            "report",
            str(output),
            "-o",
            str(file),
            "--clips",
            str(clips),
        ]
        subprocess.run(command, check=True)
        write = time.monotonic() - began
        report = look(page, file.as_uri())
        return {
            "view": {"start_seconds": round(start, 1), **view},
            "report": {"write_seconds": round(write, 1), "bytes": file.stat().st_size, **report},
        }


def main() -> None:
    """Measure."""
    given = arguments(__doc__, clips=5000)
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=options)
        result = measure(browser.new_page(), given.clips)
        browser.close()
    save_result("page", {"settings": {"clips": given.clips, "frames": _FRAMES}, **result})


if __name__ == "__main__":
    main()
