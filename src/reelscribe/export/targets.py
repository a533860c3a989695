"""The table of trainers that data is exported for, and what each accepts. The documentation is generated from it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from reelscribe.export.choices import Newlines, Placing, TargetName
from reelscribe.export.items import (
    VIDEO_MARKS,
    of_cosmos,
    of_llama_factory,
    of_ms_swift,
    of_qwen_vl,
    of_simpletuner,
    of_table,
    of_tar,
    of_videofolder,
    path_and_caption,
)
from reelscribe.export.writers import CaptionsByName, Job, Lines, ListWriter, MakeRow, Tars, TextFiles, Writer
from reelscribe.video.headers import Header

ANYWHERE: Final[tuple[Placing, ...]] = ("in-place", "symlink", "hardlink", "copy", "cut")
"""Placings for lists with paths; videos stay where they are by default."""
LINKED: Final[tuple[Placing, ...]] = ("symlink", "in-place", "hardlink", "copy", "cut")
"""Placings for lists with paths; videos are linked into the folder by default."""
BESIDE: Final[tuple[Placing, ...]] = ("symlink", "hardlink", "copy", "cut")
"""Placings for trainers that need the videos in the folder."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """One form of data that a target reads."""

    files: str
    """The files that are written, in words for the documentation."""
    open: Callable[[Job], Writer]
    """Makes the writer of an export."""
    placings: tuple[Placing, ...] = BESIDE
    """How videos may be placed in the folder; the first is the default."""
    newlines: tuple[Newlines, ...] = ("keep", "fold")
    """How newlines may be handled; the first is the default."""
    several: bool = False
    """Whether a video may have several captions."""
    absolute: bool = False
    """Whether paths in lists are absolute. If not, they are relative to the folder, except for videos in place."""
    columns: tuple[str, ...] | None = None
    """Default of the columns that the user can choose; None if columns are fixed."""
    in_tars: bool = False
    """Whether videos go into tar files."""
    more: Callable[[Path], Mapping[str, str]] = field(default=lambda folder: {})
    """(folder) -> contents of settings files for the trainer, by name."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A condition of a trainer on clips."""

    words: str
    """What clips that break the rule are or have, in words that follow their number."""
    holds: Callable[[Header], bool]
    """(header of a clip) -> whether the clip meets the rule."""
    refuses: bool = False
    """Whether the trainer skips clips that break the rule. If not, it trims or resizes them."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A program that data is exported for."""

    title: str
    source: str
    """Where its rules come from, and when they were read; empty if there are no rules."""
    forms: Mapping[str, Form]
    """Forms by name; the first is the default."""
    says: str
    """A remark for the documentation."""
    max_tokens: int | None = None
    """Maximum tokens of a caption, as its text encoder allows; None for no limit."""
    rules: tuple[Rule, ...] = ()
    suffixes: frozenset[str] = frozenset()
    """Suffixes of videos that it reads; empty for all."""
    forbidden: tuple[str, ...] = ()
    """Strings that a caption must not contain."""
    stretches: bool = False
    """Whether it can refer to a part of a file."""
    by_name: bool = False
    """Whether it identifies a video by its file name alone."""


# Settings of trainers


def _musubi(folder: Path) -> dict[str, str]:
    """`dataset.toml` for the list of videos."""
    where = json.dumps(str((folder / "metadata.jsonl").absolute()), ensure_ascii=False)
    cache = json.dumps(str((folder / "cache").absolute()), ensure_ascii=False)
    return {"dataset.toml": _MUSUBI_TOML.format(where=f"video_jsonl_file = {where}", cache=cache)}


def _musubi_texts(folder: Path) -> dict[str, str]:
    """`dataset.toml` for texts beside videos."""
    where = json.dumps(str(folder.absolute()), ensure_ascii=False)
    cache = json.dumps(str((folder / "cache").absolute()), ensure_ascii=False)
    return {
        "dataset.toml": _MUSUBI_TOML.format(where=f'video_directory = {where}\ncaption_extension = ".txt"', cache=cache)
    }


_MUSUBI_TOML: Final = """\
[general]
resolution = [960, 544]  # width and height to train at
batch_size = 1
enable_bucket = true

[[datasets]]
{where}
cache_directory = {cache}
target_frames = [1, 25, 45]  # each 4n + 1
frame_extraction = "head"  # or chunk, slide, uniform, full
# source_fps = 30.0  # of the videos, if frames are to be taken at the rate of the model
"""


def _dataset_info(folder: Path) -> dict[str, str]:
    """LLaMA-Factory's `dataset_info.json`, which describes `data.json`."""
    columns = {"messages": "conversations", "videos": "videos"}
    info = {"reelscribe": {"file_name": "data.json", "formatting": "sharegpt", "columns": columns}}
    return {"dataset_info.json": json.dumps(info, indent=2) + "\n"}


# Forms that several targets have


def _lists(video: str, text: str, *kinds: str, placings: tuple[Placing, ...] = LINKED) -> dict[str, Form]:
    """A list `metadata.KIND` with a path and a caption, in several formats."""
    return {kind: _list(f"metadata.{kind}", path_and_caption(video, text), placings=placings) for kind in kinds}


def _list(name: str, make: MakeRow, **options: Any) -> Form:
    """A form with one list of samples."""
    return Form(files=f"`{name}`", open=lambda job: ListWriter(job, name, make), **options)


def _texts(**options: Any) -> Form:
    """The form with a text file beside each video."""
    return Form(files="`NAME.txt` beside each `NAME.mp4`", open=TextFiles, **options)


_FACTS: Final = "sources and documents, read June to September 2026"
"""Source of rules that were read in a trainer's repository."""
_AI_TOOLKIT_READS: Final = frozenset({".mp4", ".avi", ".mov", ".webm", ".mkv", ".wmv", ".m4v", ".flv"})
_VIDEOFOLDER_READS: Final = frozenset({".mkv", ".mp4", ".avi", ".mpeg", ".mov"})

TARGETS: Final[Mapping[TargetName, Target]] = {
    "musubi": Target(
        title="musubi-tuner",
        source=f"its {_FACTS}",
        says="`dataset.toml` names the list; set resolution and frames there. Frames are taken at 24 a second for "
        "HunyuanVideo, 16 for Wan, 30 for FramePack. Its cache is thought to know a video by its name alone, which was "
        "not checked: so links give each a name of its own.",
        forms={
            "jsonl": _list(
                "metadata.jsonl",
                path_and_caption("video_path", "caption"),
                placings=LINKED,
                absolute=True,
                more=_musubi,
            ),
            "txt": _texts(more=_musubi_texts),
        },
        rules=(Rule(words="have a number of frames that is not 4n + 1", holds=lambda header: header.frames % 4 == 1),),
        by_name=True,
    ),
    "diffusion-pipe": Target(
        title="diffusion-pipe",
        source=f"its {_FACTS}",
        says="A video may have several captions in the list. A video without one would be skipped.",
        forms={
            "json": Form(
                files="`captions.json`",
                open=lambda job: CaptionsByName(job, "captions.json"),
                newlines=("keep", "fold", "split"),
                several=True,
            ),
            "txt": _texts(),
        },
    ),
    "ai-toolkit": Target(
        title="ai-toolkit",
        source=f"its {_FACTS}",
        says="It replaces `[trigger]` by its own `trigger_word`; `--trigger` does so in the files. It parts captions "
        "at commas and joins them again.",
        forms={"txt": _texts(newlines=("fold", "keep"))},
        suffixes=_AI_TOOLKIT_READS,
    ),
    "ltx": Target(
        title="LTX-2 trainer",
        source=f"its {_FACTS}",
        says="Paths start from the list.",
        forms=_lists("video", "caption", "jsonl", "json", "csv"),
        max_tokens=1024,
        rules=(
            Rule(words="have a number of frames that is not 8n + 1", holds=lambda header: header.frames % 8 == 1),
            Rule(
                words="have sides that are no multiples of 32",
                holds=lambda header: header.width % 32 == 0 and header.height % 32 == 0,
            ),
        ),
    ),
    "finetrainers": Target(
        title="finetrainers 0.2",
        source=f"its {_FACTS}",
        says="In `prompts.txt` a caption is a line, so newlines become blanks.",
        forms={
            "lines": Form(files="`prompts.txt` and `videos.txt`", open=Lines, newlines=("fold",)),
            **_lists("file_name", "caption", "jsonl", "json", "csv", placings=BESIDE),
            "txt": _texts(newlines=("fold",)),
        },
    ),
    "diffsynth": Target(
        title="DiffSynth-Studio",
        source=f"its {_FACTS}",
        says="The folder is its `--dataset_base_path`.",
        forms=_lists("video", "prompt", "csv", "jsonl", "json"),
    ),
    "simpletuner": Target(
        title="SimpleTuner",
        source=f"its {_FACTS}",
        says="It parts a `.txt` at newlines into several captions (`caption_strategy` textfile): so newlines become "
        "blanks, unless they are to do that. The Parquet file has the columns filename, caption (a list), width and "
        "height.",
        forms={
            "txt": _texts(newlines=("fold", "split"), several=True),
            "parquet": _list("metadata.parquet", of_simpletuner, newlines=("keep", "fold", "split"), several=True),
        },
    ),
    "onetrainer": Target(
        title="OneTrainer",
        source="issues and excerpts alone, read June to September 2026",
        says="Each line is a caption, of which one is drawn an epoch.",
        forms={"txt": _texts(newlines=("fold", "split"), several=True)},
    ),
    "cosmos": Target(
        title="Cosmos SFT",
        source=f"its {_FACTS}",
        says="A stretch needs no cut: it is a window of its film, in frames of the file's average rate; `end_frame` is "
        "taken for the one behind the last, which no document says. `caption_json` is the caption of a task with a "
        "schema.",
        forms={
            "jsonl": _list("metadata.jsonl", of_cosmos, placings=ANYWHERE, absolute=True, several=True),
        },
        max_tokens=1024,
        rules=(
            Rule(words="are longer than 61 s", holds=lambda header: header.duration_seconds <= 61, refuses=True),
            Rule(words="have fewer than 61 frames", holds=lambda header: header.frames >= 61, refuses=True),
        ),
        stretches=True,
    ),
    "videofolder": Target(
        title="Hugging Face VideoFolder",
        source="the library `datasets` 5.2, which the tests read it with",
        says='`load_dataset("videofolder", data_dir=FOLDER)`; the caption is in the column `text`, and `--columns` '
        "adds others.",
        forms={kind: _list(f"metadata.{kind}", of_videofolder, columns=()) for kind in ("jsonl", "csv", "parquet")},
        suffixes=_VIDEOFOLDER_READS,
    ),
    "webdataset": Target(
        title="WebDataset",
        source="the library `webdataset` 1.0, which the tests read it with",
        says="`--clips-per-tar` says how many go into each. `KEY.json` has all captions and what `--columns` adds.",
        forms={
            "tar": Form(
                files="`00000.tar`, ... of `KEY.mp4`, `KEY.txt`, `KEY.json`",
                open=lambda job: Tars(job, of_tar),
                placings=("copy", "cut"),
                in_tars=True,
                newlines=("keep", "fold", "split"),
                several=True,
                columns=(),
            )
        },
    ),
    "llama-factory": Target(
        title="LLaMA-Factory",
        source="a fork of it, read June to September 2026",
        says="The folder is its `dataset_dir`, and the data set is called `reelscribe`. Several tasks become turns of "
        "one conversation.",
        forms={
            "json": _list(
                "data.json", of_llama_factory, placings=ANYWHERE, several=True, absolute=True, more=_dataset_info
            )
        },
        forbidden=VIDEO_MARKS,
    ),
    "ms-swift": Target(
        title="ms-swift 4",
        source=f"its {_FACTS}",
        says="Several tasks become turns of one conversation.",
        forms={"jsonl": _list("data.jsonl", of_ms_swift, placings=ANYWHERE, several=True, absolute=True)},
        forbidden=VIDEO_MARKS,
    ),
    "qwen-vl": Target(
        title="Qwen3-VL fine-tuning",
        source=f"its {_FACTS}",
        says="The folder is its `data_path`. Several tasks become turns of one conversation.",
        forms={kind: _list(f"data.{kind}", of_qwen_vl, placings=LINKED, several=True) for kind in ("json", "jsonl")},
        forbidden=VIDEO_MARKS,
    ),
    "table": Target(
        title="a table",
        source="",
        says="`--columns` chooses: `video`, `caption` (the first), `captions` (a list), `start`, `end`, the names of "
        "tasks, and all that `--where` knows.",
        forms={
            kind: _list(
                f"captions.{kind}",
                of_table,
                placings=ANYWHERE,
                newlines=("keep", "fold", "split"),
                several=True,
                absolute=True,
                columns=("video", "caption", "start", "end"),
            )
            for kind in ("jsonl", "csv", "parquet")
        },
        stretches=True,
    ),
}
"""Targets by their names for `--as`. WebVTT and SubRip have one file for each video: see `export.subtitles`."""
