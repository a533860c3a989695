"""What tests of corrections share: an output without a run, and what a page does to it."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flow import put_rows

from reelscribe.report.editor import Editor
from reelscribe.report.entries import CaptionedData, Entry
from reelscribe.values import Row


def row(video: Any, *texts: str, **meta: Any) -> Row:
    """A captioned row; the first text was kept."""
    told = {"model": "m", "prompt": "What?", "kept": [0], "flags": "", "clip_flags": "", **meta}
    return {"video": video, "caption": texts[0], "caption_candidates": list(texts), "caption_meta": told}


@contextmanager
def served(output: Path) -> Iterator[str]:
    """The address of a page about an output, as the command serves it."""
    command = [sys.executable, "-m", "reelscribe.cli", "view", str(output)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.send_signal(signal.SIGINT)


def failed(video: str) -> Row:
    """A row that failed."""
    return {"video": video, "caption": None, "caption_failure": "missing: it is gone", "caption_meta": None}


def put_output(folder: Path) -> Path:
    """An output of four rows: two of one video, one that failed."""
    rows = [
        row("a.mp4", "A man walks a dog.", "A man and a dog."),
        row("a.mp4", "A man walks a dog.", "A man and a dog."),
        row("b.mp4", "The MAN sits on a mantelpiece.", flags="cut_off thinned", clip_flags="thinned"),
        failed("c.mp4"),
    ]
    return put_rows(folder / "out.jsonl", rows)


class Desk:
    """A page that is open on an output."""

    def __init__(self, output: Path) -> None:
        data = CaptionedData(output, corrected=False)
        self.entries = {f"{item.row}-{item.slot}": item for item in data.entries() if isinstance(item, Entry)}
        self.editor = Editor(data, self.entries)

    def do(self, name: str = "0-0", **what: Any) -> dict[str, Any]:
        """Change a caption, from what it is now."""
        version = self.editor.states()["states"].get(name, {"version": 0})["version"]
        return self.editor.change({"id": name, "version": version, **what})

    def state(self, name: str = "0-0") -> dict[str, Any]:
        """What the page is told of a caption."""
        return self.editor.states()["states"][name]  # type: ignore[no-any-return]
