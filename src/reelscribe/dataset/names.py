"""Names of the files beside an output, such as its ledger and its list of failures."""

from pathlib import Path
from typing import Final

from reelscribe.dataset.formats import FORMATS

SHARD: Final = "{shard}"
_SUFFIXES: Final = sorted((suffix for item in FORMATS.values() for suffix in item.suffixes), key=len, reverse=True)


def beside(output: Path, kind: str) -> Path:
    """Path of a file that all outputs share which differ only in format or in shards.

    `a.KIND` for `a.jsonl`, `a.jsonl.gz`, `a-{shard}.parquet` and a folder `a`; `shards.KIND` for `{shard}.tar`.
    """
    stem, _ = _split(output.name)
    stem = stem.removesuffix(f"-{SHARD}").replace(SHARD, "") or "shards"
    return output.with_name(f"{stem}.{kind}")


def failures_of(output: Path) -> Path:
    """Path of the list of failures of an output. No other output shares it.

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
    """Path of the output with corrected captions: `a.edited.jsonl` for `a.jsonl`; None for shards."""
    stem, suffix = _split(output.name)
    return None if SHARD in stem else output.with_name(f"{stem}.edited{suffix}")


def is_beside(name: str) -> bool:
    """Whether a name is that of a file beside an output, and not of a data set although its suffix says a format."""
    return ".failures." in name or name.endswith((".edits.jsonl", ".run.json"))


def beside_in_0_1(output: Path, kind: str) -> Path:
    """Path of a file beside an output in release 0.1.0, which ignored dots, dashes and underscores around the stem."""
    stem, _ = _split(output.name.replace(SHARD, ""))
    return output.with_name(f"{stem.strip('-_.') or 'shards'}.{kind}")


def _split(name: str) -> tuple[str, str]:
    """Split a name into its stem and the suffix of its format; the suffix is empty if it has none."""
    suffix = next((suffix for suffix in _SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)], name[len(name) - len(suffix) :]
