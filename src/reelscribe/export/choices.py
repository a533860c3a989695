"""Names of an export's choices. This module is fast to import, since the command line lists them in its help."""

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
"""How newlines in a caption are handled.

keep: they stay.
fold: each becomes a blank.
split: each line becomes a caption of its own.
"""

Placing = Literal["in-place", "symlink", "hardlink", "copy", "cut"]
"""How a video gets into the folder.

in-place: it does not; lists refer to it where it is.
symlink, hardlink: as a link.
copy: as a copy. A video at a URL is downloaded, and one in the row is written to a file.
cut: as copy, but a stretch becomes a file of its own.
"""
