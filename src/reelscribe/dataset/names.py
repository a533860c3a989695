"""What lies beside an output, by the output's name."""

from pathlib import Path
from typing import Final

from reelscribe.dataset.formats import FORMATS

SHARD: Final = "{shard}"
_SUFFIXES: Final = sorted((suffix for item in FORMATS.values() for suffix in item.suffixes), key=len, reverse=True)


def beside(output: Path, kind: str) -> Path:
    """A file for all outputs that differ in their format or in their shards alone.

    `a.KIND` for `a.jsonl`, `a.jsonl.gz`, `a-{shard}.parquet` and a folder `a`; `shards.KIND` for `{shard}.tar`.
    """
    stem, _ = _split(output.name)
    stem = stem.removesuffix(f"-{SHARD}").replace(SHARD, "") or "shards"
    return output.with_name(f"{stem}.{kind}")


def failures_of(output: Path) -> Path:
    """The list of failures of an output, which no other output shares.

    `a.failures.jsonl` for `a.jsonl`, but `a.parquet.failures.jsonl` for `a.parquet`, `a.data.failures.jsonl` for a
    folder `a`, and `a.jsonl.shards.failures.jsonl` for `a-{shard}.jsonl`: it must not look like one of the shards.
    """
    name = output.name
    stem, suffix = _split(name)
    if SHARD in name:
        name = stem.removesuffix(f"-{SHARD}").replace(SHARD, "") + f"{suffix or '.data'}.shards"
    elif not suffix:
        name = f"{name}.data"
    elif suffix == ".jsonl" and not stem.endswith((".data", ".shards", *_SUFFIXES)):
        name = stem
    return output.with_name(f"{name}.failures.jsonl")


def edited_of(output: Path) -> Path | None:
    """What the output is called with corrected captions: `a.edited.jsonl` for `a.jsonl`; None for shards."""
    stem, suffix = _split(output.name)
    return None if SHARD in stem else output.with_name(f"{stem}.edited{suffix}")


def is_beside(name: str) -> bool:
    """Whether a file is called as what lies beside an output, and is no data set though its name says a format."""
    return ".failures." in name or name.endswith((".edits.jsonl", ".run.json"))


def beside_in_0_1(output: Path, kind: str) -> Path:
    """What release 0.1.0 called a file, lists of failures among them. Dots and dashes made no difference."""
    stem, _ = _split(output.name.replace(SHARD, ""))
    return output.with_name(f"{stem.strip('-_.') or 'shards'}.{kind}")


def _split(name: str) -> tuple[str, str]:
    """A name without the suffix that tells its format, and that suffix."""
    suffix = next((suffix for suffix in _SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)], name[len(name) - len(suffix) :]
