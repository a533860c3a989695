"""What the tests of exports share: outputs without a run, and what came of one."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from clips import write_clip
from flow import put_rows

from reelscribe.cli import main
from reelscribe.export.checks import Summary
from reelscribe.export.folder import OWN
from reelscribe.export.options import ExportOptions
from reelscribe.export.trainers import export_data
from reelscribe.values import Row

TWO_LINES = "A dog runs.\nIt is brown."


def film(file: Path, frames: int = 65, **options: Any) -> Path:
    """Render a small video."""
    file.parent.mkdir(parents=True, exist_ok=True)
    return write_clip(file, range(frames), size=(96, 64), **options)


def row(video: Any, caption: Any, *, failure: str = "", **meta: Any) -> Row:
    """A captioned row."""
    return {"video": video, "caption": caption, "caption_failure": failure, "caption_meta": {"prompt": "What?", **meta}}


def two_films(folder: Path) -> Path:
    """An output of two films, one with a caption of two lines."""
    for name in ("a.mp4", "b.mp4"):
        film(folder / name)
    return put_rows(folder / "out.jsonl", [row("a.mp4", "A cat sits."), row("b.mp4", TWO_LINES)])


def exported(output: Path, target: Any, folder: str = "set", *, dry_run: bool = False, **options: Any) -> Summary:
    """Export to a folder beside the output."""
    return export_data(output, output.parent / folder, ExportOptions(target=target, **options), dry_run=dry_run)


def files_in(folder: Path) -> list[str]:
    """Names of all files but the export's own."""
    names = (item.relative_to(folder) for item in folder.rglob("*") if not item.is_dir())
    return sorted(str(name) for name in names if name.parts[0] != OWN)


def lines_of(file: Path) -> list[Row]:
    """Objects of JSON Lines."""
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def by_musubi(toml: Path) -> list[tuple[str, str]]:
    """Paths and captions, as musubi-tuner reads them from its TOML."""
    settings = tomllib.loads(toml.read_text("utf-8"))
    [data] = settings["datasets"]
    assert Path(data["cache_directory"]).is_absolute()
    assert all(count % 4 == 1 for count in data["target_frames"])
    assert settings["general"]["resolution"]
    if "video_jsonl_file" in data:
        entries = lines_of(Path(data["video_jsonl_file"]))
        return [(entry["video_path"], entry["caption"]) for entry in entries]
    videos = sorted(Path(data["video_directory"]).glob("*.mp4"))
    texts = (video.with_suffix(data["caption_extension"]).read_text("utf-8").strip() for video in videos)
    return [(str(video), text) for video, text in zip(videos, texts, strict=True)]


def by_sharegpt(folder: Path) -> list[tuple[list[str], Sequence[Mapping[str, str]]]]:
    """Videos and turns, as LLaMA-Factory finds them by `dataset_info.json`."""
    info = json.loads((folder / "dataset_info.json").read_text("utf-8"))["reelscribe"]
    assert info["formatting"] == "sharegpt"
    entries = json.loads((folder / info["file_name"]).read_text("utf-8"))
    columns = info["columns"]
    return [(entry[columns["videos"]], entry[columns["messages"]]) for entry in entries]


def typed(*words: Any) -> tuple[int, list[str]]:
    """Exit code and lines of a command."""
    result = CliRunner().invoke(main, ["export", *map(str, words)])
    return result.exit_code, result.stderr.splitlines()
