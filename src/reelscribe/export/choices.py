"""What an export may be asked for, by name: light to load, since the command lists it in its help."""

from typing import Literal

TargetName = Literal[
    "musubi",
    "diffusion-pipe",
    "ai-toolkit",
    "ltx",
    "finetrainers",
    "diffsynth",
    "simpletuner",
    "onetrainer",
    "cosmos",
    "videofolder",
    "webdataset",
    "llama-factory",
    "ms-swift",
    "qwen-vl",
    "table",
]
"""Programs that data is exported for; `reelscribe.export.targets` has their rules."""

SubtitleFormat = Literal["vtt", "srt"]
"""WebVTT and SubRip."""

Newlines = Literal["keep", "fold", "split"]
"""What becomes of the newlines in a caption.

keep: they stay.
fold: each becomes a blank.
split: each line is a caption of its own.
"""

Placing = Literal["in-place", "symlink", "hardlink", "copy", "cut"]
"""How a video gets into the folder.

in-place: it does not; lists name it where it is.
symlink, hardlink: a link to it.
copy: a copy; what is at a URL or in the row is written to a file.
cut: as copy, and a stretch becomes a file of its own.
"""
